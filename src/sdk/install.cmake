# What a client's own build finds: find_package(Tidegate) and pkg-config tidegate.
include(CMakePackageConfigHelpers)
install(TARGETS tidegate_sdk EXPORT Tidegate COMPONENT sdk
        LIBRARY DESTINATION lib)
install(DIRECTORY include/tidegate DESTINATION include COMPONENT sdk)
install(EXPORT Tidegate NAMESPACE Tidegate:: FILE TidegateConfig.cmake COMPONENT sdk
        DESTINATION lib/cmake/Tidegate)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/TidegateConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
configure_file(tidegate.pc.in ${CMAKE_CURRENT_BINARY_DIR}/tidegate.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/TidegateConfigVersion.cmake COMPONENT sdk
        DESTINATION lib/cmake/Tidegate)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tidegate.pc COMPONENT sdk
        DESTINATION lib/pkgconfig)
