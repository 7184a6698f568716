# Flags for our own code only: nothing here reaches a consumer. In a batch of files a name may shadow
# another file's.
add_library(curvature_private INTERFACE)
target_compile_options(curvature_private INTERFACE
  -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual
  $<$<NOT:$<BOOL:${CMAKE_UNITY_BUILD}>>:-Wshadow>
  $<$<BOOL:${CURVATURE_WARNINGS_AS_ERRORS}>:-Werror>)
# The layout of LibTorch's classes depends on NDEBUG, and its wheels are built with it.
target_compile_definitions(curvature_private INTERFACE NDEBUG)
# LibTorch brings fmt's headers. Header-only, every file would compile the formatting once more, which
# is half of its time; so core/format.cpp does it for all, in a namespace that no libfmt shares.
target_compile_definitions(curvature_private INTERFACE
  "FMT_BEGIN_NAMESPACE=namespace fmt { inline namespace curvature {" "FMT_END_NAMESPACE=}}")
if(CURVATURE_SANITIZE)
  target_compile_options(curvature_private INTERFACE
    -fsanitize=${CURVATURE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(curvature_private INTERFACE -fsanitize=${CURVATURE_SANITIZE})
endif()

# For tests, tool and examples: to optimise what runs once takes longer than to run it; what takes long
# is in the library. With the checks of sanitizers inside, even -O1 is most of the time.
set(curvature_quick_to_compile $<$<CONFIG:Release>:-O1>)
if(CURVATURE_SANITIZE)
  set(curvature_quick_to_compile -O0)
endif()
