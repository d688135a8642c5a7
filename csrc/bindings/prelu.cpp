// Python's prelu: converts, checks, releases the GIL, calls the list.
#include "core/prelu.h"

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

Array slopes(Arguments& arguments, py::handle weight, const TensorView& x) {
  const Array array = arguments.in(weight, "weight");
  check_slopes(array.view, x);
  return array;
}

// What kernels of a device take: all of x is one channel where there is one slope.
cuda::PreluArrays device_arrays(const Array* dy, const Array& x, const Array& weight, const Array& out,
                                const Array* dweight) {
  const bool single = weight.view.size() == 1;
  const cuda::RowShape shape = single ? cuda::RowShape{1, 1, x.view.size()} : row_shape(x.view, 1);
  for (const Array* a : {dy, &x, &out}) {
    if (a != nullptr) check_same_order(a->view, x.view);
  }
  check_contiguous(weight.view);
  if (dweight != nullptr) check_contiguous(dweight->view);
  return {dy ? dy->view.data : nullptr,           x.view.data, weight.view.data, out.view.data,
          dweight ? dweight->view.data : nullptr, shape.outer, shape.length,     shape.inner};
}

py::object forward(py::handle x, py::handle weight, py::handle out) {
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  const Array aw = slopes(arguments, weight, ax.view);
  const Array ay = arguments.out(out, "out", ax);
  Arguments::check_outputs({&ay}, {&aw}, {&ax});
  if (DeviceCall* device = arguments.device()) {
    const auto arrays = device_arrays(nullptr, ax, aw, ay, nullptr);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.prelu_forward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    copy_into(ay, reference("prelu").attr("prelu")(ax.owner, aw.owner));
  } else {
    py::gil_scoped_release release;
    prelu_forward(ax.view, aw.view, ay.view);
  }
  return arguments.result(ay);
}

py::tuple backward(py::handle dy, py::handle x, py::handle weight, py::handle out) {
  const py::tuple outputs = given_outputs(out, 2, "(dx, dweight)");
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  const Array ax = arguments.in(x, "x");
  check_dtype(ax.view, ady.view);
  check_shape(ax.view, ady.view);
  const Array aw = slopes(arguments, weight, ax.view);
  const Array adx = arguments.out(outputs[0], "dx", ax);
  const Array adw = arguments.out(outputs[1], "dweight", aw.view.dtype, aw.view.dims());
  Arguments::check_outputs({&adx, &adw}, {&aw}, {&ady, &ax});
  if (DeviceCall* device = arguments.device()) {
    const auto arrays = device_arrays(&ady, ax, aw, adx, &adw);
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.prelu_backward(queue, ax.view.dtype, arrays);
    });
  } else if (reference_in_use()) {
    const py::tuple gradients = reference("prelu").attr("prelu_backward")(ady.owner, ax.owner, aw.owner);
    copy_into(adx, gradients[0]);
    copy_into(adw, gradients[1]);
  } else {
    py::gil_scoped_release release;
    prelu_backward(ady.view, ax.view, aw.view, adx.view, adw.view);
  }
  return py::make_tuple(arguments.result(adx), arguments.result(adw));
}

}  // namespace

void bind_prelu(py::module_& m) {
  m.def("prelu_forward", &forward);
  m.def("prelu_backward", &backward);
}

}  // namespace innerloop
