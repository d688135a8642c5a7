// What a kernel is to its body. Bodies are functions for the host, too: tests/cpp/cuda_test.cpp runs one for each
// thread of a grid, and holds what they wrote against the CPU's kernels.
#pragma once

#include <stdint.h>

namespace innerloop::INNERLOOP_ISA {

// One of the threads that a body is run by.
struct Thread {
  int64_t index, count;
};

#ifdef __CUDACC__
__device__ __forceinline__ Thread this_thread() {
  return {(int64_t)blockIdx.x * blockDim.x + threadIdx.x, (int64_t)gridDim.x * blockDim.x};
}
#endif

}  // namespace innerloop::INNERLOOP_ISA
