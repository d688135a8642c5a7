// Softmax cross-entropy with its gradient, over checked views of any strides.
#pragma once

#include "core/losses.h"
#include "core/rows.h"

namespace innerloop {

struct CrossEntropyOptions {
  int64_t ignore_index = -100;
  double label_smoothing = 0, z_loss = 0;
  Reduction reduction = Reduction::mean;
  int axis = 1;  // of the logits
  double grad_scale = 1;
};

// What to compare with, each view checked. The target holds labels, of the rows' shape, or probabilities, of the
// logits' shape.
struct CrossEntropyTarget {
  const TensorView* target;
  const TensorView* weight = nullptr;         // one a class; or null
  const TensorView* sample_weight = nullptr;  // one a row; or null
};

// Everything of a call that does not depend on the logits, read and checked, so that any block of rows can be worked on
// by itself. It lives as long as the call, whose scratch it is in.
struct CrossEntropyPlan {
  Dtype dtype;
  int64_t rows, classes;
  bool probabilities;
  const int64_t* labels;      // one a row, or null for probabilities
  const void* weight;         // one a class, or null
  const void* sample_weight;  // one a row, or null
  double label_smoothing, z_loss;
  double divisor;  // of the sum of the losses
  double scale;    // of the gradient: grad_scale / divisor
};

// Throws IndexError for a label out of range. Takes all its memory before it returns.
CrossEntropyPlan plan_cross_entropy(Call& call, Dtype dtype, int64_t rows, int64_t classes,
                                    const CrossEntropyTarget& target, const CrossEntropyOptions& options);

// The work on the plan's rows from `first` on, as many as the logits have in their C order without `axis`: the rows of
// an empty block are not to be worked on. `probabilities` has the logits' shape and is null for labels; `losses` is of
// the rows' shape; `dlogits` may be null, or the logits. Run it by run_cross_entropy or run_rows.
CrossEntropyWork cross_entropy_work(const CrossEntropyPlan& plan, int64_t first, const TensorView& logits, int axis,
                                    const TensorView* probabilities, const TensorView& losses,
                                    const TensorView* dlogits);

// Rows [begin, end) of the work; scratch as run_rows gives it.
void run_cross_entropy(const CrossEntropyPlan& plan, const CrossEntropyWork& work, void* scratch, int64_t begin,
                       int64_t end);

// Throws IndexError for a label out of range. softmax_cross_entropy does so itself.
void check_labels(const TensorView& target, int64_t classes, const CrossEntropyOptions& options);

// Returns the reduced loss, or writes `losses` for Reduction::none. `losses` (of the rows' shape) and `dlogits` may be
// null. Throws IndexError, with nothing written, for a label out of range.
double softmax_cross_entropy(const TensorView& logits, const CrossEntropyTarget& target,
                             const CrossEntropyOptions& options, const TensorView* losses, const TensorView* dlogits);

}  // namespace innerloop
