#include "core/gated.h"

#include "core/errors.h"
#include "core/half.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 8192;  // elements of y that one thread does in about 10 us

struct Halves {
  TensorView gate, value;

  Halves(const GatedPair& pair, const TensorView& t, int axis) : gate(t), value(t) {
    gate.shape[axis] = value.shape[axis] = t.shape[axis] / 2;
    if (t.size() > 0) (pair.gate_is_first ? value : gate).data += t.strides[axis] * (ptrdiff_t)gate.shape[axis];
  }
};

}  // namespace

const GatedPair& find_gated(const std::string& name) {
  for (const GatedPair& pair : *kernels().gated) {
    if (name == pair.name) return pair;
  }
  throw ValueError("there is no gated pair called '" + name + "'");
}

Shape check_gated(const TensorView& x, int axis) {
  Shape shape = x.dims();
  if (shape[(size_t)axis] % 2 != 0) {
    throw ValueError(std::string(x.name) + " must have an even length along axis " + std::to_string(axis) +
                     ", to be split into halves, got " + describe(x));
  }
  shape[(size_t)axis] /= 2;
  return shape;
}

void gated_forward(const GatedPair& pair, const TensorView& x, int axis, const TensorView& y) {
  const Halves halves(pair, x, axis);
  const auto loop = typed(pair, x.dtype).forward;
  Call call;
  run_elementwise<3>(call, {&halves.gate, &halves.value, &y}, kGrain, loop);
}

void gated_backward(const GatedPair& pair, const TensorView& dy, const TensorView& x, int axis, const TensorView& dx) {
  const Halves halves(pair, x, axis), gradients(pair, dx, axis);
  const auto loop = typed(pair, x.dtype).backward;
  Call call;
  run_elementwise<5, 2>(call, {&dy, &halves.gate, &halves.value, &gradients.gate, &gradients.value}, kGrain, loop,
                        Order::memory, 0);
}

}  // namespace innerloop
