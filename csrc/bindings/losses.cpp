// Python's losses: converts, checks, releases the GIL, calls the list.
#include "core/losses.h"

#include <optional>

#include "bindings/arrays.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/rows.h"

namespace innerloop {
namespace {

void check_target(const TensorView& target, const TensorView& logits, int axis) {
  if (is_floating(target.dtype)) {
    check_dtype(target, logits);
    check_shape(target, logits);
    return;
  }
  if (!is_integer(target.dtype)) {
    throw TypeError("target must hold class labels of an integer dtype, or probabilities of the dtype of logits; got " +
                    describe(target));
  }
  Shape rows = logits.dims();
  rows.erase(rows.begin() + axis);
  check_shape(target, rows, "that of logits without the class axis, for class labels");
}

py::object cross_entropy(py::handle logits, py::handle target, py::handle weight, py::handle ignore_index,
                         py::handle label_smoothing, py::handle reduction, py::handle axis, py::handle gradient,
                         py::handle grad_scale, py::handle out) {
  CrossEntropyOptions options;
  options.ignore_index = integer(ignore_index, "ignore_index");
  options.label_smoothing = number(label_smoothing, "label_smoothing");
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1)) {
    throw ValueError("label_smoothing must lie in [0, 1], got " + std::string(py::repr(label_smoothing)));
  }
  options.reduction = find_reduction(text(reduction, "reduction"));
  options.grad_scale = number(grad_scale, "grad_scale");
  const bool return_grad = boolean(gradient, "return_grad");
  if (!return_grad && !out.is_none()) {
    throw ValueError("out receives the gradient: it needs return_grad=True, got return_grad=False");
  }

  Arguments arguments;
  const Array alogits = arguments.in(logits, "logits");
  const TensorView& z = alogits.view;
  check_full_precision(z);
  check_ndim(z, 1, "the class axis among them");
  const int64_t given_axis = integer(axis, "axis");
  options.axis = z.ndim == 1 && given_axis == 1 ? 0 : check_axis(given_axis, z);
  const Array atarget = arguments.in(target, "target");
  check_target(atarget.view, z, options.axis);
  std::optional<Array> aweight, adlogits, alosses;
  if (!weight.is_none()) {
    aweight = arguments.in(weight, "weight");
    check_dtype(aweight->view, z);
    check_shape(aweight->view, Shape{z.shape[options.axis]}, "a weight for each class");
  }
  if (return_grad) {
    adlogits = arguments.out(out, "out", z.dtype, z.dims());
    Arguments::check_overlap(*adlogits, alogits, true);
    Arguments::check_overlap(*adlogits, atarget, false);
    if (aweight) Arguments::check_overlap(*adlogits, *aweight, false);
  }
  const bool none = options.reduction == Reduction::none;
  if (none) alosses = arguments.fresh(z.dtype, without_axis(z, options.axis).dims());

  py::object loss;
  const TensorView *w = aweight ? &aweight->view : nullptr, *losses = alosses ? &alosses->view : nullptr,
                   *dz = adlogits ? &adlogits->view : nullptr;
  if (reference_in_use()) {
    check_labels(z, atarget.view, options);
    py::tuple both = reference("losses").attr("softmax_cross_entropy")(
        alogits.owner, atarget.owner, py::arg("weight") = aweight ? py::object(aweight->owner) : py::none(),
        py::arg("ignore_index") = options.ignore_index, py::arg("label_smoothing") = options.label_smoothing,
        py::arg("reduction") = reduction, py::arg("axis") = options.axis, py::arg("return_grad") = true,
        py::arg("grad_scale") = options.grad_scale);
    if (adlogits) copy_into(*adlogits, both[1]);
    if (none) {
      copy_into(*alosses, both[0]);
    } else {
      loss = arguments.scalar(z.dtype, both[0].cast<double>());
    }
  } else {
    double value;
    {
      py::gil_scoped_release release;
      value = softmax_cross_entropy(z, atarget.view, w, options, losses, dz);
    }
    if (!none) loss = arguments.scalar(z.dtype, value);
  }
  if (none) loss = arguments.result(*alosses);
  if (!return_grad) return loss;
  return py::make_tuple(loss, arguments.result(*adlogits));
}

}  // namespace

void bind_losses(py::module_& m) { m.def("softmax_cross_entropy", &cross_entropy); }

}  // namespace innerloop
