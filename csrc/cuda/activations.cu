// The activations' kernels, forward and backward.
#include "cuda/activations.h"
#include "cuda/launch.h"

namespace innerloop::cuda {
namespace {

template <class S, class F>
__global__ void __launch_bounds__(kBlock)
    map_kernel(const __grid_constant__ F f, const __grid_constant__ Elements<F::inputs + 1> e) {
  map_elements<S, F::inputs>(this_thread(), e, f);
}

template <class S, class F>
int launch(const Queue& queue, const F& f, const Elements<F::inputs + 1>& e) {
  if (e.size == 0) return cudaSuccess;
  constexpr int64_t piece = 16 / sizeof(S);
  const int blocks = blocks_for(queue, (e.size + piece - 1) / piece);
  map_kernel<S><<<blocks, kBlock, 0, (cudaStream_t)queue.stream>>>(f, e);
  return cudaGetLastError();
}

template <class F>
int launch_as(const Queue& queue, Dtype dtype, const F& f, const Elements<F::inputs + 1>& e) {
  switch (dtype) {
    case Dtype::f32:
      return launch<float>(queue, f, e);
    case Dtype::f64:
      return launch<double>(queue, f, e);
    case Dtype::bf16:
      return launch<Bfloat16>(queue, f, e);
    case Dtype::f16:
      return launch<Float16>(queue, f, e);
    default:
      return cudaErrorInvalidValue;
  }
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
