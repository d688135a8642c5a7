// Python's softmax and log_softmax: converts, checks, releases the GIL, calls the list.
#include "core/softmax.h"

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

// Of a 0-d array, as in PyTorch, the one element is a row.
int row_axis(py::handle given, const TensorView& t) {
  const int64_t axis = integer(given, "axis");
  if (t.ndim == 0 && (axis == 0 || axis == -1)) return 0;
  return check_axis(axis, t);
}

py::object forward(const std::string& name, py::handle x, py::handle axis, py::handle out) {
  const SoftmaxFunction& function = find_softmax(name);
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  const int along = row_axis(axis, ax.view);
  const Array ay = arguments.out(out, "out", ax);
  Arguments::check_overlap(ay, ax, true);
  if (DeviceCall* device = arguments.device()) {
    const cuda::RowShape rows = row_shape(ax.view, along);
    check_same_order(ay.view, ax.view);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.softmaxes, function.name)
          .forward(queue, ax.view.dtype, rows, ax.view.data, ay.view.data);
    });
  } else if (reference_in_use()) {
    copy_into(ay, reference("activations").attr(name.c_str())(ax.owner, axis));
  } else {
    py::gil_scoped_release release;
    softmax_forward(function, ax.view, along, ay.view);
  }
  return arguments.result(ay);
}

py::object backward(const std::string& name, py::handle dy, py::handle y, py::handle axis, py::handle out) {
  const SoftmaxFunction& function = find_softmax(name);
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  const Array ay = arguments.in(y, "y");
  check_dtype(ay.view, ady.view);
  check_shape(ay.view, ady.view);
  const int along = row_axis(axis, ady.view);
  const Array adx = arguments.out(out, "out", ady);
  Arguments::check_overlap(adx, ady, true);
  Arguments::check_overlap(adx, ay, true);
  if (DeviceCall* device = arguments.device()) {
    const cuda::RowShape rows = row_shape(ady.view, along);
    check_same_order(ay.view, ady.view);
    check_same_order(adx.view, ady.view);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return find_kernel(*kernels.softmaxes, function.name)
          .backward(queue, ady.view.dtype, rows, ady.view.data, ay.view.data, adx.view.data);
    });
  } else if (reference_in_use()) {
    copy_into(adx, reference("activations").attr((name + "_backward").c_str())(ady.owner, ay.owner, axis));
  } else {
    py::gil_scoped_release release;
    softmax_backward(function, ady.view, ay.view, along, adx.view);
  }
  return arguments.result(adx);
}

}  // namespace

void bind_softmax(py::module_& m) {
  m.def("softmax_forward", &forward);
  m.def("softmax_backward", &backward);
}

}  // namespace innerloop
