#include "core/activations.h"

#include "core/call.h"
#include "core/dispatch.h"
#include "core/walk.h"

namespace innerloop {

// Elements that one thread does in about 10 us: below twice this, a second thread costs more than it saves.
constexpr int64_t kGrain = 16384;

static const ActivationKernels& typed(const Activation& activation, Dtype dtype) {
  return dtype == Dtype::f64 ? activation.f64 : activation.f32;
}

void activation_forward(const Activation& activation, const double* parameters, const TensorView& x,
                        const TensorView& y) {
  const auto walk = plan_walk<2>({&x, &y}, stream_bytes());
  const auto loop = typed(activation, x.dtype).forward;
  Call().split(y.size(), kGrain, [&](int64_t begin, int64_t end) { loop(parameters, walk, begin, end); });
}

void activation_backward(const Activation& activation, const double* parameters, const TensorView& dy,
                         const TensorView& saved, bool saved_is_output, const TensorView& dx) {
  const auto walk = plan_walk<3>({&dy, &saved, &dx}, stream_bytes());
  const ActivationKernels& kernels = typed(activation, dy.dtype);
  const auto loop = saved_is_output ? kernels.backward : kernels.backward_from_input;
  Call().split(dx.size(), kGrain, [&](int64_t begin, int64_t end) { loop(parameters, walk, begin, end); });
}

}  // namespace innerloop
