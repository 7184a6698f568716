# Flags for our own code only: nothing here reaches a consumer.
add_library(curvature_private INTERFACE)
target_compile_options(curvature_private INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  $<$<BOOL:${CURVATURE_WARNINGS_AS_ERRORS}>:-Werror>)
# The layout of LibTorch's classes depends on NDEBUG, and its wheels are built with it.
target_compile_definitions(curvature_private INTERFACE NDEBUG)
if(CURVATURE_SANITIZE)
  target_compile_options(curvature_private INTERFACE
    -fsanitize=${CURVATURE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(curvature_private INTERFACE -fsanitize=${CURVATURE_SANITIZE})
endif()
