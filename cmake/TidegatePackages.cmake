# What `cmake --install` puts where, by component, and the Debian packages that CPack makes of them
# (`make deb`): the verbs, a site, a coordinator, pretraining, the SDK.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # who installs has built what is installed
set(TIDEGATE_PACKAGE_CONTACT "Tidegate packagers <root@localhost>" CACHE STRING
    "Maintainer field of the Debian packages")

install(TARGETS tidegate RUNTIME DESTINATION bin COMPONENT cli)
install(TARGETS tidegate-onshore tidegate-trainer tidegate-gate tidegate-link tidegate-serve
        RUNTIME DESTINATION bin COMPONENT onshore)
install(TARGETS tidegate-coordinator RUNTIME DESTINATION bin COMPONENT coordinator)
install(TARGETS tidegate-pretrain tidegate-simulate RUNTIME DESTINATION bin COMPONENT pretrain)
install(FILES README.md SECURITY.md DESTINATION share/doc/tidegate COMPONENT cli)
install(DIRECTORY docs DESTINATION share/doc/tidegate COMPONENT cli)
install(DIRECTORY examples/pretrain DESTINATION share/doc/tidegate-pretrain/examples
        USE_SOURCE_PERMISSIONS COMPONENT pretrain)

# A unit names its program by its path, which the prefix decides; a package's is /usr wherever CPack
# collects it. The user of each shore comes with it.
function(tidegate_install_unit component unit user)
  file(STRINGS packaging/systemd/tidegate.sysusers.conf _user REGEX "^u ${user} ")
  file(WRITE ${CMAKE_BINARY_DIR}/packages/tidegate-${component}.conf "${_user}\n")
  install(FILES ${CMAKE_BINARY_DIR}/packages/tidegate-${component}.conf
          DESTINATION lib/sysusers.d COMPONENT ${component})
  install(CODE "
    file(READ \"${CMAKE_SOURCE_DIR}/packaging/systemd/${unit}\" _text)
    set(_prefix \"\${CMAKE_INSTALL_PREFIX}\")
    if(_prefix MATCHES \"/_CPack_Packages/\")
      set(_prefix /usr)
    endif()
    string(REPLACE \"/usr/local/bin\" \"\${_prefix}/bin\" _text \"\${_text}\")
    file(WRITE \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib/systemd/system/${unit}\" \"\${_text}\")"
    COMPONENT ${component})
endfunction()
tidegate_install_unit(onshore tidegate-onshore@.service tidegate)
tidegate_install_unit(coordinator tidegate-coordinator.service tidegate-coordinator)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME tidegate)
set(CPACK_PACKAGE_VENDOR Tidegate)
set(CPACK_PACKAGE_CONTACT "${TIDEGATE_PACKAGE_CONTACT}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_COMPONENTS_ALL cli onshore coordinator pretrain sdk)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(_same "tidegate (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_CLI_PACKAGE_NAME tidegate)
set(CPACK_COMPONENT_CLI_DESCRIPTION "Federated fine-tuning with data residency: command line
 The verbs of users, operators and auditors, and the documentation. Verbs that
 open records need tidegate-onshore, those of a coordinator tidegate-coordinator.")
set(CPACK_DEBIAN_ONSHORE_PACKAGE_NAME tidegate-onshore)
set(CPACK_DEBIAN_ONSHORE_PACKAGE_DEPENDS "${_same}, systemd")
set(CPACK_COMPONENT_ONSHORE_DESCRIPTION "Federated fine-tuning with data residency: a site
 Trains on private records behind process walls; the gate judges, budgets and
 logs every update that leaves. With the systemd unit of a site.")
set(CPACK_DEBIAN_COORDINATOR_PACKAGE_NAME tidegate-coordinator)
set(CPACK_DEBIAN_COORDINATOR_PACKAGE_DEPENDS "${_same}, systemd")
set(CPACK_COMPONENT_COORDINATOR_DESCRIPTION "Federated fine-tuning with data residency: the coordinator
 Runs rounds with sites, sums their sealed updates, publishes base models.")
set(CPACK_DEBIAN_PRETRAIN_PACKAGE_NAME tidegate-pretrain)
set(CPACK_DEBIAN_PRETRAIN_PACKAGE_DEPENDS "${_same}")
set(CPACK_DEBIAN_PRETRAIN_PACKAGE_RECOMMENDS "openmpi-bin")
set(CPACK_COMPONENT_PRETRAIN_DESCRIPTION "Federated fine-tuning with data residency: pretraining
 Trains base models from text on one rank or many (MPI, NCCL).")
set(CPACK_DEBIAN_SDK_PACKAGE_NAME libtidegate-dev)
set(CPACK_DEBIAN_SDK_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_SDK_DESCRIPTION "Federated fine-tuning with data residency: client library
 C ABI and C++ headers for programs that use a site or a coordinator.")
foreach(_component ONSHORE COORDINATOR)
  string(TOLOWER ${_component} _folder)
  set(CPACK_DEBIAN_${_component}_PACKAGE_CONTROL_EXTRA
      ${CMAKE_SOURCE_DIR}/packaging/deb/${_folder}/postinst
      ${CMAKE_SOURCE_DIR}/packaging/deb/${_folder}/prerm
      ${CMAKE_SOURCE_DIR}/packaging/deb/${_folder}/postrm)
endforeach()
include(CPack)
