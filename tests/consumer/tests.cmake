# The two ways to use curvature from another project, each built and run from outside.
set(consumer_build "${CMAKE_CURRENT_BINARY_DIR}/consumer")
set(consumer_prefix "${consumer_build}/prefix")

function(curvature_add_consumer_test name)
  add_test(NAME consumer/${name}
    COMMAND "${CMAKE_CTEST_COMMAND}"
      --build-and-test "${CMAKE_CURRENT_SOURCE_DIR}/consumer" "${consumer_build}/${name}"
      --build-generator "${CMAKE_GENERATOR}" --build-makeprogram "${CMAKE_MAKE_PROGRAM}"
      --build-noclean
      --build-options "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
        "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}" ${ARGN}
      --test-command "${CMAKE_CTEST_COMMAND}" --output-on-failure --no-tests=error)
  set_tests_properties(consumer/${name} PROPERTIES TIMEOUT 600 PROCESSORS 2)
endfunction()

# 1. Installed, then found by find_package.
add_test(NAME consumer/install
  COMMAND "${CMAKE_COMMAND}" --install "${PROJECT_BINARY_DIR}" --prefix "${consumer_prefix}")
set_tests_properties(consumer/install PROPERTIES FIXTURES_SETUP curvature_installed)
curvature_add_consumer_test(package "-DCMAKE_PREFIX_PATH=${consumer_prefix}")
set_tests_properties(consumer/package PROPERTIES FIXTURES_REQUIRED curvature_installed)
if(TARGET curvature_tool)
  add_test(NAME consumer/tool
    COMMAND "${consumer_prefix}/${CMAKE_INSTALL_BINDIR}/curvature" --version)
  set_tests_properties(consumer/tool PROPERTIES FIXTURES_REQUIRED curvature_installed)
endif()

# 2. A subproject, by FetchContent. The launcher saves compiling most of the library again.
set(curvature_objects "${PROJECT_BINARY_DIR}/src/CMakeFiles/curvature.dir")
configure_file(consumer/reuse_objects.sh.in consumer/reuse_objects.sh @ONLY
  FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
curvature_add_consumer_test(subproject
  "-DCURVATURE_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "-DTorch_DIR=${Torch_DIR}"
  "-DCMAKE_UNITY_BUILD=${CMAKE_UNITY_BUILD}"
  "-DCMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CURRENT_BINARY_DIR}/consumer/reuse_objects.sh")
