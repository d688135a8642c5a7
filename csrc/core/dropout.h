// Dropout over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

// y = dropout(x), or dx from dy: element i of the views, in C order, has the mask's element i.
void dropout(const DropoutWork& work, const TensorView& x, const TensorView& y);

void check_probability(double p, const char* name);  // of being dropped: within [0, 1]

}  // namespace innerloop
