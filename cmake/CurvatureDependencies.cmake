# Everything curvature is built from. A static library passes its dependencies on to whoever links
# it, so the imported targets must be visible to a parent project.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)

# Torch's own scripts warn about parts we do not use (kineto, MKL); nothing here can act on that.
set(curvature_message_level "${CMAKE_MESSAGE_LOG_LEVEL}")
set(CMAKE_MESSAGE_LOG_LEVEL ERROR)
find_package(Torch 2.11 REQUIRED)
set(CMAKE_MESSAGE_LOG_LEVEL "${curvature_message_level}")

find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(ZLIB REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)  # without, loops of at::parallel_for are serial
find_path(CURVATURE_LIBZIP_INCLUDE_DIR zip.h REQUIRED)
find_library(CURVATURE_LIBZIP_LIBRARY zip REQUIRED)
mark_as_advanced(CURVATURE_LIBZIP_INCLUDE_DIR CURVATURE_LIBZIP_LIBRARY)
if(CURVATURE_BUILD_TOOL)
  find_package(CLI11 2.1 REQUIRED)
endif()
unset(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)

# Programs allocate by tcmalloc where it is installed (-D CURVATURE_TCMALLOC_LIBRARY=OFF: not): kept
# graphs between passing tensors leave holes in glibc's heap, or pages to be cleared anew at every
# product. Elsewhere glibc keeps its pages at least. Sanitizers bring an allocator of their own.
add_library(curvature_allocator INTERFACE)
find_library(CURVATURE_TCMALLOC_LIBRARY tcmalloc_minimal)
mark_as_advanced(CURVATURE_TCMALLOC_LIBRARY)
if(CURVATURE_TCMALLOC_LIBRARY AND NOT CURVATURE_SANITIZE)
  target_link_libraries(curvature_allocator INTERFACE
    "-Wl,--push-state,--no-as-needed,${CURVATURE_TCMALLOC_LIBRARY},--pop-state")
elseif(NOT CURVATURE_SANITIZE)
  target_sources(curvature_allocator INTERFACE "${CMAKE_CURRENT_LIST_DIR}/keep_pages.cpp")
endif()

# Where ccache is installed, nothing is compiled twice, in whichever folder (an empty
# CMAKE_CXX_COMPILER_LAUNCHER: not so). It takes precompiled headers only with these settings.
find_program(CURVATURE_CCACHE ccache)
mark_as_advanced(CURVATURE_CCACHE)
if(PROJECT_IS_TOP_LEVEL AND CURVATURE_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${CURVATURE_CCACHE}")
endif()
