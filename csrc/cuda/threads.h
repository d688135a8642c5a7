// What a kernel is to its body. Bodies are functions for the host, too: tests/cpp/emulator runs every thread of every
// block of a launch there, each as a fibre of its own, so that no GPU is needed to see what a kernel computes.
#pragma once

#include <stdint.h>

#include "cuda/list.h"
#include "simd/scalar.h"

namespace innerloop::INNERLOOP_ISA {

// One of the threads that a body is run by, if they need nothing of each other.
struct Thread {
  int64_t index, count;
};

constexpr int kWarp = 32;  // threads that move together

// One thread of a block of `lanes`, a multiple of kWarp; and the block among those of the grid. All of a block's
// threads must reach each sync and each reduce.
struct Block {
  int64_t index, count;
  int lane, lanes;
  char* shared;  // dynamic shared memory, at a multiple of 16 bytes
  char* kept;    // cuda::kReduceBytes more

  HD Thread thread() const { return {index * lanes + lane, count * lanes}; }

  HD void sync() const;
  HD void sync_warp() const;  // the same of the threads of a warp
  // The value of the lane `lane ^ mask` of the same warp, for 4 or 8 bytes; all of the warp's threads take part.
  template <class T>
  HD T shuffle_xor(T value, int mask) const;

  // op over the values of a block, the same in every thread: over each warp by halves, then over the warps in order.
  template <class T, class Op>
  HD T reduce(T value, const Op& op) const {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) value = op(value, shuffle_xor(value, mask));
    if (lanes == kWarp) return value;
    T* of_warp = reinterpret_cast<T*>(kept);
    if (lane % kWarp == 0) of_warp[lane / kWarp] = value;
    sync();
    value = of_warp[0];
    for (int w = 1; w < lanes / kWarp; w++) value = op(value, of_warp[w]);
    sync();  // before the next reduce writes
    return value;
  }
};

#ifdef __CUDACC__
HD void Block::sync() const {
#ifdef __CUDA_ARCH__
  __syncthreads();
#endif
}
HD void Block::sync_warp() const {
#ifdef __CUDA_ARCH__
  __syncwarp();
#endif
}
template <class T>
HD T Block::shuffle_xor(T value, int mask) const {
#ifdef __CUDA_ARCH__
  return __shfl_xor_sync(0xffffffffu, value, mask);
#else
  return value;
#endif
}
#endif

}  // namespace innerloop::INNERLOOP_ISA
