// Python's softmax_cross_entropy: converts, checks, releases the GIL, calls the list.
#include "core/softmax_cross_entropy.h"

#include <math.h>

#include "bindings/losses.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

py::object cross_entropy(py::handle logits, py::handle target, py::handle weight, py::handle sample_weight,
                         py::handle ignore_index, py::handle label_smoothing, py::handle z_loss, py::handle reduction,
                         py::handle axis, py::handle return_grad, py::handle grad_scale, py::handle out) {
  const LossOptions given = loss_options(reduction, return_grad, grad_scale, out);
  CrossEntropyOptions options = cross_entropy_options(given, ignore_index, label_smoothing, z_loss);

  Arguments arguments(Devices::any);
  const Array alogits = arguments.in(logits, "logits");
  const TensorView& z = alogits.view;
  check_floating(z);
  options.axis = class_axis(axis, z);
  const Array atarget = arguments.in(target, "target");
  if (is_floating(atarget.view.dtype)) {
    check_dtype(atarget.view, z);
    check_shape(atarget.view, z);
  } else {
    check_label_array(atarget.view, z, options.axis, ", or probabilities of the dtype of logits");
  }
  const Shape rows = without_axis(z, options.axis).dims();
  const ClassWeights weights(arguments, weight, sample_weight, z, z.shape[options.axis], rows,
                             "that of logits without the class axis");
  const LossResult result(arguments, given, alogits, rows,
                          {&atarget, array_or_null(weights.weight), array_or_null(weights.sample)}, out);

  double value = 0;
  if (DeviceCall* device = arguments.device()) {
    const cuda::RowLoss loss = row_loss(given, options.ignore_index, options.axis, alogits, atarget, weights, result);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.softmax_cross_entropy(queue, loss, options.label_smoothing, options.z_loss);
    });
  } else if (reference_in_use()) {
    check_labels(atarget.view, z.shape[options.axis], options);
    value = result.copy_reference(reference("losses").attr("softmax_cross_entropy")(
        alogits.owner, atarget.owner, py::arg("weight") = owner_or_none(weights.weight),
        py::arg("sample_weight") = owner_or_none(weights.sample), py::arg("ignore_index") = options.ignore_index,
        py::arg("label_smoothing") = options.label_smoothing, py::arg("z_loss") = options.z_loss,
        py::arg("reduction") = reduction, py::arg("axis") = options.axis, py::arg("return_grad") = true,
        py::arg("grad_scale") = options.grad_scale));
  } else {
    const CrossEntropyTarget views = {&atarget.view, view_or_null(weights.weight), view_or_null(weights.sample)};
    py::gil_scoped_release release;
    value = softmax_cross_entropy(z, views, options, result.losses_view(), result.gradient_view());
  }
  return result.result(arguments, z.dtype, value);
}

}  // namespace

CrossEntropyOptions cross_entropy_options(const LossOptions& given, py::handle ignore_index, py::handle label_smoothing,
                                          py::handle z_loss) {
  CrossEntropyOptions options;
  options.reduction = given.reduction;
  options.grad_scale = given.grad_scale;
  options.ignore_index = integer(ignore_index, "ignore_index");
  options.label_smoothing = number(label_smoothing, "label_smoothing");
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1)) {
    throw ValueError("label_smoothing must lie in [0, 1], got " + std::string(py::repr(label_smoothing)));
  }
  options.z_loss = number(z_loss, "z_loss");
  if (!(options.z_loss >= 0 && options.z_loss < HUGE_VAL)) {
    throw ValueError("z_loss must be finite and at least 0, got " + std::string(py::repr(z_loss)));
  }
  return options;
}

void bind_softmax_cross_entropy(py::module_& m) { m.def("softmax_cross_entropy", &cross_entropy); }

}  // namespace innerloop
