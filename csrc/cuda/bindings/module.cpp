// innerloop._cuda: the kernels for NVIDIA GPUs. It is loaded where there is no driver, too, and says so.
#include <cuda_runtime_api.h>

#include "bindings/errors.h"
#include "cuda/bindings/arrays.h"

namespace innerloop::cuda {
namespace {

// In words: which devices there are, or why there is none.
std::string status() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return std::string("built, without a device: ") + cudaGetErrorString(error);
  }
  std::string text = "built, on";
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i));
    text += (i ? ", " : " ") + std::string(properties.name);
  }
  return text;
}

}  // namespace
}  // namespace innerloop::cuda

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
  using namespace innerloop::cuda;
  py::register_local_exception_translator(&innerloop::translate);
  m.def("status", &status);
  bind_activations(m);
  bind_optimizers(m);
}
