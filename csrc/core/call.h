// Call: the Team of one call, threads from the pool and scratch from the buffer cache, given back when it ends.
#pragma once

#include <new>
#include <vector>

#include "core/buffers.h"
#include "core/pool.h"
#include "kernels.h"

namespace innerloop {

struct Call : Team {
  Call() : Team{pool::threads(), run_on_pool, take_scratch} {}
  ~Call() {
    for (const Buffer& b : taken) buffers::release(b.data);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Room for n elements of type T until the call ends. Throws std::bad_alloc, also where n has no size in bytes.
  template <class T>
  T* array(int64_t n) {
    if (n < 0 || (uint64_t)n > SIZE_MAX / 4 / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(scratch((size_t)n * sizeof(T)));
  }

  // Work that is done piece by piece: after the first, each rewinds to where the first began and is handed the same
  // memory again. A later piece that asks for no more than the first cannot run out of it.
  size_t mark() const { return used; }
  void rewind(size_t to) { used = to; }

  // Splits [0, n) into one piece a thread, none smaller than `grain`, with boundaries on multiples of 64.
  template <class Piece>
  void split(int64_t n, int64_t grain, const Piece& piece) {
    int64_t tasks = n / (grain > 0 ? grain : 1);
    if (tasks > threads) tasks = threads;
    if (tasks < 1) tasks = 1;
    const int64_t step = ((n + tasks - 1) / tasks + 63) & ~int64_t(63);
    run((int)tasks, [&](int i) {
      const int64_t begin = i * step, end = begin + step < n ? begin + step : n;
      if (begin < end) piece(begin, end);
    });
  }

 private:
  struct Buffer {
    void* data;
    size_t bytes;
  };
  std::vector<Buffer> taken;
  size_t used = 0;  // of them, since the last rewind

  static void run_on_pool(Team&, int tasks, void (*task)(void*, int), void* argument) {
    pool::run(tasks, task, argument);
  }
  static void* take_scratch(Team& team, size_t bytes) {
    auto& call = static_cast<Call&>(team);
    if (call.used == call.taken.size()) call.taken.push_back({nullptr, 0});
    Buffer& b = call.taken[call.used];
    if (b.data == nullptr || b.bytes < bytes) {
      buffers::release(b.data);
      b = {nullptr, 0};
      b = {buffers::acquire(bytes), bytes};
    }
    call.used++;
    return b.data;
  }
};

}  // namespace innerloop
