// How a body is launched over a grid. tests/cpp/emulator has a file of this name, which runs it on the host.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/list.h"
#include "cuda/threads.h"

namespace innerloop::cuda {

constexpr int kBlock = 256;  // threads, where nothing asks for another number

// As many threads as there are pieces, up to 16 blocks for each multiprocessor, twice what it holds at once: beyond, a
// thread takes several pieces.
inline int64_t blocks_for(const Queue& queue, int64_t pieces) {
  const int64_t blocks = (pieces + kBlock - 1) / kBlock, most = (int64_t)queue.processors * 16;
  return blocks < most ? blocks : most;
}

template <int Threads, class Body>
__global__ void __launch_bounds__(Threads) run_body(const __grid_constant__ Body body) {
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char kept[kReduceBytes];
  body(Block{(int64_t)blockIdx.x, (int64_t)gridDim.x, (int)threadIdx.x, Threads, shared, kept});
}

// Queues body(block) for every thread of so many blocks; `shared` bytes beyond 48 KB are asked for. -> cudaError_t
template <int Threads, class Body>
int launch(const Queue& queue, int64_t blocks, const Body& body, size_t shared = 0) {
  if (blocks == 0) return cudaSuccess;
  if (shared > 48 * 1024) {
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(run_body<Threads, Body>, most, (int)shared);
    if (error != cudaSuccess) return error;
  }
  run_body<Threads><<<(unsigned)blocks, Threads, shared, (cudaStream_t)queue.stream>>>(body);
  return cudaGetLastError();
}

// Device memory of one call, in the order of its stream: a CUDA graph can hold it. Null, with an error, where there is
// not enough.
class Scratch {
 public:
  Scratch(const Queue& queue, size_t bytes) : stream((cudaStream_t)queue.stream) {
    error = bytes == 0 ? cudaSuccess : cudaMallocAsync(&data, bytes, stream);
  }
  ~Scratch() {
    if (data != nullptr) cudaFreeAsync(data, stream);
  }
  Scratch(const Scratch&) = delete;

  void* data = nullptr;
  int error;

 private:
  cudaStream_t stream;
};

}  // namespace innerloop::cuda
