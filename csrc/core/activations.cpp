#include "core/activations.h"

#include "core/half.h"

namespace innerloop {

// Elements that one thread does in about 10 us: below twice this, a second thread costs more than it saves.
constexpr int64_t kGrain = 16384;

void activation_forward(const Activation& activation, const double* parameters, const TensorView& x,
                        const TensorView& y) {
  const auto loop = typed(activation, x.dtype).forward;
  Call call;
  run_elementwise<2>(call, {&x, &y}, kGrain, [&](const Walk<2>& walk, int64_t begin, int64_t end, int64_t) {
    loop(parameters, walk, begin, end);
  });
}

void activation_backward(const Activation& activation, const double* parameters, const TensorView& dy,
                         const TensorView& saved, bool saved_is_output, const TensorView& dx) {
  const ActivationKernels& kernels = typed(activation, dy.dtype);
  const auto loop = saved_is_output ? kernels.backward : kernels.backward_from_input;
  Call call;
  run_elementwise<3>(call, {&dy, &saved, &dx}, kGrain, [&](const Walk<3>& walk, int64_t begin, int64_t end, int64_t) {
    loop(parameters, walk, begin, end);
  });
}

}  // namespace innerloop
