#include "bindings/dlpack.h"

#include <stdint.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/errors.h"
#include "kernels.h"

namespace innerloop {
namespace {

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
  int (*lend)(void* object, Versioned** out);  // 0, or -1 and a Python exception
};
constexpr const char *kExchange = "__dlpack_c_exchange_api__", *kExchangeName = "dlpack_exchange_api";
constexpr uint64_t kReadOnly = 1;
constexpr int kCpu = 1, kCudaHost = 3, kRocmHost = 11;  // device types whose memory a CPU reads
constexpr int kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6;
constexpr const char *kLegacyName = "dltensor", *kVersionedName = "dltensor_versioned";

[[noreturn]] void refuse(const std::string& why) { throw TypeError("its DLPack capsule " + why); }

py::dtype dtype_of(DataType d, const py::dtype& bfloat16) {
  const char* kind = nullptr;
  if (d.lanes == 1 && d.bits % 8 == 0) {
    if (d.code == kFloat && d.bits == 32) return py::dtype::of<float>();  // by a string it takes ten times as long
    if (d.code == kBfloat && d.bits == 16) return bfloat16;
    if (d.code == kInt && d.bits <= 64) kind = "i";
    if (d.code == kUint && d.bits <= 64) kind = "u";
    if (d.code == kFloat && d.bits >= 16 && d.bits <= 64) kind = "f";
    if (d.code == kComplex && (d.bits == 64 || d.bits == 128)) kind = "c";
    if (d.code == kBool && d.bits == 8) return py::dtype("?");
  }
  const int bytes = d.bits / 8;
  if (kind == nullptr || (bytes & (bytes - 1)) != 0) {
    refuse("holds elements of code " + std::to_string(d.code) + ", " + std::to_string(d.bits) + " bits and " +
           std::to_string(d.lanes) + " lanes, which is none of NumPy's dtypes");
  }
  return py::dtype(kind + std::to_string(bytes));
}

// Checks what a capsule says of itself: sizes that overflow, or arrays that are missing, must not be believed.
py::array read(const Tensor& t, bool writeable, const py::dtype& bfloat16, const py::capsule& owner) {
  static char nothing[64];
  if (t.device.type != kCpu && t.device.type != kCudaHost && t.device.type != kRocmHost) {
    refuse("lies on a device of type " + std::to_string(t.device.type) + ", not on the CPU");
  }
  if (t.ndim < 0 || t.ndim > kMaxDims) refuse("has " + std::to_string(t.ndim) + " axes");
  if (t.ndim > 0 && t.shape == nullptr) refuse("has no shape");
  const py::dtype dtype = dtype_of(t.dtype, bfloat16);
  std::vector<py::ssize_t> shape((size_t)t.ndim), strides((size_t)t.ndim);
  bool empty = false;
  for (int d = 0; d < t.ndim; d++) {
    shape[(size_t)d] = t.shape[d];
    if (t.shape[d] < 0) refuse("has an axis of length " + std::to_string(t.shape[d]));
    empty |= t.shape[d] == 0;
  }
  const int64_t item = dtype.itemsize();
  int64_t dense = item, reach = 0;
  for (int d = t.ndim - 1; d >= 0; d--) {
    int64_t stride = dense, extent = 0;
    bool overflow = t.strides != nullptr && __builtin_mul_overflow(t.strides[d], item, &stride);
    if (empty) {
      stride = item;
    } else {
      overflow |= __builtin_mul_overflow(dense, t.shape[d], &dense) && t.strides == nullptr;
      overflow |= stride == INT64_MIN;
      overflow |= __builtin_mul_overflow(stride < 0 ? -stride : stride, t.shape[d] - 1, &extent);
      overflow |= __builtin_add_overflow(reach, extent, &reach);
      if (overflow) refuse("describes more memory than there is");
    }
    strides[(size_t)d] = stride;
  }
  if (t.data == nullptr && !empty) refuse("has no data");
  char* data = t.data == nullptr ? nothing : static_cast<char*>(t.data) + t.byte_offset;
  py::array array(dtype, shape, strides, data, owner);
  if (!writeable) py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return array;
}

// Takes a tensor over: whoever drops the array drops the tensor.
template <class Managed>
py::capsule owner_of(Managed* managed) {
  if (managed->deleter == nullptr) return py::capsule(managed);  // lent by one who looks after it himself
  return py::capsule(managed, [](void* p) {
    auto* m = static_cast<Managed*>(p);
    m->deleter(m);
  });
}
template <class Managed>
py::capsule take(const py::object& capsule, const char* name, const char* used, Managed*& managed) {
  managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (managed == nullptr) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), used);
  return owner_of(managed);
}

py::array read(const Versioned& t, const py::dtype& bfloat16, const py::capsule& owner) {
  if (t.major > 1) refuse("is of version " + std::to_string(t.major) + ", which is not known yet");
  return read(t.tensor, (t.flags & kReadOnly) == 0, bfloat16, owner);
}

// Of the type itself: one derived from it may override __dlpack__.
const Exchange* exchange_of(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type;
    const Exchange* exchange;
  };
  static std::atomic<const Known*> last{nullptr};  // of the one library with such tensors that a process mostly has
  const Known* known = last.load(std::memory_order_acquire);
  if (known != nullptr && known->type == type) return known->exchange;
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!handle.attr("__dict__").contains(kExchange)) return nullptr;
  const py::object capsule = handle.attr(kExchange);
  if (!PyCapsule_IsValid(capsule.ptr(), kExchangeName)) return nullptr;
  auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), kExchangeName));
  while (exchange != nullptr && exchange->major > 1) exchange = exchange->previous;
  if (exchange == nullptr || exchange->major != 1) return nullptr;
  const Known* none = nullptr;
  auto made = std::make_unique<Known>(Known{type, exchange});
  if (last.compare_exchange_strong(none, made.get(), std::memory_order_acq_rel)) {
    handle.inc_ref();  // so that its address names no other type
    made.release();
  }
  return exchange;
}

// With all that we ask for; with less, where the producer knows only an older form of the protocol.
py::object ask(py::handle value) {
  const py::object method = value.attr("__dlpack__");
  py::dict keywords;
  keywords["max_version"] = py::make_tuple(1, 1);
  keywords["copy"] = false;
  for (const char* drop : {"copy", "max_version"}) {
    try {
      return method(**keywords);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
    }
    keywords.attr("pop")(drop);
  }
  return method();
}

// An array of ours, with bfloat16 said in the one way that other libraries understand.
struct Lent {
  py::array array;
  bool bfloat16;
};

// What a capsule of ours keeps until its consumer is done.
template <class Managed>
struct Loan {
  Managed managed;
  py::object array;
  std::vector<int64_t> shape, strides;
};

template <class Managed>
py::capsule lend(const Lent& lent, const char* name) {
  auto loan = std::make_unique<Loan<Managed>>();
  const py::array& a = lent.array;
  loan->array = a;
  loan->shape.assign(a.shape(), a.shape() + a.ndim());
  for (py::ssize_t d = 0; d < a.ndim(); d++) loan->strides.push_back(a.strides(d) / a.itemsize());
  const char kind = a.dtype().kind();
  const int code = lent.bfloat16 ? kBfloat : kind == 'f' ? kFloat : kind == 'u' ? kUint : kind == 'b' ? kBool : kInt;
  loan->managed.tensor = {const_cast<void*>(a.data()),
                          {kCpu, 0},
                          (int32_t)a.ndim(),
                          {(uint8_t)code, (uint8_t)(a.itemsize() * 8), 1},
                          loan->shape.data(),
                          loan->strides.data(),
                          0};
  loan->managed.context = loan.get();
  loan->managed.deleter = [](Managed* m) {
    py::gil_scoped_acquire gil;
    delete static_cast<Loan<Managed>*>(m->context);
  };
  if constexpr (std::is_same_v<Managed, Versioned>) {
    loan->managed.major = 1;
    loan->managed.minor = 0;
    loan->managed.flags = a.writeable() ? 0 : kReadOnly;
  }
  PyObject* capsule = PyCapsule_New(&loan->managed, name, [](PyObject* c) {
    const char* held = PyCapsule_GetName(c);  // another name once it has been consumed
    const char* own = std::is_same_v<Managed, Versioned> ? kVersionedName : kLegacyName;
    if (held == nullptr || std::string(held) != own) return;
    auto* m = static_cast<Managed*>(PyCapsule_GetPointer(c, own));
    m->deleter(m);
  });
  if (capsule == nullptr) throw py::error_already_set();
  loan.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

}  // namespace

bool has_exchange(py::handle value) { return exchange_of(Py_TYPE(value.ptr())) != nullptr; }

py::array from_dlpack(py::handle value, const py::dtype& bfloat16) {
  if (const Exchange* exchange = exchange_of(Py_TYPE(value.ptr()))) {
    Versioned* managed = nullptr;
    if (exchange->lend(value.ptr(), &managed) != 0) throw py::error_already_set();
    if (managed == nullptr) throw TypeError("its type lent no DLPack tensor");
    return read(*managed, bfloat16, owner_of(managed));
  }
  if (py::hasattr(value, "__dlpack_device__")) {
    const py::tuple device = value.attr("__dlpack_device__")();
    const int type = device[0].cast<int>();
    if (type != kCpu && type != kCudaHost && type != kRocmHost) {
      throw TypeError("it lies on a device of DLPack's type " + std::to_string(type) + ", not on the CPU");
    }
  }
  const py::object capsule = ask(value);
  if (PyCapsule_IsValid(capsule.ptr(), kVersionedName)) {
    Versioned* managed;
    const py::capsule owner = take(capsule, kVersionedName, "used_dltensor_versioned", managed);
    return read(*managed, bfloat16, owner);
  }
  if (!PyCapsule_IsValid(capsule.ptr(), kLegacyName)) {
    throw TypeError("its __dlpack__ returned no DLPack capsule, but " + std::string(py::repr(capsule)));
  }
  Legacy* managed;
  const py::capsule owner = take(capsule, kLegacyName, "used_dltensor", managed);
  return read(managed->tensor, false, bfloat16, owner);  // a legacy capsule cannot say whether writing is allowed
}

void bind_dlpack(py::module_& m) {
  m.def("from_dlpack", &from_dlpack);
  py::class_<Lent>(m, "Lent", "An array that another library's from_dlpack takes.")
      .def(py::init([](const py::array& array, bool bfloat16) { return Lent{array, bfloat16}; }))
      .def("__dlpack_device__", [](const Lent&) { return py::make_tuple(kCpu, 0); })
      .def(
          "__dlpack__",
          [](const Lent& lent, py::object, py::object max_version, py::object, py::object) {
            const bool versioned = !max_version.is_none() && max_version.attr("__getitem__")(0).cast<int>() >= 1;
            return versioned ? lend<Versioned>(lent, kVersionedName) : lend<Legacy>(lent, kLegacyName);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
}

}  // namespace innerloop
