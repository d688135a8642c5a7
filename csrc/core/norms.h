// layer_norm, rms_norm and batch_norm over checked views of any strides.
#pragma once

#include "core/tensor.h"

namespace innerloop {

const RowNormFunction& find_row_norm(const std::string& name);

// Rows along x's last axis: how many there are.
int64_t row_count(const TensorView& x);

// `saved` is fresh, (2, rows) with mean and 1 / deviation, or (rows,) for rms_norm; or null, as weight and bias may be.
void row_norm_forward(const RowNormFunction& norm, const TensorView& x, const TensorView* weight,
                      const TensorView* bias, double eps, const TensorView& y, const TensorView* saved);
void row_norm_backward(const RowNormFunction& norm, const TensorView& dy, const TensorView& x, const TensorView& saved,
                       const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                       const TensorView* dbias);

struct BatchNormOptions {
  bool training;
  double momentum, eps;
};

// Channels along axis 1. In training the running statistics are written, and may be null. `saved` is fresh, (2, C).
void batch_norm_forward(const BatchNormOptions& options, const TensorView& x, const TensorView* running_mean,
                        const TensorView* running_var, const TensorView* weight, const TensorView* bias,
                        const TensorView& y, const TensorView* saved);
void batch_norm_backward(bool training, const TensorView& dy, const TensorView& x, const TensorView& saved,
                         const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                         const TensorView* dbias);

}  // namespace innerloop
