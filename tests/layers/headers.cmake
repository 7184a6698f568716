# The target `curvature_headers`: each public header compiled alone, with warnings. Nearly all of the
# time would go into LibTorch's Tensor.h; the headers that include it, themselves or through others of
# ours, share it precompiled.
function(curvature_includes_tensor header result)
  file(STRINGS "${header}" lines REGEX "^#include <")
  set(found FALSE)
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^#include <(.*)>.*" "\\1" name "${line}")
    set(own "${PROJECT_SOURCE_DIR}/include/${name}")
    if(name STREQUAL "ATen/core/Tensor.h")
      set(found TRUE)
    elseif(EXISTS "${own}" AND NOT found)
      curvature_includes_tensor("${own}" found)
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

add_library(curvature_headers OBJECT EXCLUDE_FROM_ALL)
target_link_libraries(curvature_headers PRIVATE curvature::curvature curvature_private)
target_precompile_headers(curvature_headers PRIVATE <ATen/core/Tensor.h>)
target_compile_options(curvature_headers PRIVATE -O0)
set_target_properties(curvature_headers PROPERTIES UNITY_BUILD OFF)
get_target_property(headers curvature HEADER_SET)
foreach(header IN LISTS headers)
  string(REGEX REPLACE ".*/curvature/" "curvature/" name "${header}")
  set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include <${name}>\n")
  target_sources(curvature_headers PRIVATE "${source}")
  curvature_includes_tensor("${header}" includes_tensor)
  if(NOT includes_tensor)
    set_source_files_properties("${source}" PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
  endif()
endforeach()

add_test(NAME layers/headers
  COMMAND "${CMAKE_COMMAND}" --build "${PROJECT_BINARY_DIR}" --target curvature_headers)
set_tests_properties(layers/headers PROPERTIES
  TIMEOUT 600 PROCESSORS 2 FAIL_REGULAR_EXPRESSION "warning:")
