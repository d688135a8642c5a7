// How bodies are launched, and what a call may take of the device.
#pragma once

#include "cuda/grid.h"
#include "cuda/storage.h"

namespace innerloop::cuda {

constexpr int kBlock = 256;  // threads, where nothing asks for another number

// As many threads as there are pieces, up to 16 blocks for each multiprocessor, twice what it holds at once: beyond, a
// thread takes several pieces.
inline int64_t blocks_for(const Queue& queue, int64_t pieces) {
  const int64_t blocks = (pieces + kBlock - 1) / kBlock, most = (int64_t)queue.processors * 16;
  return blocks < most ? blocks : most;
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

// f(S()) for the S that a floating dtype is stored in.
template <class F>
int with_storage(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float());
    case Dtype::f64:
      return f(double());
    case Dtype::bf16:
      return f(Bfloat16());
    case Dtype::f16:
      return f(Float16());
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace innerloop::cuda
