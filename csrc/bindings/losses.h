// What the losses' bindings share: the options that all of them take, and their results.
#pragma once

#include <optional>

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "core/softmax_cross_entropy.h"

namespace innerloop {

// reduction, return_grad, grad_scale and out, checked but for out's own shape and memory.
struct LossOptions {
  Reduction reduction;
  bool return_grad;
  double grad_scale;
};
LossOptions loss_options(py::handle reduction, py::handle return_grad, py::handle grad_scale, py::handle out,
                         bool batchmean = false);

// What a loss returns: a scalar, or one loss a row or element, and the gradient where asked for.
struct LossResult {
  std::optional<Array> losses, gradient;
  std::optional<Array> loss;  // of a device, where the call returns the reduced loss

  // Fresh losses of this shape for Reduction::none, and the gradient of the input's dtype and shape in `out`, which may
  // be the input and shares no byte with the others.
  LossResult(Arguments& arguments, const LossOptions& options, const Array& input, const Shape& losses_shape,
             std::initializer_list<const Array*> others, py::handle out);

  const TensorView* losses_view() const { return view_or_null(losses); }
  const TensorView* gradient_view() const { return view_or_null(gradient); }

  // The values that the reference returned for return_grad=True; and what the call returns, `value` being the reduced
  // loss.
  double copy_reference(const py::tuple& both) const;
  py::object result(Arguments& arguments, Dtype dtype, double value) const;
};

// Those of softmax cross-entropy, without the axis.
CrossEntropyOptions cross_entropy_options(const LossOptions& given, py::handle ignore_index, py::handle label_smoothing,
                                          py::handle z_loss);

// An optional array of the dtype of `like`, or of what that is computed in.
std::optional<Array> optional_array(Arguments& arguments, py::handle value, const char* name, const TensorView& like);

// The weights of classes and of rows, each of which may be None. `rows_are` says what the rows' shape is.
struct ClassWeights {
  std::optional<Array> weight, sample;
  ClassWeights(Arguments& arguments, py::handle weight, py::handle sample_weight, const TensorView& input,
               int64_t classes, const Shape& rows, const char* rows_are);
};

// Class labels for the rows of an input: its shape without the class axis.
void check_label_array(const TensorView& target, const TensorView& input, int axis, const char* else_text);

// What the kernels of a device take of a loss over rows: the target's, the weights' and the losses' order in memory is
// checked, too. `ignore_index` and what is not of every such loss are as in `options`.
cuda::RowLoss row_loss(const LossOptions& options, int64_t ignore_index, int axis, const Array& input,
                       const Array& target, const ClassWeights& weights, const LossResult& result);

// The class axis of an input: axis 1 means 0 for one of a single axis.
int class_axis(py::handle axis, const TensorView& input);

}  // namespace innerloop
