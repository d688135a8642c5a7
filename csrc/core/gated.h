// The gated pairs over checked views of any strides.
#pragma once

#include <string>

#include "core/tensor.h"

namespace innerloop {

const GatedPair& find_gated(const std::string& name);  // ValueError if there is none

Shape check_gated(const TensorView& x, int axis);  // the result's shape: half of x along the axis, which must be even

void gated_forward(const GatedPair& pair, const TensorView& x, int axis, const TensorView& y);
void gated_backward(const GatedPair& pair, const TensorView& dy, const TensorView& x, int axis, const TensorView& dx);

}  // namespace innerloop
