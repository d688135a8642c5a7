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
    for (void* p : taken) buffers::release(p);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Room for n elements of type T until the call ends. Throws std::bad_alloc, also where n has no size in bytes.
  template <class T>
  T* array(int64_t n) {
    if (n < 0 || (uint64_t)n > SIZE_MAX / 4 / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(scratch((size_t)n * sizeof(T)));
  }

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
  std::vector<void*> taken;

  static void run_on_pool(Team&, int tasks, void (*task)(void*, int), void* argument) {
    pool::run(tasks, task, argument);
  }
  static void* take_scratch(Team& team, size_t bytes) {
    auto& call = static_cast<Call&>(team);
    call.taken.reserve(call.taken.size() + 1);
    void* p = buffers::acquire(bytes);
    call.taken.push_back(p);
    return p;
  }
};

}  // namespace innerloop
