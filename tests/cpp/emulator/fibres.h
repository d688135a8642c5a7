// Runs the threads of a grid on the host. Each is a fibre: it has a stack of its own as soon as it waits for others.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace innerloop::emulator {

constexpr int kMostLanes = 1024;                    // of a block
constexpr size_t kMostShared = (227 << 10) - 1024;  // sm_90's for a block, less what reduce() keeps and the system's

// Where a thread is, and its block's memory.
struct Place {
  int64_t block, blocks;
  int lane;
  char *shared, *kept;
};

struct Launch {
  void (*run_thread)(const void* body, const Place&);
  const void* body;
  int64_t blocks;
  int lanes;
  size_t shared, kept;  // bytes
};

// Runs one block after another, and of a block, one warp after another as far as it goes, its lanes and the warps in
// orders that change from wait to wait. Memory of a block begins as NaNs. What would hang a GPU, or is written beside a
// block's memory, ends the program with a message. -> cudaError_t
int run(const Launch&);
int64_t launch_count();  // so far

// For the thread that runs now: waits for all of its block.
void sync();
// For the thread that runs now: the `bytes` that lane ^ mask of its warp gives.
uint64_t shuffle_xor(uint64_t value, int mask, int bytes);

}  // namespace innerloop::emulator
