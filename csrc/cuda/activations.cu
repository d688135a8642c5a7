// The activations' kernels, forward and backward.
#include "cuda/activations.h"
#include "cuda/launch.h"

namespace innerloop::cuda {
namespace {

template <class S, class F>
struct Map {
  F f;
  Elements<F::inputs + 1> e;
  HD void operator()(const Block& block) const { map_elements<S, F::inputs>(block.thread(), e, f); }
};

template <class S, class F>
int launch_map(const Queue& queue, const F& f, const Elements<F::inputs + 1>& e) {
  constexpr int64_t piece = 16 / sizeof(S);
  return launch<kBlock>(queue, blocks_for(queue, (e.size + piece - 1) / piece), Map<S, F>{f, e});
}

template <class F>
int launch_as(const Queue& queue, Dtype dtype, const F& f, const Elements<F::inputs + 1>& e) {
  return with_storage(dtype, [&](auto s) { return launch_map<decltype(s)>(queue, f, e); });
}

template <class Rule>
int forward(const Queue& queue, Dtype dtype, const double* parameters, const Elements<2>& e) {
  return launch_as(queue, dtype, Forward<Rule>{make_rule<Rule>(parameters)}, e);
}
template <class Rule>
int backward(const Queue& queue, Dtype dtype, const double* parameters, const Elements<3>& e) {
  return launch_as(queue, dtype, Backward<Rule>{make_rule<Rule>(parameters)}, e);
}
template <class Rule>
int backward_from_input(const Queue& queue, Dtype dtype, const double* parameters, const Elements<3>& e) {
  if constexpr (Rule::saves_output) {
    return launch_as(queue, dtype, BackwardFromInput<Rule>{make_rule<Rule>(parameters)}, e);
  } else {
    return backward<Rule>(queue, dtype, parameters, e);
  }
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr Activation entries[] = {
      {Rules::name, forward<Rules>, backward<Rules>, backward_from_input<Rules>}...};
};

}  // namespace

const Span<Activation> activations = {Table<Activations>::entries, Activations::count};

}  // namespace innerloop::cuda
