// How a body is launched over a grid.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/list.h"
#include "cuda/threads.h"

namespace innerloop::cuda {

constexpr int kBlock = 256;  // threads

// As many threads as there are pieces, up to 16 blocks for each multiprocessor, twice what it holds at once: beyond, a
// thread takes several pieces.
inline int blocks_for(const Queue& queue, int64_t pieces) {
  const int64_t blocks = (pieces + kBlock - 1) / kBlock, most = (int64_t)queue.processors * 16;
  return (int)(blocks < most ? blocks : most);
}

}  // namespace innerloop::cuda
