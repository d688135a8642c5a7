#include "core/softmax.h"

#include <string.h>

#include "core/errors.h"
#include "core/half.h"

namespace innerloop {

static int64_t row_length(const TensorView& t, int axis) { return t.ndim > 0 ? t.shape[axis] : 1; }

const SoftmaxFunction& find_softmax(const std::string& name) {
  for (const SoftmaxFunction& f : *kernels().softmaxes) {
    if (name == f.name) return f;
  }
  throw ValueError("there is no softmax called '" + name + "'");
}

void softmax_forward(const SoftmaxFunction& function, const TensorView& x, int axis, const TensorView& y) {
  if (y.size() == 0) return;
  const auto loop = typed(function, y.dtype).forward;
  Call call;
  run_over_rows<2>(call, {{&x, true}, {&y, true}}, axis, row_length(y, axis), loop);
}

void softmax_backward(const SoftmaxFunction& function, const TensorView& dy, const TensorView& y, int axis,
                      const TensorView& dx) {
  if (dx.size() == 0) return;
  const auto loop = typed(function, dx.dtype).backward;
  Call call;
  run_over_rows<3>(call, {{&dy, true}, {&y, true}, {&dx, true}}, axis, row_length(dx, axis), loop);
}

}  // namespace innerloop
