// Softmax cross-entropy of a linear layer's output, which is never held as a whole.
#pragma once

#include "core/linear.h"
#include "core/softmax_cross_entropy.h"

namespace innerloop {

// Checked views: x (..., K), w (K, C), bias (C,) or null. `losses` is of the rows' shape and contiguous, or null; dx,
// dw are both null where no gradient is wanted, db also where there is no bias.
struct LinearCrossEntropy {
  const TensorView &x, &w;
  const TensorView* bias;
  CrossEntropyTarget target;
  const TensorView* losses;
  const TensorView *dx, *dw, *db;
};

// The bytes of logits that are held at a time; 0 gives the default back. For tests.
size_t logits_limit();
void set_logits_limit(size_t bytes);

// Returns the reduced loss, or writes `losses` for Reduction::none. Throws IndexError, with nothing written, for a
// label out of range. The bits are those of linear_forward, softmax_cross_entropy and linear_backward one after the
// other.
double linear_cross_entropy(const LinearCrossEntropy& call, const CrossEntropyOptions& options);

}  // namespace innerloop
