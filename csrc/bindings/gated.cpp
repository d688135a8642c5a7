// Python's gated pairs: converts, checks, releases the GIL, calls the list.
#include "core/gated.h"

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

int split_axis(py::handle given, const TensorView& x) {
  const int64_t axis = integer(given, "axis");
  check_ndim(x, 1, "one of which is split into halves");
  return check_axis(axis, x);
}

py::object of_reference(const std::string& name) { return reference("gated").attr("GATED")[name.c_str()]; }

// The rows of halves that kernels of a device take.
cuda::GatedArrays device_arrays(const Array* dy, const Array& x, int axis, const Array& out) {
  for (const Array* a : {dy, &x, &out}) {
    if (a != nullptr) check_contiguous(a->view);
  }
  cuda::GatedArrays arrays = {dy ? dy->view.data : nullptr, x.view.data, out.view.data, 1, x.view.shape[axis] / 2};
  for (int d = 0; d < axis; d++) arrays.rows *= x.view.shape[d];
  for (int d = axis + 1; d < x.view.ndim; d++) arrays.half *= x.view.shape[d];
  return arrays;
}

py::object forward(const std::string& name, py::handle x, py::handle axis, py::handle out) {
  const GatedPair& pair = find_gated(name);
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  const int along = split_axis(axis, ax.view);
  const Array ay = arguments.out(out, "out", ax.view.dtype, check_gated(ax.view, along));
  Arguments::check_overlap(ay, ax, false);
  if (DeviceCall* device = arguments.device()) {
    const auto arrays = device_arrays(nullptr, ax, along, ay);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.gated, pair.name).forward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    copy_into(ay, of_reference(name).attr("forward")(ax.owner, axis));
  } else {
    py::gil_scoped_release release;
    gated_forward(pair, ax.view, along, ay.view);
  }
  return arguments.result(ay);
}

py::object backward(const std::string& name, py::handle dy, py::handle x, py::handle axis, py::handle out) {
  const GatedPair& pair = find_gated(name);
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  const int along = split_axis(axis, ax.view);
  const Shape half = check_gated(ax.view, along);
  check_dtype(ady.view, ax.view);
  check_shape(ady.view, half, "half of x along the axis");
  const Array adx = arguments.out(out, "out", ax.view.dtype, ax.view.dims());
  Arguments::check_overlap(adx, ady, false);
  Arguments::check_overlap(adx, ax, false);
  if (DeviceCall* device = arguments.device()) {
    const auto arrays = device_arrays(&ady, ax, along, adx);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.gated, pair.name).backward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    copy_into(adx, of_reference(name).attr("backward")(ady.owner, ax.owner, axis));
  } else {
    py::gil_scoped_release release;
    gated_backward(pair, ady.view, ax.view, along, adx.view);
  }
  return arguments.result(adx);
}

py::list list() {
  py::list entries;
  for (const GatedPair& pair : *kernels().gated) {
    entries.append(py::make_tuple(pair.name, pair.activation, pair.gate_is_first));
  }
  return entries;
}

}  // namespace

void bind_gated(py::module_& m) {
  m.def("gated_pairs", &list, "(name, the gate's activation, whether the gate is the first half), in the list's order");
  m.def("gated_forward", &forward);
  m.def("gated_backward", &backward);
}

}  // namespace innerloop
