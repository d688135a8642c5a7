// The kernels of softmax and log_softmax, forward and backward.
#include "cuda/launch_rows.h"
#include "cuda/softmax.h"

namespace innerloop::cuda {
namespace {

template <class Pass>
int launch_softmax(const Queue& queue, Dtype dtype, const RowShape& shape, const char* a, const char* b, char* out) {
  if (shape.outer * shape.length * shape.inner == 0) return cudaSuccess;
  return with_storage(dtype, [&](auto s) {
    using S = decltype(s);
    return launch_rows<S, Pass::inputs>(queue, shape, in_step({a, b, out}), [&](const RowPlan& plan, auto layout) {
      typename Pass::template Body<S, decltype(layout)> body = {plan, {a}, out};
      if constexpr (Pass::inputs > 1) body.in[1] = b;
      return body;
    });
  });
}

template <class Rule>
int forward(const Queue& queue, Dtype dtype, const RowShape& shape, const char* x, char* y) {
  return launch_softmax<SoftmaxForward<Rule>>(queue, dtype, shape, x, nullptr, y);
}
template <class Rule>
int backward(const Queue& queue, Dtype dtype, const RowShape& shape, const char* dy, const char* y, char* dx) {
  return launch_softmax<SoftmaxBackward<Rule>>(queue, dtype, shape, dy, y, dx);
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr SoftmaxFunction entries[] = {{Rules::name, forward<Rules>, backward<Rules>}...};
};

}  // namespace

const Span<SoftmaxFunction> softmaxes = {Table<Softmaxes>::entries, Softmaxes::count};

}  // namespace innerloop::cuda
