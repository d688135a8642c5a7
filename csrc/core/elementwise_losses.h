// The elementwise losses with their gradients, over checked views of any strides.
#pragma once

#include "core/losses.h"

namespace innerloop {

const ElementwiseLoss& find_elementwise_loss(const std::string& name);  // throws ValueError, naming those there are

struct ElementwiseLossInputs {
  const TensorView *pred, *target;  // of one shape and dtype
  const TensorView* sample_weight;  // of the same shape; or null
  const TensorView* array;          // the loss's third array, of the same shape (its strides may be 0); or null
};

// Throws ValueError where the loss takes predictions in a range and one lies outside it.
void check_predictions(const ElementwiseLoss& loss, const TensorView& pred);

// Returns the reduced loss, or writes `losses` for Reduction::none. `losses` and `gradient`, of pred's shape, may be
// null; the gradient may be pred. Throws as check_predictions, with nothing written.
double elementwise_loss(const ElementwiseLoss& loss, const double* parameters, const ElementwiseLossInputs& inputs,
                        Reduction reduction, double grad_scale, const TensorView* losses, const TensorView* gradient);

}  // namespace innerloop
