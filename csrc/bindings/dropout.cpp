// Python's dropout: converts, checks, releases the GIL, calls the list.
#include "core/dropout.h"

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

// Forward and backward are the same: they differ in what the argument is called.
py::object run(const char* name, py::handle x, py::handle p, py::handle seed, py::handle offset, py::handle out) {
  const DropoutWork work = {word64(seed, "seed"), word64(offset, "offset"), number(p, "p")};
  check_probability(work.p, "p");
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, name);
  check_floating(ax.view);
  const Array ay = arguments.out(out, "out", ax.view.dtype, ax.view.dims());
  Arguments::check_overlap(ay, ax, true);
  if (DeviceCall* device = arguments.device()) {
    check_contiguous(ax.view);  // the order of the elements says which random word is whose
    const auto e = dense_elements({&ax, &ay});
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.dropout(queue, ax.view.dtype, work, e);
    });
  } else if (reference_in_use()) {
    copy_into(ay, reference("dropout").attr("dropout")(ax.owner, work.p, py::arg("seed") = work.seed,
                                                       py::arg("offset") = work.offset));
  } else {
    py::gil_scoped_release release;
    dropout(work, ax.view, ay.view);
  }
  return arguments.result(ay);
}

py::object forward(py::handle x, py::handle p, py::handle seed, py::handle offset, py::handle out) {
  return run("x", x, p, seed, offset, out);
}
py::object backward(py::handle dy, py::handle p, py::handle seed, py::handle offset, py::handle out) {
  return run("dy", dy, p, seed, offset, out);
}

// n words from a block on, for tests against the published ones.
py::array_t<uint32_t> philox(py::handle seed, py::handle offset, py::handle block, py::handle n) {
  const int64_t count = integer(n, "n");
  if (count < 0) throw ValueError("n must not be negative, got " + std::to_string(count));
  py::array_t<uint32_t> words(count);
  kernels().random->philox(word64(seed, "seed"), word64(offset, "offset"), word64(block, "block"), count,
                           words.mutable_data());
  return words;
}

}  // namespace

void bind_dropout(py::module_& m) {
  m.def("dropout_forward", &forward);
  m.def("dropout_backward", &backward);
  m.def("philox", &philox);
}

}  // namespace innerloop
