// The machine's limits, for `python -m innerloop bench`.
#include "core/probe.h"

#include "bindings/arrays.h"
#include "bindings/nouns.h"
#include "core/errors.h"

namespace innerloop {
namespace {

double checked_seconds(double seconds) {
  if (!(seconds > 0 && seconds <= 60)) {
    throw ValueError("seconds must lie in (0, 60], got " + std::to_string(seconds));
  }
  return seconds;
}

double fma_peak(const std::string& dtype, double seconds) {
  if (dtype != "float32" && dtype != "float64") {
    throw ValueError("dtype must be float32 or float64, got '" + dtype + "'");
  }
  checked_seconds(seconds);
  py::gil_scoped_release release;
  return probe::fma_rate(dtype == "float64" ? Dtype::f64 : Dtype::f32, seconds);
}

double bandwidth(const std::string& kind, int64_t bytes, double seconds) {
  checked_seconds(seconds);
  if (bytes < 1 || bytes > (int64_t(1) << 34)) {
    throw ValueError("bytes must lie in [1, 2**34], got " + std::to_string(bytes));
  }
  py::gil_scoped_release release;
  return probe::bandwidth(kind, bytes, seconds);
}

double fork_join(double seconds) {
  checked_seconds(seconds);
  py::gil_scoped_release release;
  return probe::fork_join(seconds);
}

double round_trip(double seconds) {
  checked_seconds(seconds);
  py::gil_scoped_release release;
  return probe::round_trip(seconds);
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("fma_peak", &fma_peak, py::arg("dtype"), py::arg("seconds") = 0.1);
  m.def("bandwidth", &bandwidth, py::arg("kind"), py::arg("bytes"), py::arg("seconds") = 0.05);
  m.def("fork_join", &fork_join, py::arg("seconds") = 0.02);
  m.def("round_trip", &round_trip, py::arg("seconds") = 0.005);
}

}  // namespace innerloop
