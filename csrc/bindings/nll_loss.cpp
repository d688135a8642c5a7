// Python's nll_loss: converts, checks, releases the GIL, calls the list.
#include "core/nll_loss.h"

#include "bindings/losses.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/rows.h"

namespace innerloop {
namespace {

py::object nll(py::handle log_probs, py::handle target, py::handle weight, py::handle sample_weight,
               py::handle ignore_index, py::handle reduction, py::handle axis, py::handle return_grad,
               py::handle grad_scale, py::handle out) {
  const LossOptions given = loss_options(reduction, return_grad, grad_scale, out);
  NllOptions options;
  options.reduction = given.reduction;
  options.grad_scale = given.grad_scale;
  options.ignore_index = integer(ignore_index, "ignore_index");

  Arguments arguments(Devices::any);
  const Array alogs = arguments.in(log_probs, "log_probs");
  const TensorView& x = alogs.view;
  check_floating(x);
  options.axis = class_axis(axis, x);
  const Array atarget = arguments.in(target, "target");
  check_label_array(atarget.view, x, options.axis, "");
  const Shape rows = without_axis(x, options.axis).dims();
  const ClassWeights weights(arguments, weight, sample_weight, x, x.shape[options.axis], rows, "that of target");
  const LossResult result(arguments, given, alogs, rows,
                          {&atarget, array_or_null(weights.weight), array_or_null(weights.sample)}, out);

  double value = 0;
  if (DeviceCall* device = arguments.device()) {
    const cuda::RowLoss loss = row_loss(given, options.ignore_index, options.axis, alogs, atarget, weights, result);
    device->launch(
        [&](const cuda::Kernels& kernels, const cuda::Queue& queue) { return kernels.nll_loss(queue, loss); });
  } else if (reference_in_use()) {
    {
      Call call;
      read_labels(call, atarget.view, x.shape[options.axis], options.ignore_index);
    }
    value = result.copy_reference(reference("losses").attr("nll_loss")(
        alogs.owner, atarget.owner, py::arg("weight") = owner_or_none(weights.weight),
        py::arg("sample_weight") = owner_or_none(weights.sample), py::arg("ignore_index") = options.ignore_index,
        py::arg("reduction") = reduction, py::arg("axis") = options.axis, py::arg("return_grad") = true,
        py::arg("grad_scale") = options.grad_scale));
  } else {
    py::gil_scoped_release release;
    value = nll_loss(x, atarget.view, view_or_null(weights.weight), view_or_null(weights.sample), options,
                     result.losses_view(), result.gradient_view());
  }
  return result.result(arguments, x.dtype, value);
}

}  // namespace

void bind_nll_loss(py::module_& m) { m.def("nll_loss", &nll); }

}  // namespace innerloop
