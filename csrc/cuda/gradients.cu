// The norm of all gradients of a call, and clipping by it.
#include "cuda/gradients.h"
#include "cuda/norm_scratch.h"

namespace innerloop::cuda {
namespace {

template <class T>
int64_t tiles_of_all(const StepGroup* groups, int64_t count) {
  int64_t tiles = 0;
  for (int64_t g = 0; g < count; g++) {
    const auto& arrays = groups[g].arrays[sizeof(T) == sizeof(double)];
    for (int64_t i = 0; i < arrays.count; i++) tiles += tiles_of<T>(arrays.data[i]);
  }
  return tiles;
}

// Writes the partial sums from `sums` on, and moves it behind them.
template <class T>
int sum_squares(const Queue& queue, const StepGroup& group, Squares*& sums) {
  const auto& arrays = group.arrays[sizeof(T) == sizeof(double)];
  return in_batches<T>(arrays.data, arrays.count, [&](const auto& batch) {
    using Batch = std::decay_t<decltype(batch)>;
    Squares* const first = sums;
    sums += batch.tiles;
    return launch<kBlock>(queue, blocks_for(queue, (int64_t)batch.tiles * kBlock), SumSquares<T, Batch>{batch, first});
  });
}

template <class T>
int multiply(const Queue& queue, const StepGroup& group, const double* coefficient) {
  const auto& arrays = group.arrays[sizeof(T) == sizeof(double)];
  return in_batches<T>(arrays.data, arrays.count, [&](const auto& batch) {
    using Batch = std::decay_t<decltype(batch)>;
    return launch<kBlock>(queue, blocks_for(queue, (int64_t)batch.tiles * kBlock),
                          MultiplyGradients<T, Batch>{batch, coefficient});
  });
}

}  // namespace

NormScratch::NormScratch(const Queue& queue, const StepGroup* groups, int64_t count)
    : tiles(tiles_of_all<float>(groups, count) + tiles_of_all<double>(groups, count)),
      scratch(queue, count == 0 ? 0 : sizeof(double) + (size_t)tiles * sizeof(Squares)) {}

int NormScratch::run(const Queue& queue, const StepGroup* groups, int64_t count, const Clipping& clipping) {
  int error = scratch.error;
  auto* const sums = reinterpret_cast<Squares*>(coefficient() + 1);
  Squares* next = sums;
  for (int64_t g = 0; g < count && error == cudaSuccess; g++) {
    error = sum_squares<float>(queue, groups[g], next);
    if (error == cudaSuccess) error = sum_squares<double>(queue, groups[g], next);
  }
  if (error != cudaSuccess) return error;
  return launch<1024>(queue, 1, FinishNorm{sums, tiles, clipping, coefficient()});
}

int clip(const Queue& queue, const StepGroup& gradients, const Clipping& clipping) {
  NormScratch norm(queue, &gradients, 1);
  int error = norm.run(queue, &gradients, 1, clipping);
  if (error == cudaSuccess) error = multiply<float>(queue, gradients, norm.coefficient());
  if (error == cudaSuccess) error = multiply<double>(queue, gradients, norm.coefficient());
  return error;
}

}  // namespace innerloop::cuda
