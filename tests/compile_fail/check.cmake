# Compiles one case of a file and compares the outcome with EXPECTED (empty: it compiles).
set(ENV{LC_ALL} C)
execute_process(
  COMMAND ${COMPILER} -std=c++20 -fsyntax-only -I${ROOT} -I${ROOT}/src -D${CASE}
          ${ROOT}/tests/compile_fail/${FILE}
  RESULT_VARIABLE result
  ERROR_VARIABLE errors)
if(EXPECTED STREQUAL "")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "the control does not compile:\n${errors}")
  endif()
  return()
endif()
if(result EQUAL 0)
  message(FATAL_ERROR "${CASE} compiles, and must not")
endif()
string(FIND "${errors}" "${EXPECTED}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "${CASE} fails, but not with \"${EXPECTED}\":\n${errors}")
endif()
