// Python's norms: converts, checks, releases the GIL, calls the list.
#include "core/norms.h"

#include <optional>

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

using Optional = std::optional<Array>;

py::object result_or_none(const Arguments& arguments, const Optional& a) {
  return a ? arguments.result(*a) : py::object(py::none());
}

double read_eps(py::handle eps) {
  const double value = number(eps, "eps");
  if (!(value >= 0)) throw ValueError("eps must not be negative or NaN, got " + std::string(py::repr(eps)));
  return value;
}

// One element a column or channel of x, or None.
Optional vector(Arguments& arguments, py::handle value, const char* name, const TensorView& x, int64_t n,
                const char* why) {
  if (value.is_none()) return {};
  Array a = arguments.in(value, name);
  check_dtype(a.view, x);
  check_shape(a.view, {n}, why);
  return a;
}

// A gradient that is summed over rows, where it is wanted.
Optional sum_output(Arguments& arguments, py::handle out, const char* name, bool wanted, const char* unless,
                    const TensorView& x, int64_t n) {
  if (wanted) return arguments.out(out, name, x.dtype, {n});
  if (!out.is_none()) {
    throw ValueError(std::string("out has a ") + name + ", which there is not " + unless + "; got an array");
  }
  return {};
}

constexpr const char* kColumn = "one for each element of x's last axis";
constexpr const char* kChannel = "one for each channel, axis 1 of x";

Shape saved_shape(const RowNormFunction& norm, const TensorView& x) {
  return norm.has_mean ? Shape{2, row_count(x)} : Shape{row_count(x)};
}

// Where an array begins that kernels of a device take contiguous; null if there is none.
char* contiguous_data(const Array* a) {
  if (a == nullptr) return nullptr;
  check_contiguous(a->view);
  return a->view.data;
}
char* contiguous_data(const Optional& a) { return contiguous_data(array_or_null(a)); }

py::object forward(const std::string& name, py::handle x, py::handle weight, py::handle bias, py::handle eps_given,
                   py::handle out, py::handle saved_too) {
  const RowNormFunction& norm = find_row_norm(name);
  const double eps = read_eps(eps_given);
  const bool return_saved = boolean(saved_too, "return_saved");
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  check_ndim(ax.view, 1, "the last of which is normalised");
  const int64_t length = ax.view.shape[ax.view.ndim - 1];
  const Optional aw = vector(arguments, weight, "weight", ax.view, length, kColumn);
  const Optional ab = vector(arguments, bias, "bias", ax.view, length, kColumn);
  const Array ay = arguments.out(out, "out", ax);
  Arguments::check_outputs({&ay}, {array_or_null(aw), array_or_null(ab)}, {&ax});
  Optional saved;
  if (return_saved) saved = arguments.fresh(compute_dtype(ax.view.dtype), saved_shape(norm, ax.view));

  if (DeviceCall* device = arguments.device()) {
    const cuda::RowNormArrays arrays = {nullptr,
                                        contiguous_data(&ax),
                                        contiguous_data(aw),
                                        contiguous_data(ab),
                                        contiguous_data(saved),
                                        contiguous_data(&ay),
                                        nullptr,
                                        nullptr,
                                        row_count(ax.view),
                                        length,
                                        eps};
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.row_norms, norm.name).forward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    const py::object function = reference("norms").attr(name.c_str());
    const py::tuple both =
        norm.has_mean ? function(ax.owner, owner_or_none(aw), owner_or_none(ab), py::arg("eps") = eps,
                                 py::arg("return_saved") = true)
                      : function(ax.owner, owner_or_none(aw), py::arg("eps") = eps, py::arg("return_saved") = true);
    copy_into(ay, both[0]);
    if (saved) copy_into(*saved, both[1]);
  } else {
    py::gil_scoped_release release;
    row_norm_forward(norm, ax.view, view_or_null(aw), view_or_null(ab), eps, ay.view, view_or_null(saved));
  }
  if (!return_saved) return arguments.result(ay);
  return py::make_tuple(arguments.result(ay), arguments.result(*saved));
}

// `bias` is None for "if there is a weight".
py::tuple backward(const std::string& name, py::handle dy, py::handle x, py::handle saved, py::handle weight,
                   py::handle bias, py::handle out) {
  const RowNormFunction& norm = find_row_norm(name);
  const bool with_bias = norm.has_mean && (bias.is_none() ? !weight.is_none() : boolean(bias, "bias"));
  const py::tuple outputs =
      norm.has_mean ? given_outputs(out, 3, "(dx, dweight, dbias)") : given_outputs(out, 2, "(dx, dweight)");
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  check_ndim(ady.view, 1, "the last of which was normalised");
  const Array ax = arguments.in(x, "x");
  check_dtype(ax.view, ady.view);
  check_shape(ax.view, ady.view);
  const int64_t length = ax.view.shape[ax.view.ndim - 1];
  const Array as = arguments.in(saved, "saved");
  check_dtype(as.view, compute_dtype(ax.view.dtype), "what return_saved=True gave");
  check_shape(as.view, saved_shape(norm, ax.view), "what return_saved=True gave");
  const Optional aw = vector(arguments, weight, "weight", ax.view, length, kColumn);
  const Array adx = arguments.out(outputs[0], "dx", ax);
  const Optional adw =
      sum_output(arguments, outputs[1], "dweight", aw.has_value(), "without a weight", ax.view, length);
  Optional adb;
  if (norm.has_mean) {
    adb = sum_output(arguments, outputs[2], "dbias", with_bias, "without a bias", ax.view, length);
  }
  Arguments::check_outputs({&adx, array_or_null(adw), array_or_null(adb)}, {&as, array_or_null(aw)}, {&ady, &ax});

  if (DeviceCall* device = arguments.device()) {
    const cuda::RowNormArrays arrays = {contiguous_data(&ady),
                                        contiguous_data(&ax),
                                        contiguous_data(aw),
                                        nullptr,
                                        contiguous_data(&as),
                                        contiguous_data(&adx),
                                        contiguous_data(adw),
                                        contiguous_data(adb),
                                        row_count(ax.view),
                                        length,
                                        0};
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.row_norms, norm.name).backward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    const py::tuple gradients =
        reference("norms").attr((name + "_backward").c_str())(ady.owner, ax.owner, as.owner, owner_or_none(aw));
    copy_into(adx, gradients[0]);
    if (adw) copy_into(*adw, gradients[1]);
    if (adb) copy_into(*adb, gradients[2]);
  } else {
    py::gil_scoped_release release;
    row_norm_backward(norm, ady.view, ax.view, as.view, view_or_null(aw), adx.view, view_or_null(adw),
                      view_or_null(adb));
  }
  if (!norm.has_mean) return py::make_tuple(arguments.result(adx), result_or_none(arguments, adw));
  return py::make_tuple(arguments.result(adx), result_or_none(arguments, adw), result_or_none(arguments, adb));
}

// running_mean or running_var: written in training, needed without.
Optional running(Arguments& arguments, py::handle value, const char* name, const TensorView& x, bool training) {
  if (value.is_none() && !training) {
    throw TypeError(std::string(name) + " must be an array where training is False, got None");
  }
  if (value.is_none()) return {};
  Array a = arguments.in(value, name);
  check_dtype(a.view, compute_dtype(x.dtype), "what x's dtype is computed in");
  check_shape(a.view, {x.shape[1]}, kChannel);
  if (training) check_output(a.view);
  return a;
}

py::object batch_forward(py::handle x, py::handle running_mean, py::handle running_var, py::handle weight,
                         py::handle bias, py::handle training, py::handle momentum, py::handle eps, py::handle out,
                         py::handle saved_too) {
  BatchNormOptions options;
  options.training = boolean(training, "training");
  options.momentum = number(momentum, "momentum");
  if (!(options.momentum >= 0 && options.momentum <= 1)) {
    throw ValueError("momentum must lie in [0, 1], got " + std::string(py::repr(momentum)));
  }
  options.eps = read_eps(eps);
  const bool return_saved = boolean(saved_too, "return_saved");
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  check_ndim(ax.view, 2, "(N, C, ...)");
  const int64_t channels = ax.view.shape[1];
  int64_t count = ax.view.shape[0];
  for (int d = 2; d < ax.view.ndim; d++) count *= ax.view.shape[d];
  if (options.training && count == 1) {
    throw ValueError("x must have more than one value a channel in training, got " + describe(ax.view));
  }
  const Optional amean = running(arguments, running_mean, "running_mean", ax.view, options.training);
  const Optional avar = running(arguments, running_var, "running_var", ax.view, options.training);
  const Optional aw = vector(arguments, weight, "weight", ax.view, channels, kChannel);
  const Optional ab = vector(arguments, bias, "bias", ax.view, channels, kChannel);
  const Array ay = arguments.out(out, "out", ax);
  if (options.training) {
    Arguments::check_outputs({&ay, array_or_null(amean), array_or_null(avar)}, {array_or_null(aw), array_or_null(ab)},
                             {&ax});
  } else {
    Arguments::check_outputs({&ay}, {array_or_null(amean), array_or_null(avar), array_or_null(aw), array_or_null(ab)},
                             {&ax});
  }
  Optional saved;
  if (return_saved) saved = arguments.fresh(compute_dtype(ax.view.dtype), {2, channels});

  if (DeviceCall* device = arguments.device()) {
    const cuda::RowShape shape = row_shape(ax.view, 1);
    check_same_order(ay.view, ax.view);
    const cuda::BatchNormArrays arrays = {nullptr,
                                          ax.view.data,
                                          contiguous_data(aw),
                                          contiguous_data(ab),
                                          contiguous_data(amean),
                                          contiguous_data(avar),
                                          contiguous_data(saved),
                                          ay.view.data,
                                          nullptr,
                                          nullptr,
                                          shape.outer,
                                          shape.length,
                                          shape.inner,
                                          options.training,
                                          options.eps,
                                          options.momentum};
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.batch_norm_forward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    const py::tuple results = reference("norms").attr("batch_norm")(
        ax.owner, owner_or_none(amean), owner_or_none(avar), owner_or_none(aw), owner_or_none(ab),
        py::arg("training") = options.training, py::arg("momentum") = options.momentum, py::arg("eps") = options.eps,
        py::arg("return_saved") = true);
    copy_into(ay, results[0]);
    if (saved) copy_into(*saved, results[1]);
  } else {
    py::gil_scoped_release release;
    batch_norm_forward(options, ax.view, view_or_null(amean), view_or_null(avar), view_or_null(aw), view_or_null(ab),
                       ay.view, view_or_null(saved));
  }
  if (!return_saved) return arguments.result(ay);
  return py::make_tuple(arguments.result(ay), arguments.result(*saved));
}

py::tuple batch_backward(py::handle dy, py::handle x, py::handle saved, py::handle weight, py::handle training_given,
                         py::handle bias, py::handle out) {
  const bool training = boolean(training_given, "training");
  const bool with_bias = bias.is_none() ? !weight.is_none() : boolean(bias, "bias");
  const py::tuple outputs = given_outputs(out, 3, "(dx, dweight, dbias)");
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  check_ndim(ady.view, 2, "(N, C, ...)");
  const Array ax = arguments.in(x, "x");
  check_dtype(ax.view, ady.view);
  check_shape(ax.view, ady.view);
  const int64_t channels = ax.view.shape[1];
  const Array as = arguments.in(saved, "saved");
  check_dtype(as.view, compute_dtype(ax.view.dtype), "what return_saved=True gave");
  check_shape(as.view, {2, channels}, "what return_saved=True gave");
  const Optional aw = vector(arguments, weight, "weight", ax.view, channels, kChannel);
  const Array adx = arguments.out(outputs[0], "dx", ax);
  const Optional adw =
      sum_output(arguments, outputs[1], "dweight", aw.has_value(), "without a weight", ax.view, channels);
  const Optional adb = sum_output(arguments, outputs[2], "dbias", with_bias, "without a bias", ax.view, channels);
  Arguments::check_outputs({&adx, array_or_null(adw), array_or_null(adb)}, {&as, array_or_null(aw)}, {&ady, &ax});

  if (DeviceCall* device = arguments.device()) {
    const cuda::RowShape shape = row_shape(ax.view, 1);
    check_same_order(ady.view, ax.view);
    check_same_order(adx.view, ax.view);
    const cuda::BatchNormArrays arrays = {ady.view.data,
                                          ax.view.data,
                                          contiguous_data(aw),
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          contiguous_data(&as),
                                          adx.view.data,
                                          contiguous_data(adw),
                                          contiguous_data(adb),
                                          shape.outer,
                                          shape.length,
                                          shape.inner,
                                          training,
                                          0,
                                          0};
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.batch_norm_backward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    const py::tuple gradients = reference("norms").attr("batch_norm_backward")(
        ady.owner, ax.owner, as.owner, owner_or_none(aw), py::arg("training") = training);
    copy_into(adx, gradients[0]);
    if (adw) copy_into(*adw, gradients[1]);
    if (adb) copy_into(*adb, gradients[2]);
  } else {
    py::gil_scoped_release release;
    batch_norm_backward(training, ady.view, ax.view, as.view, view_or_null(aw), adx.view, view_or_null(adw),
                        view_or_null(adb));
  }
  return py::make_tuple(arguments.result(adx), result_or_none(arguments, adw), result_or_none(arguments, adb));
}

}  // namespace

void bind_norms(py::module_& m) {
  m.def("row_norm_forward", &forward);
  m.def("row_norm_backward", &backward);
  m.def("batch_norm_forward", &batch_forward);
  m.def("batch_norm_backward", &batch_backward);
}

}  // namespace innerloop
