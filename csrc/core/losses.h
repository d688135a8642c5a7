// Losses with their gradients, over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

enum class Reduction { mean, sum, none };
Reduction find_reduction(const std::string& name);  // throws ValueError, naming those there are

struct CrossEntropyOptions {
  int64_t ignore_index;
  double label_smoothing;
  Reduction reduction;
  int axis;
  double grad_scale;
};

// Throws IndexError for a label out of range. softmax_cross_entropy does so itself.
void check_labels(const TensorView& logits, const TensorView& target, const CrossEntropyOptions& options);

// Returns the reduced loss, or writes `losses` for Reduction::none. `weight`, `losses` (of the rows' shape) and
// `dlogits` may be null. Throws IndexError, with nothing written, for a label out of range.
double softmax_cross_entropy(const TensorView& logits, const TensorView& target, const TensorView* weight,
                             const CrossEntropyOptions& options, const TensorView* losses, const TensorView* dlogits);

}  // namespace innerloop
