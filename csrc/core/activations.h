// Activations over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

void activation_forward(const Activation& activation, const double* parameters, const TensorView& x,
                        const TensorView& y);

// `saved_is_output`: saved holds y, for an activation that saves its output; else it holds x.
void activation_backward(const Activation& activation, const double* parameters, const TensorView& dy,
                         const TensorView& saved, bool saved_is_output, const TensorView& dx);

}  // namespace innerloop
