// The calls of CUDA's runtime, for one device that is the host.
#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <mutex>

#include "cuda_runtime_api.h"
#include "device_memory.h"
#include "fibres.h"
#include "guarded.h"

namespace innerloop::emulator {
namespace {

std::mutex mutex;
std::map<const char*, Guarded, std::greater<>> arrays;  // by address, the highest first
int64_t until_failure = -1;

}  // namespace

void* allocate(size_t bytes, size_t alignment) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (until_failure == 0) return nullptr;
  if (until_failure > 0) until_failure--;
  Guarded array(bytes, alignment);
  char* const data = array.data;
  if (data == nullptr) return nullptr;
  array.fill();
  arrays[data] = std::move(array);
  return data;
}

bool release(void* data) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = arrays.find(static_cast<char*>(data));
  if (found == arrays.end()) return false;
  const bool held = found->second.holds();
  arrays.erase(found);
  return held;
}

bool holds(void* data) {
  const std::lock_guard<std::mutex> lock(mutex);
  return arrays.at(static_cast<char*>(data)).holds();
}

int64_t array_count() {
  const std::lock_guard<std::mutex> lock(mutex);
  return (int64_t)arrays.size();
}

void fail_after(int64_t allocations) {
  const std::lock_guard<std::mutex> lock(mutex);
  until_failure = allocations;
}

namespace {

bool is_array(const void* p) {
  const std::lock_guard<std::mutex> lock(mutex);
  const char* const at = static_cast<const char*>(p);
  const auto found = arrays.lower_bound(at);
  return found != arrays.end() && at <= found->first + found->second.size;
}

}  // namespace
}  // namespace innerloop::emulator

namespace emulator = innerloop::emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return "invalid argument";
  }
}

static thread_local cudaError_t last = cudaSuccess;

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  snprintf(properties->name, sizeof properties->name, "the host, which emulates it");
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::kProcessors : emulator::kMostShared + 512;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  *attributes = {emulator::is_array(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, 0};
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  *data = emulator::allocate(bytes, 16);
  if (*data == nullptr) last = cudaErrorMemoryAllocation;
  return *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  if (emulator::release(data)) return cudaSuccess;
  fprintf(stderr, "emulated GPU: an array is freed that there is not, or something was written beside it\n");
  abort();
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  *data = malloc(bytes);
  return *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* data) {
  free(data);
  return cudaSuccess;
}
