// innerloop._core. Built for the architecture's baseline: the CPU is checked before anything else runs, so that an old
// one gets an ImportError and never SIGILL.
#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/errors.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/dispatch.h"
#include "core/pool.h"

namespace innerloop {
namespace {

void set_threads(py::handle n) {
  const int64_t value = integer(n, "num_threads");
  if (value < 1) throw ValueError("num_threads must be at least 1, got " + std::string(py::repr(n)));
  pool::set_threads(value > 1024 ? 1024 : (int)value);
}

}  // namespace
}  // namespace innerloop

// For threadpoolctl, which finds a library by its C symbols.
extern "C" __attribute__((visibility("default"))) int innerloop_get_num_threads() { return innerloop::pool::threads(); }
extern "C" __attribute__((visibility("default"))) void innerloop_set_num_threads(int n) {
  if (n >= 1) innerloop::pool::set_threads(n);
}

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace innerloop;
  try {
    check_cpu();
  } catch (const std::runtime_error& e) {
    throw py::import_error(e.what());
  }
  py::register_exception_translator(&translate);
  m.def("set_num_threads", &set_threads);
  m.def("get_num_threads", &pool::threads);
  bind_backend(m);
  bind_device(m);
  bind_activations(m);
  bind_gated(m);
  bind_prelu(m);
  bind_optimizers(m);
  bind_softmax(m);
  bind_softmax_cross_entropy(m);
  bind_elementwise_losses(m);
  bind_nll_loss(m);
  bind_probe(m);
  bind_linear(m);
  bind_storage(m);
  bind_linear_cross_entropy(m);
  bind_norms(m);
  bind_dropout(m);
  bind_mlp(m);
}
