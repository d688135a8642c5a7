// DLPack's structs, and what lends them: shared by the CPU's module and the GPU's.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>

#include <string>

#include "core/tensor.h"

namespace innerloop::dlpack {

namespace py = pybind11;

// The protocol's structs, as its C header lays them out.
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;  // in elements; no strides: C order
  uint64_t byte_offset;
};
struct Legacy {
  Tensor tensor;
  void* context;
  void (*deleter)(Legacy*);
};
struct Versioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  uint64_t flags;
  Tensor tensor;
};
// What a type says once of all its objects, in C: a tensor is had without a call into Python's __dlpack__.
struct Exchange {
  uint32_t major, minor;
  const Exchange* previous;  // of an older version, or null
  void* allocate;
  int (*lend)(void* object, Versioned** out);                      // 0, or -1 and a Python exception
  int (*take)(Versioned* tensor, void** object);                   // a new object, which owns the tensor
  int (*borrow)(void* object, Tensor* out);                        // for as long as the object lives; may be null
  int (*stream)(int32_t device_type, int32_t device, void** out);  // the one that its library works on now
};
constexpr const char *kExchange = "__dlpack_c_exchange_api__", *kExchangeName = "dlpack_exchange_api";
constexpr uint64_t kReadOnly = 1;
constexpr int kCpu = 1, kCudaHost = 3, kRocmHost = 11;  // device types whose memory a CPU reads
constexpr int kCuda = 2, kCudaManaged = 13;             // and those of NVIDIA GPUs
constexpr int kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6;
constexpr const char *kLegacyName = "dltensor", *kVersionedName = "dltensor_versioned";

[[noreturn]] void refuse(const std::string& why);  // TypeError

// The address, and shape and strides in bytes. Checks what a tensor says of itself: sizes that overflow, or arrays that
// are missing, must not be believed.
char* read_layout(const Tensor& t, int64_t item, int64_t* shape, ptrdiff_t* strides);
bool read_dtype(DataType d, Dtype& dtype);  // false for what no kernel takes

// A type that lends in C.
struct Lender {
  PyTypeObject* type;
  const Exchange* exchange;
  PyObject* records;  // of its library, whether autograd takes down what is done now; null where it has no autograd
};
// Null for most types. Of the type itself: one derived from it may override __dlpack__, unless `lend_as` says
// otherwise.
const Lender* lender_of(PyTypeObject* type);
// That instances of `type`, derived from `base`, lend their memory as those of `base` do.
void lend_as(py::type type, py::type base);
// Whether a tensor's memory is what it looks like, and no gradient is lost if it is read.
bool is_plain(py::handle value, const Lender& lender);

}  // namespace innerloop::dlpack
