// Python's activations: converts, checks, releases the GIL, calls the list.
#include "core/activations.h"

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

py::object forward(py::handle called, py::handle x, const py::dict& given, py::handle out) {
  const std::string name = text(called, "activation name");
  const Activation& activation = find_activation(name);
  const ParameterValues parameters =
      parameter_values(name.c_str(), activation.parameters, activation.parameter_count, given);
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  const Array ay = arguments.out(out, "out", ax);
  Arguments::check_overlap(ay, ax, true);
  if (DeviceCall* device = arguments.device()) {
    const auto e = dense_elements({&ax, &ay});
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.activations, activation.name).forward(queue, ax.view.dtype, parameters.value, e);
    });
  } else if (reference_in_use()) {
    copy_into(ay, reference("activations").attr("ACTIVATIONS")[name.c_str()].attr("forward")(ax.owner, **given));
  } else {
    py::gil_scoped_release release;
    activation_forward(activation, parameters.value, ax.view, ay.view);
  }
  return arguments.result(ay);
}

py::object backward(py::handle called, py::handle dy, py::handle x, const py::dict& given, py::handle y,
                    py::handle out) {
  const std::string name = text(called, "activation name");
  const Activation& activation = find_activation(name);
  const ParameterValues parameters =
      parameter_values(name.c_str(), activation.parameters, activation.parameter_count, given);
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  const bool from_output = activation.saves_output && !y.is_none();
  auto checked = [&](py::handle value, const char* argument) {
    const Array array = arguments.in(value, argument);
    check_dtype(array.view, ady.view);
    check_shape(array.view, ady.view);
    return array;
  };
  const Array saved = from_output ? checked(y, "y") : checked(x, "x");
  // What is given without being needed is still what it should be.
  if (from_output && !x.is_none()) checked(x, "x");
  if (!from_output && !y.is_none()) checked(y, "y");
  const Array adx = arguments.out(out, "out", ady);
  Arguments::check_overlap(adx, ady, true);
  Arguments::check_overlap(adx, saved, true);
  if (DeviceCall* device = arguments.device()) {
    const auto e = dense_elements({&ady, &saved, &adx});
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      const cuda::Activation& a = find_kernel(*kernels.activations, activation.name);
      return (from_output ? a.backward : a.backward_from_input)(queue, ady.view.dtype, parameters.value, e);
    });
  } else if (reference_in_use()) {
    py::dict keywords(**given);
    if (from_output) keywords["y"] = saved.owner;
    copy_into(adx, reference("activations")
                       .attr("ACTIVATIONS")[name.c_str()]
                       .attr("backward")(ady.owner, from_output ? py::object(py::none()) : saved.owner, **keywords));
  } else {
    py::gil_scoped_release release;
    activation_backward(activation, parameters.value, ady.view, saved.view, from_output, adx.view);
  }
  return arguments.result(adx);
}

py::list list() {
  py::list entries;
  for (const Activation& a : *kernels().activations) {
    py::dict defaults;
    for (int i = 0; i < a.parameter_count; i++) defaults[a.parameters[i].name] = a.parameters[i].default_value;
    entries.append(py::make_tuple(a.name, defaults, a.saves_output));
  }
  return entries;
}

// exp, log, erf over a contiguous array: for tests of their accuracy.
py::array elementary(const std::string& name, const py::array& x) {
  Arguments arguments;
  const Array ax = arguments.in(x, "x");
  check_full_precision(ax.view);
  const Array ay = arguments.fresh(ax.view.dtype, ax.view.dims());
  if ((x.flags() & py::array::c_style) == 0) throw ValueError("x must be C-contiguous");
  for (const Elementary& e : *kernels().elementary) {
    if (name != e.name) continue;
    if (ax.view.dtype == Dtype::f64) {
      e.f64((const double*)ax.view.data, (double*)ay.view.data, ax.view.size());
    } else {
      e.f32((const float*)ax.view.data, (float*)ay.view.data, ax.view.size());
    }
    return ay.owner;
  }
  throw ValueError("there is no elementary function '" + name + "'");
}

}  // namespace

void bind_activations(py::module_& m) {
  m.def("activations", &list, "(name, {parameter: default}, saves_output) of each, in the list's order");
  m.def("activation_forward", &forward);
  m.def("activation_backward", &backward);
  m.def("elementary", &elementary);
}

}  // namespace innerloop
