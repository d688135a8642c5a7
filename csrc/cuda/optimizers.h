// The body of the optimizers' kernels: one launch steps many arrays.
#pragma once

#include "cuda/list.h"
#include "cuda/storage.h"
#include "cuda/threads.h"
#include "rules/optimizers.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kTile = 1024;  // pieces of 16 bytes of what is computed in; a block works on one tile after another

// The arrays of one launch, which travel as a kernel's argument: nothing is allocated or copied for a step, so that a
// CUDA graph can hold it. An argument of 4 KB at most is what every driver takes, 32,764 bytes those since CUDA 12.1.
template <int Capacity>
struct StepBatch {
  static constexpr int capacity = Capacity;
  int count;
  uint32_t tiles;
  uint32_t first_tile[Capacity];  // of each array
  StepArray array[Capacity];
};
using SmallBatch = StepBatch<48>;
using LargeBatch = StepBatch<416>;

// Fills a batch with the first of `count` arrays, as many as it holds, and returns how many.
template <class T, class Batch>
inline int fill(Batch& batch, const StepArray* arrays, int64_t count) {
  constexpr int64_t elements = kTile * (16 / sizeof(T));
  int64_t tiles = 0;
  batch.count = 0;
  while (batch.count < count && batch.count < Batch::capacity) {
    const StepArray& array = arrays[batch.count];
    const int64_t more = (array.size + elements - 1) / elements;
    if (tiles + more > UINT32_MAX) break;  // 64 TB
    batch.first_tile[batch.count] = (uint32_t)tiles;
    batch.array[batch.count++] = array;
    tiles += more;
  }
  batch.tiles = (uint32_t)tiles;
  return batch.count;
}

// The array that a tile is of: the last that begins at or before it.
template <class Batch>
HD int array_of(const Batch& batch, uint32_t tile) {
  int low = 0, high = batch.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (batch.first_tile[middle] <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The same for every thread of a block, so that it costs a branch that none takes alone.
template <class T, int N>
HD void load_stored(const char* p, int64_t first, Storage storage, bool whole, int count, Vec<T, 1>* to) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (storage == Storage::bfloat16) return load_piece<Bfloat16, N>(p + first * 2, whole, count, to);
    if (storage == Storage::float16) return load_piece<Float16, N>(p + first * 2, whole, count, to);
  }
  load_piece<T, N>(p + first * (int64_t)sizeof(T), whole, count, to);
}
template <class T, int N>
HD void store_stored(const Vec<T, 1>* from, char* p, int64_t first, Storage storage, bool whole, int count) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (storage == Storage::bfloat16) return store_piece<Bfloat16, N>(from, p + first * 2, whole, count);
    if (storage == Storage::float16) return store_piece<Float16, N>(from, p + first * 2, whole, count);
  }
  store_piece<T, N>(from, p + first * (int64_t)sizeof(T), whole, count);
}

// `threads` of a block that work on a batch; the grid's threads are whole blocks of them.
template <class T, unsigned Used, int States, int threads, class Step, class Batch>
HD void step_arrays(Thread thread, const Step& step, const GradientShare<T>& share, const Batch& batch) {
  using V = Vec<T, 1>;
  constexpr int N = 16 / sizeof(T);
  const int lane = (int)(thread.index % threads);
  const int64_t blocks = thread.count / threads;
  for (int64_t tile = thread.index / threads; tile < batch.tiles; tile += blocks) {
    const int index = array_of(batch, (uint32_t)tile);
    const StepArray& array = batch.array[index];
    const int64_t begin = (tile - batch.first_tile[index]) * kTile * N;
    for (int piece = lane; piece < kTile; piece += threads) {
      const int64_t first = begin + (int64_t)piece * N;
      if (first >= array.size) break;
      const int count = array.size - first < N ? (int)(array.size - first) : N;
      const bool whole = array.aligned && count == N;
      V p[N], g[N], state[States + 1][N];  // one more, as there may be none
      load_stored<T, N>(array.data[0], first, array.param, whole, count, p);
      load_stored<T, N>(array.data[1], first, array.grad, whole, count, g);
      INNERLOOP_UNROLL
      for (int s = 0; s < States; s++) {
        if (Used >> s & 1) load_stored<T, N>(array.data[2 + s], first, Storage::full, whole, count, state[s]);
      }
      INNERLOOP_UNROLL
      for (int i = 0; i < N; i++) {
        V of_element[States + 1];
        INNERLOOP_UNROLL
        for (int s = 0; s < States; s++) {
          if (Used >> s & 1) of_element[s] = state[s][i];
        }
        p[i] = step.template update<Used>(p[i], share.of(p[i], g[i]), of_element);
        INNERLOOP_UNROLL
        for (int s = 0; s < States; s++) {
          if (Used >> s & 1) state[s][i] = of_element[s];
        }
      }
      store_stored<T, N>(p, array.data[0], first, array.param, whole, count);
      if (array.copy != nullptr) store_stored<T, N>(p, array.copy, first, array.copied, whole, count);
      INNERLOOP_UNROLL
      for (int s = 0; s < States; s++) {
        if (Used >> s & 1) store_stored<T, N>(state[s], array.data[2 + s], first, Storage::full, whole, count);
      }
    }
  }
}

// f(Used) for the `used` of this call, among the sets of states that a rule can be asked to use.
template <class Rule, unsigned Used = 0, class F>
inline void with_used(unsigned used, const F& f) {
  if constexpr (Used < 1u << StatesOf<Rule>::count) {
    if constexpr ((Used & StatesOf<Rule>::always_used) == StatesOf<Rule>::always_used) {
      if (Used == used) return f(std::integral_constant<unsigned, Used>());
    }
    with_used<Rule, Used + 1>(used, f);
  }
}

}  // namespace innerloop::INNERLOOP_ISA
