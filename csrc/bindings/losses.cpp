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
    gradient = arguments.out(out, "out", input.view.dtype, input.view.dims());
    Arguments::check_outputs({&*gradient}, others, {&input});
  }
  if (options.reduction == Reduction::none) losses = arguments.fresh(compute_dtype(input.view.dtype), losses_shape);
}

double LossResult::copy_reference(const py::tuple& both) const {
  if (gradient) copy_into(*gradient, both[1]);
  if (!losses) return both[0].cast<double>();
  copy_into(*losses, both[0]);
  return 0;
}

py::object LossResult::result(Arguments& arguments, Dtype dtype, double value) const {
  const py::object loss = losses ? arguments.result(*losses) : arguments.scalar(dtype, value);
  if (!gradient) return loss;
  return py::make_tuple(loss, arguments.result(*gradient));
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

int class_axis(py::handle axis, const TensorView& input) {
  check_ndim(input, 1, "the class axis among them");
  const int64_t given = integer(axis, "axis");
  return input.ndim == 1 && given == 1 ? 0 : check_axis(given, input);
}

}  // namespace innerloop
