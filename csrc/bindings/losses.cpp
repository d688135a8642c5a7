#include "bindings/losses.h"

#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {

LossOptions loss_options(py::handle reduction, py::handle return_grad, py::handle grad_scale, py::handle out,
                         bool batchmean) {
  LossOptions options;
  options.reduction = find_reduction(text(reduction, "reduction"), batchmean);
  options.grad_scale = number(grad_scale, "grad_scale");
  if (options.grad_scale != options.grad_scale) throw ValueError("grad_scale must be a number, got NaN");
  options.return_grad = boolean(return_grad, "return_grad");
  if (!options.return_grad && !out.is_none()) {
    throw ValueError("out receives the gradient: it needs return_grad=True, got return_grad=False");
  }
  return options;
}

LossResult::LossResult(Arguments& arguments, const LossOptions& options, const Array& input, const Shape& losses_shape,
                       std::initializer_list<const Array*> others, py::handle out) {
  if (options.return_grad) {
    gradient = arguments.out(out, "out", input);
    Arguments::check_outputs({&*gradient}, others, {&input});
  }
  const Dtype dtype = compute_dtype(input.view.dtype);
  if (options.reduction == Reduction::none) {
    losses = arguments.fresh(dtype, losses_shape);
  } else if (arguments.device()) {
    loss = arguments.fresh(dtype, {});
  }
}

double LossResult::copy_reference(const py::tuple& both) const {
  if (gradient) copy_into(*gradient, both[1]);
  if (!losses) return both[0].cast<double>();
  copy_into(*losses, both[0]);
  return 0;
}

py::object LossResult::result(Arguments& arguments, Dtype dtype, double value) const {
  const std::optional<Array>& made = losses ? losses : loss;
  const py::object first = made ? arguments.result(*made) : arguments.scalar(dtype, value);
  if (!gradient) return first;
  return py::make_tuple(first, arguments.result(*gradient));
}

std::optional<Array> optional_array(Arguments& arguments, py::handle value, const char* name, const TensorView& like) {
  if (value.is_none()) return {};
  const Array array = arguments.in(value, name);
  check_weight_dtype(array.view, like);
  return array;
}

ClassWeights::ClassWeights(Arguments& arguments, py::handle of_classes, py::handle of_rows, const TensorView& input,
                           int64_t classes, const Shape& rows, const char* rows_are)
    : weight(optional_array(arguments, of_classes, "weight", input)) {
  if (weight) check_shape(weight->view, Shape{classes}, "a weight for each class");
  sample = optional_array(arguments, of_rows, "sample_weight", input);
  if (sample) check_shape(sample->view, rows, (std::string(rows_are) + ", a weight for each row").c_str());
}

void check_label_array(const TensorView& target, const TensorView& input, int axis, const char* else_text) {
  if (!is_integer(target.dtype)) {
    throw TypeError("target must hold class labels of an integer dtype" + std::string(else_text) + ", got " +
                    describe(target));
  }
  Shape rows = input.dims();
  rows.erase(rows.begin() + axis);
  check_shape(target, rows, "that of the first argument without the class axis, for class labels");
}

cuda::RowLoss row_loss(const LossOptions& options, int64_t ignore_index, int axis, const Array& input,
                       const Array& target, const ClassWeights& weights, const LossResult& result) {
  TensorView rows;
  cuda::RowLoss loss = {};
  loss.dtype = input.view.dtype;
  loss.target_dtype = target.view.dtype;
  loss.shape = row_shape(input.view, axis, &rows);
  loss.input = input.view.data;
  loss.target = target.view.data;
  check_same_order(target.view, is_floating(target.view.dtype) ? input.view : rows);
  if (weights.weight) check_contiguous(weights.weight->view);
  loss.weight = weights_of(weights.weight);
  if (weights.sample) check_same_order(weights.sample->view, rows);
  loss.sample_weight = weights_of(weights.sample);
  loss.ignore_index = ignore_index;
  loss.grad_scale = options.grad_scale;
  loss.mean = options.reduction == Reduction::mean;
  if (result.loss) loss.loss = result.loss->view.data;
  if (result.losses) {
    check_same_order(result.losses->view, rows);
    loss.losses = result.losses->view.data;
  }
  if (result.gradient) {
    check_same_order(result.gradient->view, input.view);
    loss.gradient = result.gradient->view.data;
  }
  return loss;
}

int class_axis(py::handle axis, const TensorView& input) {
  check_ndim(input, 1, "the class axis among them");
  const int64_t given = integer(axis, "axis");
  return input.ndim == 1 && given == 1 ? 0 : check_axis(given, input);
}

}  // namespace innerloop
