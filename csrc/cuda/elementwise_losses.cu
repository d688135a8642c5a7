// The elementwise losses' kernels: one launch for values and gradient, one that adds the sums of tiles.
#include "cuda/elementwise_losses.h"
#include "cuda/fault.h"
#include "cuda/launch.h"

namespace innerloop::cuda {
namespace {

int64_t tile_blocks(const Queue& queue, int64_t tiles) {
  const int64_t most = (int64_t)queue.processors * 16;
  return tiles < most ? tiles : most;
}

template <class S>
int sum_tiles(const Queue& queue, const char* data, int64_t size, double* sums) {
  return launch<kLossThreads>(queue, tile_blocks(queue, tiles_of(size, kLossTile<S>)),
                              SumTiles<S>{data, size, is_aligned(data), sums});
}

template <class Rule, class S>
int run_as(const Queue& queue, const ElementwiseLossArrays& a) {
  using T = typename ComputedAs<S>::type::scalar;
  const int64_t tiles = tiles_of(a.size, kLossTile<S>), weight_tiles = tiles_of(a.size, kLossTile<T>);
  const bool sum_weights = a.divide_by_weights && a.sample_weight.data != nullptr;
  const int64_t doubles = (a.loss ? tiles : 0) + (sum_weights ? weight_tiles + 1 : 0);
  Scratch scratch(queue, (size_t)doubles * sizeof(double));
  if (scratch.error != cudaSuccess) return scratch.error;
  double* const sums = static_cast<double*>(scratch.data);
  double* const divisor_at = sum_weights ? sums : nullptr;
  double* const of_tiles = sum_weights ? sums + 1 + weight_tiles : sums;
  const bool wide = a.sample_weight.storage == Storage::full;
  Fault* fault = nullptr;
  int error = TakesRange<Rule>::value ? find_fault(&fault) : (int)cudaSuccess;
  if (error != cudaSuccess) return error;
  if (sum_weights) {
    error = wide ? sum_tiles<T>(queue, a.sample_weight.data, a.size, sums + 1)
                 : sum_tiles<S>(queue, a.sample_weight.data, a.size, sums + 1);
    if (error != cudaSuccess) return error;
    const int64_t summed = wide ? weight_tiles : tiles;
    error = launch<kLossThreads>(queue, 1, AddTiles{sums + 1, summed, nullptr, 1, divisor_at, false});
    if (error != cudaSuccess) return error;
  }
  LossElements<Rule, S> body = {
      make_rule<Rule>(a.parameters),
      a.pred,
      a.target,
      a.sample_weight,
      a.array,
      Cycle(a.array_inner, a.array_period),
      is_aligned(a.sample_weight.data),
      is_aligned(a.array.data),
      a.losses,
      a.gradient,
      a.size,
      is_aligned(a.pred) && is_aligned(a.target) && is_aligned(a.losses) && is_aligned(a.gradient),
      a.grad_scale,
      a.divisor,
      divisor_at,
      a.loss ? of_tiles : nullptr,
      fault};
  error = launch<kLossThreads>(queue, tile_blocks(queue, tiles), body);
  if (error != cudaSuccess || a.loss == nullptr) return error;
  return launch<kLossThreads>(queue, 1,
                              AddTiles{of_tiles, tiles, divisor_at, a.divisor, a.loss, sizeof(T) == sizeof(float)});
}

template <class Rule>
int run(const Queue& queue, Dtype dtype, const ElementwiseLossArrays& arrays) {
  return with_storage(dtype, [&](auto stored) { return run_as<Rule, decltype(stored)>(queue, arrays); });
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr ElementwiseLoss entries[] = {{Rules::name, run<Rules>}...};
};

}  // namespace

const Span<ElementwiseLoss> elementwise_losses = {Table<ElementwiseLosses>::entries, ElementwiseLosses::count};

}  // namespace innerloop::cuda
