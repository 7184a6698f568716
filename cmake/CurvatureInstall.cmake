# `cmake --install`: the library with its headers, the tool, and a package for find_package(curvature).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(curvature_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/curvature")
set(curvature_installed curvature)
if(TARGET curvature_tool)
  list(APPEND curvature_installed curvature_tool)
endif()

# Installed programs find LibTorch where this build found it; CMake itself leaves out folders inside the
# project, where bootstrap.sh puts LibTorch.
file(RELATIVE_PATH curvature_lib_from_bin
     "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
set_target_properties(${curvature_installed} PROPERTIES
  INSTALL_RPATH "$ORIGIN/${curvature_lib_from_bin};${TORCH_INSTALL_PREFIX}/lib"
  INSTALL_RPATH_USE_LINK_PATH ON)

install(TARGETS curvature EXPORT curvature_targets FILE_SET HEADERS)
if(TARGET curvature_tool)
  install(TARGETS curvature_tool)
endif()
install(EXPORT curvature_targets
  DESTINATION "${curvature_package_dir}"
  FILE curvatureTargets.cmake
  NAMESPACE curvature::)

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/curvatureConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/curvatureConfig.cmake"
  INSTALL_DESTINATION "${curvature_package_dir}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/curvatureConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/curvatureConfig.cmake"
              "${PROJECT_BINARY_DIR}/curvatureConfigVersion.cmake"
  DESTINATION "${curvature_package_dir}")
