// softmax and log_softmax over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

const SoftmaxFunction& find_softmax(const std::string& name);

void softmax_forward(const SoftmaxFunction& function, const TensorView& x, int axis, const TensorView& y);
void softmax_backward(const SoftmaxFunction& function, const TensorView& dy, const TensorView& y, int axis,
                      const TensorView& dx);

}  // namespace innerloop
