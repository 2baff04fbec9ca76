# tidegate_library(), tidegate_program(), tidegate_tests(): targets whose DEPS are held to the
# layer table (cmake/layers.txt).
include(GoogleTest)

add_library(tidegate_options INTERFACE)
# -Wno-restrict: g++ 12 reports it falsely in std::string (GCC bug 105651).
# nvcc has options of its own (TidegateCuda).
set(_options -Wall -Wextra -Wshadow -Werror -Wno-restrict -fno-math-errno -march=x86-64-v2 -g1)
target_compile_options(tidegate_options INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${_options}>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # For the fuzzers alone: warnings are judged by g++.
  target_compile_options(tidegate_options INTERFACE -Wno-error -Wno-unknown-warning-option)
endif()
target_include_directories(tidegate_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/src)
target_link_options(tidegate_options INTERFACE -Wl,-z,relro,-z,now)
# A hundred programs are linked: gold (binutils) halves that.
find_program(TIDEGATE_GOLD ld.gold)
if(TIDEGATE_GOLD)
  target_link_options(tidegate_options INTERFACE -fuse-ld=gold)
endif()

# Where no numbers are crunched a build's time counts for more: flags and pages at -O1 (and what a
# program has of its own: its flags), who waits for sockets and disks at -O2. CI builds all of it on two
# cores.
set(TIDEGATE_O1_MODULES src/admin src/chart src/cli src/onshore/trainer src/serve src/web)
set(TIDEGATE_O2_MODULES src/airgap src/audit src/federation/job src/federation/server src/finetune
    src/offshore src/onshore/api src/onshore/gate_process src/onshore/link src/onshore/supervisor
    src/runlog src/sdk)
function(tidegate_optimize target module)
  foreach(level O1 O2)
    if(module IN_LIST TIDEGATE_${level}_MODULES)
      target_compile_options(${target} PRIVATE "$<$<CONFIG:Release>:-${level}>")
    endif()
  endforeach()
endfunction()
# For a build from nothing, as CI's: headers that cost seconds each are compiled once a target. (A
# compiler cache does better where it remembers, and remembers nothing of these.)
option(TIDEGATE_PRECOMPILE "Precompile the headers of CLI11, JSON and GoogleTest" OFF)
function(tidegate_precompile target)
  if(TIDEGATE_PRECOMPILE)
    list(TRANSFORM ARGN REPLACE "(.+)" "$<$<COMPILE_LANGUAGE:CXX>:<\\1$<ANGLE-R>>")
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()
# How many times longer a test may take: instrumented code does.
set(TIDEGATE_SLOWER 1)
if(TIDEGATE_SANITIZE)
  set(TIDEGATE_SLOWER 6)
  # vptr checks call pipe(), which the process walls refuse. In instrumented code g++ takes moved
  # variants for uninitialized; builds without sanitizers keep that warning.
  target_compile_options(tidegate_options INTERFACE -fsanitize=${TIDEGATE_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer
                         -Wno-maybe-uninitialized)
  if(TIDEGATE_SANITIZE MATCHES "undefined")
    target_compile_options(tidegate_options INTERFACE -fno-sanitize=vptr)
  endif()
  target_link_options(tidegate_options INTERFACE -fsanitize=${TIDEGATE_SANITIZE})
  add_library(tidegate_sanitizer_defaults OBJECT ${CMAKE_SOURCE_DIR}/cmake/sanitizer_defaults.cc)
endif()
# Each program needs the object itself: an object of a static library that no one calls is left out.
function(tidegate_sanitize_program target)
  if(TIDEGATE_SANITIZE)
    target_link_libraries(${target} PRIVATE tidegate_sanitizer_defaults)
  endif()
endfunction()

file(STRINGS ${CMAKE_SOURCE_DIR}/cmake/layers.txt _layer_rows REGEX "^[a-z]")
set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${CMAKE_SOURCE_DIR}/cmake/layers.txt)
set(TIDEGATE_MODULES "")
foreach(_row IN LISTS _layer_rows)
  string(REGEX MATCH "^([a-z_/]+) *:(.*)$" _ "${_row}")
  set(_module ${CMAKE_MATCH_1})
  string(REGEX REPLACE "\\|.*" "" _deps "${CMAKE_MATCH_2}")
  string(STRIP "${_deps}" _deps)
  separate_arguments(_deps)
  list(APPEND TIDEGATE_MODULES ${_module})
  set(TIDEGATE_MAY_${_module} "${_deps}")
endforeach()

function(tidegate_add_modules)
  foreach(module IN LISTS TIDEGATE_MODULES)
    if(EXISTS ${CMAKE_SOURCE_DIR}/${module}/CMakeLists.txt)
      add_subdirectory(${CMAKE_SOURCE_DIR}/${module})
    endif()
  endforeach()
endfunction()

# src/federation/shared -> tg_federation_shared
function(tidegate_target_name module out)
  string(REGEX REPLACE "^src/" "" name "${module}")
  string(REPLACE "/" "_" name "${name}")
  set(${out} tg_${name} PARENT_SCOPE)
endfunction()

function(tidegate_link_modules target scope own)
  foreach(dep IN LISTS ARGN)
    if(NOT dep IN_LIST TIDEGATE_MODULES)
      message(FATAL_ERROR "${target}: '${dep}' is not a module of cmake/layers.txt")
    endif()
    if(own AND NOT dep STREQUAL own AND NOT dep IN_LIST TIDEGATE_MAY_${own})
      message(FATAL_ERROR "${own} may not depend on ${dep} (cmake/layers.txt)")
    endif()
    tidegate_target_name(${dep} dep_target)
    target_link_libraries(${target} ${scope} ${dep_target})
  endforeach()
endfunction()

# tidegate_library(SOURCES a.cc ... DEPS src/base ... LINK OpenSSL::Crypto ...): the library of the
# module whose directory this is. DEPS are modules, LINK are third-party targets (private).
function(tidegate_library)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LINK;PUBLIC_LINK" ${ARGN})
  file(RELATIVE_PATH module ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  tidegate_target_name(${module} target)
  add_library(${target} STATIC ${ARG_SOURCES})
  tidegate_optimize(${target} ${module})
  target_link_libraries(${target} PUBLIC tidegate_options ${ARG_PUBLIC_LINK} PRIVATE ${ARG_LINK})
  tidegate_link_modules(${target} PUBLIC ${module} ${ARG_DEPS})
  if("CLI11::CLI11" IN_LIST ARG_PUBLIC_LINK)
    tidegate_precompile(${target} CLI/CLI.hpp nlohmann/json.hpp)
  endif()
endfunction()

# tidegate_program(tidegate-gate SOURCES main.cc DEPS ...): an executable of this module.
function(tidegate_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LINK" ${ARGN})
  file(RELATIVE_PATH module ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE "$<$<CONFIG:Release>:-O1>")
  tidegate_target_name(${module} own_library)
  if(TARGET ${own_library})
    target_link_libraries(${name} PRIVATE ${own_library})
  endif()
  target_link_libraries(${name} PRIVATE tidegate_options ${ARG_LINK})
  tidegate_sanitize_program(${name})
  tidegate_link_modules(${name} PRIVATE ${module} ${ARG_DEPS})
endfunction()

# tidegate_tests(DEPS ... [LINK ...] [SOURCES helper.cc ...]): one program of every *_test.cc in
# this directory, each test registered with CTest. TIMEOUT is seconds for one test. TOGETHER is a
# pattern of tests that are one for CTest: what is dear to start is started once for all of them.
function(tidegate_tests)
  cmake_parse_arguments(ARG "" "TIMEOUT;NAME;TOGETHER" "SOURCES;DEPS;LINK;LABELS" ${ARGN})
  file(RELATIVE_PATH dir ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  string(REPLACE "/" "_" target "${dir}")
  set(target ${target}_test)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  add_executable(${target} ${sources} ${ARG_SOURCES})
  target_link_libraries(${target} PRIVATE tidegate_options GTest::gtest GTest::gmock
                        GTest::gtest_main ${ARG_LINK})
  tidegate_sanitize_program(${target})
  target_compile_definitions(${target} PRIVATE
    TIDEGATE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" TIDEGATE_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  tidegate_link_modules(${target} PRIVATE "" ${ARG_DEPS})
  list(LENGTH sources _count)
  if(_count GREATER 3)
    tidegate_precompile(${target} gmock/gmock.h gtest/gtest.h)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * ${TIDEGATE_SLOWER}")
  set(_apart)
  if(ARG_TOGETHER)
    set(_apart TEST_FILTER "-${ARG_TOGETHER}")
    add_test(NAME "${dir}/${ARG_TOGETHER}" COMMAND ${target} --gtest_filter=${ARG_TOGETHER})
    set_tests_properties("${dir}/${ARG_TOGETHER}" PROPERTIES TIMEOUT ${ARG_TIMEOUT}
                         ENVIRONMENT GOMP_SPINCOUNT=2000 SKIP_REGULAR_EXPRESSION "SKIPPED"
                         LABELS "${ARG_LABELS}")
  endif()
  gtest_discover_tests(${target} TEST_PREFIX "${dir}/" DISCOVERY_TIMEOUT 60 ${_apart}
                       # As src/base/program.h: tests run beside each other. LABELS is last, as an
                       # empty one is no argument at all.
                       PROPERTIES TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT GOMP_SPINCOUNT=2000
                       LABELS "${ARG_LABELS}")
endfunction()
