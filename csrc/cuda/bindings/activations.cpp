// The activations of CUDA arrays: innerloop._core's functions of the same names, whose checks of numbers they share.
#include <string>
#include <vector>

#include "core/checks.h"
#include "cuda/bindings/arrays.h"

namespace innerloop::cuda {
namespace {

struct Numbers {
  std::vector<double> values;
  bool saves_output;
};

const Activation& find(py::handle called, const py::dict& given, Numbers& numbers) {
  const py::tuple read = py::module_::import("innerloop._core").attr("activation_numbers")(called, given);
  for (const py::handle value : py::list(read[0])) numbers.values.push_back(value.cast<double>());
  numbers.saves_output = read[1].cast<bool>();
  const auto name = called.cast<std::string>();
  for (const Activation& a : activations) {
    if (name == a.name) return a;
  }
  throw ValueError("there is no activation '" + name + "' for CUDA devices");
}

template <size_t n>
Elements<(int)n> elements(const Array* const (&arrays)[n]) {
  Elements<(int)n> e;
  e.size = arrays[0]->view.size();
  e.aligned = true;
  for (size_t i = 0; i < n; i++) {
    e.data[i] = arrays[i]->view.data;
    e.aligned &= is_aligned(arrays[i]->view);
  }
  return e;
}

// Queues it unless there is nothing to do.
template <class Launch>
void run(Arguments& arguments, int64_t size, const Launch& launch) {
  if (size == 0) return;
  const Queue queue = arguments.queue();
  int error;
  {
    py::gil_scoped_release release;
    error = launch(queue);
  }
  check(error);
}

py::object forward(py::handle called, py::handle x, const py::dict& given, py::handle out) {
  Numbers numbers;
  const Activation& activation = find(called, given, numbers);
  Arguments arguments;
  const Array ax = arguments.in(x, "x");
  check_floating(ax.view);
  check_dense(ax.view);
  const Array ay = arguments.out(out, "out", ax);
  check_overlap(ay, ax);
  const auto e = elements({&ax, &ay});
  run(arguments, e.size,
      [&](const Queue& queue) { return activation.forward(queue, ax.view.dtype, numbers.values.data(), e); });
  return ay.caller;
}

py::object backward(py::handle called, py::handle dy, py::handle x, const py::dict& given, py::handle y,
                    py::handle out) {
  Numbers numbers;
  const Activation& activation = find(called, given, numbers);
  Arguments arguments;
  const Array ady = arguments.in(dy, "dy");
  check_floating(ady.view);
  check_dense(ady.view);
  const bool from_output = numbers.saves_output && !y.is_none();
  auto checked = [&](py::handle value, const char* argument) {
    const Array array = arguments.in(value, argument);
    check_dtype(array.view, ady.view);
    check_shape(array.view, ady.view);
    check_same_order(array.view, ady.view);
    return array;
  };
  const Array saved = from_output ? checked(y, "y") : checked(x, "x");
  // What is given without being needed is still what it should be.
  if (from_output && !x.is_none()) checked(x, "x");
  if (!from_output && !y.is_none()) checked(y, "y");
  const Array adx = arguments.out(out, "out", ady);
  check_overlap(adx, ady);
  check_overlap(adx, saved);
  const auto e = elements({&ady, &saved, &adx});
  const auto launch = from_output ? activation.backward : activation.backward_from_input;
  run(arguments, e.size, [&](const Queue& queue) { return launch(queue, ady.view.dtype, numbers.values.data(), e); });
  return adx.caller;
}

}  // namespace

void bind_activations(py::module_& m) {
  m.def("activation_forward", &forward);
  m.def("activation_backward", &backward);
}

}  // namespace innerloop::cuda
