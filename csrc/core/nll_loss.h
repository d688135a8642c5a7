// nll_loss with its gradient, over checked views of any strides.
#pragma once

#include "core/losses.h"

namespace innerloop {

struct NllOptions {
  int64_t ignore_index = -100;
  Reduction reduction = Reduction::mean;
  int axis = 1;  // the classes'
  double grad_scale = 1;
};

// Returns the reduced loss, or writes `losses` for Reduction::none. `weight` (one a class), `sample_weight`, `losses`
// (both of the rows' shape) and `gradient` may be null; the gradient may be log_probs. Throws IndexError, with nothing
// written, for a label out of range.
double nll_loss(const TensorView& log_probs, const TensorView& target, const TensorView* weight,
                const TensorView* sample_weight, const NllOptions& options, const TensorView* losses,
                const TensorView* gradient);

}  // namespace innerloop
