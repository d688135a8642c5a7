// Python's elementwise losses: converts, checks, releases the GIL, calls the list.
#include "core/elementwise_losses.h"

#include "bindings/losses.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

using Optional = std::optional<Array>;

// t seen with another's shape, which its own broadcasts to: aligned at the last axis, lengths of 1 repeated.
TensorView broadcast_to(const TensorView& t, const TensorView& like) {
  bool fits = t.ndim <= like.ndim;
  TensorView wide = like;
  for (int d = 0; d < like.ndim && fits; d++) {
    const int own = d - (like.ndim - t.ndim);
    wide.strides[d] = own < 0 || t.shape[own] == 1 ? 0 : t.strides[own];
    fits = own < 0 || t.shape[own] == 1 || t.shape[own] == like.shape[d];
  }
  if (!fits) {
    throw ValueError(std::string(t.name) + " must have a shape that broadcasts to that of " + like.name + ", " +
                     shape_text(like.shape, like.ndim) + ", got " + describe(t));
  }
  wide.name = t.name;
  wide.data = t.data;
  wide.dtype = t.dtype;
  wide.writeable = false;
  return wide;
}

// What kernels of a device take, where arrays lie in the order of the predictions. The third array lies as the others
// do, or is contiguous and repeated along leading and trailing axes only.
cuda::ElementwiseLossArrays device_arrays(const double* parameters, const LossOptions& options, const Array& pred,
                                          const Array& target, const Optional& array, const Optional& sample,
                                          const LossResult& result) {
  const TensorView& p = pred.view;
  check_dense(p);
  check_same_order(target.view, p);
  cuda::ElementwiseLossArrays a = {};
  a.parameters = parameters;
  a.pred = p.data;
  a.target = target.view.data;
  a.size = p.size();
  if (sample) check_same_order(sample->view, p);
  a.sample_weight = weights_of(sample);
  a.array = weights_of(array);
  a.array_inner = 1;
  a.array_period = a.size;
  if (array && array->view.dims() == p.dims()) {
    check_same_order(array->view, p);
  } else if (array) {
    const TensorView& t = array->view;
    check_contiguous(t);
    check_contiguous(p);
    const auto length = [&](int d) { return d < p.ndim - t.ndim ? 1 : t.shape[d - (p.ndim - t.ndim)]; };
    int first = 0, end = p.ndim;
    for (; end > 0 && length(end - 1) == 1; end--) a.array_inner *= p.shape[end - 1];
    while (first < end && length(first) == 1) first++;
    a.array_period = 1;
    for (int d = first; d < end; d++) {
      a.array_period *= p.shape[d];
      if (length(d) == p.shape[d]) continue;
      throw ValueError(std::string(t.name) +
                       " must be repeated along leading and trailing axes only on a CUDA device, got " + describe(t) +
                       " for " + describe(p));
    }
  }
  const auto output = [&](const Optional& out) -> char* {
    if (!out) return nullptr;
    check_same_order(out->view, p);
    return out->view.data;
  };
  if (result.loss) a.loss = result.loss->view.data;
  a.losses = output(result.losses);
  a.gradient = output(result.gradient);
  a.divisor = 1;
  if (options.reduction == Reduction::mean) a.divisor = (double)a.size;
  if (options.reduction == Reduction::batchmean && p.ndim > 0) a.divisor = (double)p.shape[0];
  a.divide_by_weights = options.reduction == Reduction::mean;
  a.grad_scale = options.grad_scale;
  return a;
}

py::object elementwise(py::handle called, py::handle pred, py::handle target, const py::dict& given, py::handle array,
                       py::handle sample_weight, py::handle reduction, py::handle return_grad, py::handle grad_scale,
                       py::handle out) {
  const std::string name = text(called, "loss name");
  const ElementwiseLoss& loss = find_elementwise_loss(name);
  const ParameterValues parameters = parameter_values(name.c_str(), loss.parameters, loss.parameter_count, given);
  const LossOptions options = loss_options(reduction, return_grad, grad_scale, out, loss.batchmean);

  Arguments arguments(Devices::any);
  const Array apred = arguments.in(pred, "pred");
  check_floating(apred.view);
  const Array atarget = arguments.in(target, "target");
  check_dtype(atarget.view, apred.view);
  check_shape(atarget.view, apred.view);
  const auto aarray = optional_array(arguments, array, loss.array ? loss.array : "array", apred.view);
  TensorView broadcast;
  if (aarray) broadcast = broadcast_to(aarray->view, atarget.view);
  const auto asample = optional_array(arguments, sample_weight, "sample_weight", apred.view);
  if (asample) check_shape(asample->view, atarget.view);
  const LossResult result(arguments, options, apred, apred.view.dims(),
                          {&atarget, array_or_null(aarray), array_or_null(asample)}, out);

  double value = 0;
  if (DeviceCall* device = arguments.device()) {
    const auto arrays = device_arrays(parameters.value, options, apred, atarget, aarray, asample, result);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.elementwise_losses, loss.name).run(queue, apred.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    check_predictions(loss, apred.view);
    py::dict keywords(**given);
    if (aarray) keywords[loss.array] = aarray->owner;
    value = result.copy_reference(reference("elementwise_losses")
                                      .attr("LOSSES")[name.c_str()]
                                      .attr("function")(apred.owner, atarget.owner, **keywords,
                                                        py::arg("sample_weight") = owner_or_none(asample),
                                                        py::arg("reduction") = reduction, py::arg("return_grad") = true,
                                                        py::arg("grad_scale") = options.grad_scale));
  } else {
    const ElementwiseLossInputs inputs = {&apred.view, &atarget.view, view_or_null(asample),
                                          aarray ? &broadcast : nullptr};
    py::gil_scoped_release release;
    value = elementwise_loss(loss, parameters.value, inputs, options.reduction, options.grad_scale,
                             result.losses_view(), result.gradient_view());
  }
  return result.result(arguments, apred.view.dtype, value);
}

py::list list() {
  py::list entries;
  for (const ElementwiseLoss& loss : *kernels().elementwise_losses) {
    py::dict defaults;
    for (int i = 0; i < loss.parameter_count; i++) {
      const Parameter& p = loss.parameters[i];
      defaults[p.name] = p.is_flag ? py::object(py::bool_(p.default_value != 0)) : py::float_(p.default_value);
    }
    entries.append(py::make_tuple(loss.name, defaults, loss.array, loss.batchmean));
  }
  return entries;
}

}  // namespace

void bind_elementwise_losses(py::module_& m) {
  m.def("elementwise_losses", &list, "(name, {parameter: default}, third array, batchmean) of each, in order");
  m.def("elementwise_loss", &elementwise);
}

}  // namespace innerloop
