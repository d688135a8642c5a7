// innerloop._cuda: the kernels for NVIDIA GPUs, which innerloop._core calls. It is loaded where there is no driver,
// too, and says so.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

#include "cuda/list.h"

namespace innerloop::cuda {
namespace {

// In words: which devices there are, or why there is none.
std::string status() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  std::string text = "built, on";
  for (int i = 0; i < count && error == cudaSuccess; i++) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, i);
    if (error == cudaSuccess) text += (i ? ", " : " ") + std::string(properties.name);
  }
  if (error == cudaSuccess) return text + (has_tensor_cores ? "" : "; products without tensor cores");
  cudaGetLastError();
  return std::string("built, without a device: ") + cudaGetErrorString(error);
}

}  // namespace
}  // namespace innerloop::cuda

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
  using namespace innerloop::cuda;
  m.def("status", &status);
  m.attr("kernels") = pybind11::capsule(&kernels, kKernelsCapsule);
}
