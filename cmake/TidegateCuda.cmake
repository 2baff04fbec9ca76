# CUDA, where it is installed: TIDEGATE_CUDA says that kernels are built for GPUs, TIDEGATE_CUDA_HEADERS
# that they can be built for the emulator of tests/kernels/simt. Nothing of it is needed to build or to
# run on a CPU, and no program links a driver or cuBLAS: both are loaded when a GPU is asked for.
set(TIDEGATE_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING
    "What GPUs kernels are compiled for, as CMAKE_CUDA_ARCHITECTURES; the last one's PTX serves later ones")

set(TIDEGATE_CUDA OFF)
find_package(CUDAToolkit 13 QUIET)
set(TIDEGATE_CUDA_HEADERS ${CUDAToolkit_FOUND})
if(NOT CUDAToolkit_FOUND)
  message(WARNING "No CUDA toolkit (13 or later): built without kernels for GPUs, and their tests under "
                  "the emulator are left out.")
  return()
endif()
if(TIDEGATE_SANITIZE)
  message(STATUS "CUDA: kernels run under the emulator alone in a build with sanitizers")
  return()
endif()

# nvcc may be installed but not on the PATH.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND CUDAToolkit_NVCC_EXECUTABLE)
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(WARNING "No nvcc: built without kernels for GPUs.")
  return()
endif()
set(CMAKE_CUDA_ARCHITECTURES ${TIDEGATE_CUDA_ARCHITECTURES})
enable_language(CUDA)
# CMake before 3.25.2 does not know that nvcc has C++20.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(TIDEGATE_CUDA ON)
message(STATUS "CUDA: kernels for ${TIDEGATE_CUDA_ARCHITECTURES} by nvcc ${CMAKE_CUDA_COMPILER_VERSION}")

# Warnings are errors, a launch without a stream and registers that spill among them.
function(tidegate_cuda_sources target)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/src)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings,default-stream-launch;-Xptxas=--warn-on-spills,--warning-as-error;-lineinfo>")
endfunction()
