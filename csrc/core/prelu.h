// prelu over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

// One slope, of no axes or one element; or one for each index of x's axis 1.
void check_slopes(const TensorView& weight, const TensorView& x);

void prelu_forward(const TensorView& x, const TensorView& weight, const TensorView& y);
// dx may be dy or x.
void prelu_backward(const TensorView& dy, const TensorView& x, const TensorView& weight, const TensorView& dx,
                    const TensorView& dweight);

}  // namespace innerloop
