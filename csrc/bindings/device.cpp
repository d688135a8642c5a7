#include "bindings/device.h"

namespace innerloop {

static thread_local bool may_go_over = false;

MayGoOver::MayGoOver() : before(may_go_over) { may_go_over = !reference_in_use(); }
MayGoOver::~MayGoOver() { may_go_over = before; }

void go_over_if_on_device(py::handle value) {
  if (!may_go_over) return;
  const py::module_ arrays = py::module_::import("innerloop._arrays");
  if (arrays.attr("cuda_module")().is_none() || !arrays.attr("is_on_cuda")(value).cast<bool>()) return;
  throw OnDevice("the array lies on a CUDA device");
}

}  // namespace innerloop
