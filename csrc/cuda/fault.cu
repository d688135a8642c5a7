#include <cuda_runtime_api.h>
#include <string.h>

#include <atomic>

#include "cuda/fault.h"

namespace innerloop::cuda {
namespace {

constexpr int kDevices = 64;

// Never freed: kernels may be in flight when the process ends.
std::atomic<Fault*> faults{nullptr};

int make_faults() {
  // While another thread, or this, captures a graph, too: nothing is queued.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) return error;
  void* made = nullptr;
  error = cudaHostAlloc(&made, kDevices * sizeof(Fault), cudaHostAllocPortable | cudaHostAllocMapped);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) return error;
  memset(made, 0, kDevices * sizeof(Fault));
  Fault* none = nullptr;
  if (!faults.compare_exchange_strong(none, static_cast<Fault*>(made))) cudaFreeHost(made);
  return cudaSuccess;
}

}  // namespace

// Devices see this memory by the host's addresses.
int find_fault(Fault** fault) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  if (device >= kDevices) return cudaErrorInvalidDevice;
  if (faults.load() == nullptr) {
    const int failed = make_faults();
    if (failed != cudaSuccess) return failed;
  }
  *fault = faults.load() + device;
  return cudaSuccess;
}

int take_fault(const Queue& queue, bool wait, Fault* taken) {
  *taken = {};
  if (!wait && faults.load() == nullptr) return cudaSuccess;
  Fault* fault = nullptr;
  int error = find_fault(&fault);
  if (error == cudaSuccess && wait) error = cudaStreamSynchronize((cudaStream_t)queue.stream);
  if (error != cudaSuccess) return error;
  volatile uint64_t* found = &fault->found;  // a kernel may write at any time
  if (*found == 0) return cudaSuccess;
  taken->found = *found;
  taken->label = *(volatile int64_t*)&fault->label;
  *found = 0;
  return cudaSuccess;
}

}  // namespace innerloop::cuda
