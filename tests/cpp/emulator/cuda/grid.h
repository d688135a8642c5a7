// csrc/cuda/grid.h's part on the host: a launch runs every thread of every block before it returns.
#pragma once

#include <cuda_runtime_api.h>
#include <string.h>

#include <type_traits>

#include "cuda/list.h"
#include "cuda/threads.h"
#include "fibres.h"

namespace innerloop::cuda {

HD void Block::sync() const { emulator::sync(); }
HD void Block::sync_warp() const { emulator::shuffle_xor(0, 1, 4); }

template <class T>
HD T Block::shuffle_xor(T value, int mask) const {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "what a GPU shuffles");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = emulator::shuffle_xor(bits, mask, sizeof value);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <int Threads, int Together = 0, class Body>
int launch(const Queue& queue, int64_t blocks, const Body& body, size_t shared = 0) {
  static_assert(Threads % kWarp == 0 && Threads > 0 && Threads <= emulator::kMostLanes, "whole warps");
  static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= 32764, "what can be a kernel's argument");
  const auto run_thread = [](const void* b, const emulator::Place& at) {
    (*static_cast<const Body*>(b))(Block{at.block, at.blocks, at.lane, Threads, at.shared, at.kept});
  };
  if (shared > kPlainShared && shared > (size_t)queue.shared_memory) return cudaErrorInvalidValue;
  return emulator::run({run_thread, &body, blocks, Threads, shared, kReduceBytes});
}

}  // namespace innerloop::cuda
