// Many arrays in one launch: a batch of them, cut into tiles, each of which a block works on.
#pragma once

#include "cuda/list.h"
#include "cuda/storage.h"
#include "cuda/threads.h"

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

template <class T>
inline int64_t tiles_of(const StepArray& array) {
  constexpr int64_t elements = kTile * (16 / sizeof(T));
  return (array.size + elements - 1) / elements;
}

// Fills a batch with the first of `count` arrays, as many as it holds, and returns how many.
template <class T, class Batch>
inline int fill(Batch& batch, const StepArray* arrays, int64_t count) {
  int64_t tiles = 0;
  batch.count = 0;
  while (batch.count < count && batch.count < Batch::capacity) {
    const StepArray& array = arrays[batch.count];
    const int64_t more = tiles_of<T>(array);
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

// f(array, tile, the tile's first element) for each tile of this block.
template <class T, class Batch, class F>
HD void for_tiles(const Block& block, const Batch& batch, const F& f) {
  constexpr int64_t elements = kTile * (16 / sizeof(T));
  for (int64_t tile = block.index; tile < batch.tiles; tile += block.count) {
    const int index = array_of(batch, (uint32_t)tile);
    f(batch.array[index], (uint32_t)tile, (tile - batch.first_tile[index]) * elements);
  }
}

// f(first element, how many, whether they are a whole piece) for this thread's pieces of the tile that begins there.
template <class T, class F>
HD void for_pieces(const Block& block, const StepArray& array, int64_t begin, const F& f) {
  constexpr int N = 16 / sizeof(T);
  for (int piece = block.lane; piece < kTile; piece += block.lanes) {
    const int64_t first = begin + (int64_t)piece * N;
    if (first >= array.size) break;
    const int count = array.size - first < N ? (int)(array.size - first) : N;
    f(first, count, array.aligned && count == N);
  }
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

// run(batch) for all arrays, a batch at a time; it returns a cudaError_t, and so does this.
template <class T, class Batch, class Run>
inline int in_batches_of(const StepArray*& arrays, int64_t& count, const Run& run) {
  Batch batch;
  const int taken = fill<T>(batch, arrays, count);
  if (taken == 0) return 1;  // cudaErrorInvalidValue: 2^44 elements
  arrays += taken;
  count -= taken;
  return batch.tiles == 0 ? 0 : run(batch);
}
template <class T, class Run>
inline int in_batches(const StepArray* arrays, int64_t count, const Run& run) {
  int error = 0;
  while (count > 0 && error == 0) {
    error = count <= SmallBatch::capacity ? in_batches_of<T, SmallBatch>(arrays, count, run)
                                          : in_batches_of<T, LargeBatch>(arrays, count, run);
  }
  return error;
}

}  // namespace innerloop::INNERLOOP_ISA
