// How a body is run by every thread of a grid. tests/cpp/emulator has a file of this name, which does it on the host.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/list.h"
#include "cuda/threads.h"

namespace innerloop::cuda {

template <int Threads, int Together, class Body>
__global__ void __launch_bounds__(Threads, Together) run_body(const __grid_constant__ Body body) {
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char kept[kReduceBytes];
  body(Block{(int64_t)blockIdx.x, (int64_t)gridDim.x, (int)threadIdx.x, Threads, shared, kept});
}

// Queues body(block) for every thread of so many blocks; `shared` bytes beyond kPlainShared are asked for: always all
// that there is, so that no other thread of the process takes back what this one needs. A thread has so few
// registers that `Together` blocks fit a processor; 0: what the compiler likes. -> cudaError_t
template <int Threads, int Together = 0, class Body>
int launch(const Queue& queue, int64_t blocks, const Body& body, size_t shared = 0) {
  if (blocks == 0) return cudaSuccess;
  if (shared > kPlainShared) {
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(run_body<Threads, Together, Body>, most, queue.shared_memory);
    if (error != cudaSuccess) return error;
  }
  run_body<Threads, Together><<<(unsigned)blocks, Threads, shared, (cudaStream_t)queue.stream>>>(body);
  return cudaGetLastError();
}

}  // namespace innerloop::cuda
