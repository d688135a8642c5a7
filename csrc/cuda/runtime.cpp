// The table that innerloop._core calls, and what it asks of the driver.
#include <cuda_runtime_api.h>

#include "cuda/list.h"

namespace innerloop::cuda {
namespace {

const char* error_text(int error) { return cudaGetErrorString((cudaError_t)error); }

bool is_absent(int error) { return error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver; }

// An error is forgotten, unless the context is lost: the next call is not to find it.
int forget(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

int device_of(const void* memory, int* device) {
  cudaPointerAttributes attributes;
  const int error = forget(cudaPointerGetAttributes(&attributes, memory));
  if (error != cudaSuccess) return error;
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  *device = on_device ? attributes.device : -1;
  return cudaSuccess;
}

int current_device(int* device) { return forget(cudaGetDevice(device)); }
// What other libraries' calls, and ours that were refused, left behind is not to be found after the next launch.
int use_device(int device) {
  cudaGetLastError();
  return forget(cudaSetDevice(device));
}

int limits(int device, Queue* queue) {
  int error = forget(cudaDeviceGetAttribute(&queue->processors, cudaDevAttrMultiProcessorCount, device));
  int shared = 0;
  if (error == cudaSuccess) {
    error = forget(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  }
  queue->shared_memory = shared - kReduceBytes;
  return error;
}

}  // namespace

const Kernels kernels = {{error_text, is_absent, device_of, current_device, use_device, limits},
                         &activations,
                         &optimizers,
                         clip,
                         dropout,
                         &gated,
                         prelu_forward,
                         prelu_backward,
                         &row_norms,
                         batch_norm_forward,
                         batch_norm_backward,
                         &elementwise_losses,
                         &softmaxes,
                         softmax_cross_entropy,
                         nll_loss,
                         take_fault,
                         has_tensor_cores,
                         linear_forward,
                         linear_backward,
                         linear_cross_entropy};

}  // namespace innerloop::cuda
