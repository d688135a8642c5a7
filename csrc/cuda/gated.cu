// The gated pairs' kernels, forward and backward.
#include "cuda/gated.h"
#include "cuda/launch.h"

namespace innerloop::cuda {
namespace {

template <class Rule>
int forward(const Queue& queue, Dtype dtype, const GatedArrays& arrays) {
  return with_storage(dtype, [&](auto stored) {
    const HalfRows<decltype(stored)> rows(arrays);
    return launch<kBlock>(queue, blocks_for(queue, rows.pieces),
                          GatedForward<Rule, decltype(stored)>{rows, arrays.x, arrays.out});
  });
}
template <class Rule>
int backward(const Queue& queue, Dtype dtype, const GatedArrays& arrays) {
  return with_storage(dtype, [&](auto stored) {
    const HalfRows<decltype(stored)> rows(arrays);
    return launch<kBlock>(queue, blocks_for(queue, rows.pieces),
                          GatedBackward<Rule, decltype(stored)>{rows, arrays.dy, arrays.x, arrays.out});
  });
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr GatedPair entries[] = {{Rules::name, forward<Rules>, backward<Rules>}...};
};

}  // namespace

const Span<GatedPair> gated = {Table<GatedPairs>::entries, GatedPairs::count};

}  // namespace innerloop::cuda
