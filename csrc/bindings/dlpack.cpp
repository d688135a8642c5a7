#include "bindings/dlpack.h"

#include <stdint.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/buffers.h"
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
  int (*lend)(void* object, Versioned** out);     // 0, or -1 and a Python exception
  int (*take)(Versioned* tensor, void** object);  // a new object, which owns the tensor
  int (*borrow)(void* object, Tensor* out);       // for as long as the object lives; may be null
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

// The address, and shape and strides in bytes. Checks what a tensor says of itself: sizes that overflow, or arrays that
// are missing, must not be believed.
char* read_layout(const Tensor& t, int64_t item, int64_t* shape, ptrdiff_t* strides) {
  static char nothing[64];
  if (t.device.type != kCpu && t.device.type != kCudaHost && t.device.type != kRocmHost) {
    refuse("lies on a device of type " + std::to_string(t.device.type) + ", not on the CPU");
  }
  if (t.ndim < 0 || t.ndim > kMaxDims) refuse("has " + std::to_string(t.ndim) + " axes");
  if (t.ndim > 0 && t.shape == nullptr) refuse("has no shape");
  bool empty = false;
  for (int d = 0; d < t.ndim; d++) {
    shape[d] = t.shape[d];
    if (t.shape[d] < 0) refuse("has an axis of length " + std::to_string(t.shape[d]));
    empty |= t.shape[d] == 0;
  }
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
    strides[d] = stride;
  }
  if (t.data == nullptr && !empty) refuse("has no data");
  return t.data == nullptr ? nothing : static_cast<char*>(t.data) + t.byte_offset;
}

py::array read(const Tensor& t, bool writeable, const py::dtype& bfloat16, const py::capsule& owner) {
  int64_t shape[kMaxDims];
  ptrdiff_t strides[kMaxDims];
  const py::dtype dtype = dtype_of(t.dtype, bfloat16);
  char* data = read_layout(t, dtype.itemsize(), shape, strides);
  py::array array(dtype, std::vector<py::ssize_t>(shape, shape + t.ndim),
                  std::vector<py::ssize_t>(strides, strides + t.ndim), data, owner);
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

// A type that lends in C.
struct Lender {
  PyTypeObject* type;
  const Exchange* exchange;
  PyObject* records;  // of its library, whether autograd takes down what is done now; null where it has no autograd
};
constexpr int kLenders = 8;  // a process has one library with such tensors, mostly, and a type or two of it
std::atomic<const Lender*> lenders[kLenders];

// Null where there are too many.
const Lender* remember(const Lender& lender) {
  auto made = std::make_unique<Lender>(lender);
  for (auto& place : lenders) {
    const Lender* none = nullptr;
    if (!place.compare_exchange_strong(none, made.get(), std::memory_order_acq_rel)) continue;
    Py_INCREF(lender.type);  // so that its address names no other type
    return made.release();
  }
  return nullptr;
}

// Null for most types. Of the type itself: one derived from it may override __dlpack__, unless `lend_as` says
// otherwise.
const Lender* lender_of(PyTypeObject* type) {
  for (const auto& place : lenders) {
    const Lender* known = place.load(std::memory_order_acquire);
    if (known == nullptr) break;
    if (known->type == type) return known;
  }
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!handle.attr("__dict__").contains(kExchange)) return nullptr;
  const py::object capsule = handle.attr(kExchange);
  if (!PyCapsule_IsValid(capsule.ptr(), kExchangeName)) return nullptr;
  auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), kExchangeName));
  while (exchange != nullptr && exchange->major > 1) exchange = exchange->previous;
  if (exchange == nullptr || exchange->major != 1) return nullptr;
  const py::object package = handle.attr("__module__").attr("partition")(".").attr("__getitem__")(0);
  const py::object library = py::reinterpret_steal<py::object>(PyImport_GetModule(package.ptr()));
  const py::object records = library ? py::getattr(library, "is_grad_enabled", py::none()) : py::none();
  return remember({type, exchange, records.is_none() ? nullptr : records.inc_ref().ptr()});
}

const Exchange* exchange_of(PyTypeObject* type) {
  const Lender* lender = lender_of(type);
  return lender ? lender->exchange : nullptr;
}

// That instances of `type`, derived from `base`, lend their memory as those of `base` do.
void lend_as(py::type type, py::type base) {
  const Lender* lender = lender_of(reinterpret_cast<PyTypeObject*>(base.ptr()));
  auto* derived = reinterpret_cast<PyTypeObject*>(type.ptr());
  if (lender != nullptr && lender_of(derived) == nullptr) remember({derived, lender->exchange, lender->records});
}

bool is_true(PyObject* result) {
  const py::object held = py::reinterpret_steal<py::object>(result);
  if (!held) throw py::error_already_set();
  return !held.is(py::handle(Py_False));
}

// Whether a tensor's memory is what it looks like, and no gradient is lost if it is read.
bool is_plain(py::handle value, const Lender& lender) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  if (is_true(PyObject_GetAttr(value.ptr(), requires_grad))) {
    if (lender.records == nullptr || is_true(PyObject_CallNoArgs(lender.records))) return false;
  }
  return !is_true(PyObject_CallMethodNoArgs(value.ptr(), is_neg));
}

// False for what no kernel takes.
bool read_dtype(DataType d, Dtype& dtype) {
  if (d.lanes != 1) return false;
  const int bits = d.bits;
  auto one_of = [&](std::initializer_list<std::pair<int, Dtype>> widths) {
    for (auto [width, found] : widths) {
      if (bits != width) continue;
      dtype = found;
      return true;
    }
    return false;
  };
  switch (d.code) {
    case kFloat:
      return one_of({{32, Dtype::f32}, {64, Dtype::f64}, {16, Dtype::f16}});
    case kBfloat:
      return one_of({{16, Dtype::bf16}});
    case kInt:
      return one_of({{64, Dtype::i64}, {32, Dtype::i32}, {16, Dtype::i16}, {8, Dtype::i8}});
    case kUint:
      return one_of({{8, Dtype::u8}, {16, Dtype::u16}, {32, Dtype::u32}, {64, Dtype::u64}});
    case kBool:
      return one_of({{8, Dtype::boolean}});
    default:
      return false;
  }
}

// A fresh tensor's memory, until its consumer is done with it.
struct Owned {
  Versioned managed;
  int64_t shape[kMaxDims], strides[kMaxDims];
  void* buffer;
};

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

bool lends_plainly(py::handle value) {
  const Lender* lender = lender_of(Py_TYPE(value.ptr()));
  return lender != nullptr && is_plain(value, *lender);
}

bool borrow_view(py::handle value, TensorView& view) {
  const Lender* lender = lender_of(Py_TYPE(value.ptr()));
  if (lender == nullptr || lender->exchange->borrow == nullptr || !is_plain(value, *lender)) return false;
  Tensor t = {};
  if (lender->exchange->borrow(value.ptr(), &t) != 0) throw py::error_already_set();
  if (!read_dtype(t.dtype, view.dtype)) return false;
  view.data = read_layout(t, (int64_t)dtype_size(view.dtype), view.shape, view.strides);
  view.ndim = t.ndim;
  view.writeable = true;
  return true;
}

py::object fresh_tensor(py::handle like, Dtype dtype, const Shape& shape, size_t bytes, TensorView& view) {
  const Exchange* exchange = exchange_of(Py_TYPE(like.ptr()));
  if (exchange == nullptr || exchange->borrow == nullptr || shape.size() > (size_t)kMaxDims) return {};
  auto owned = std::make_unique<Owned>();
  const int item = (int)dtype_size(dtype);
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    owned->shape[d] = view.shape[d] = shape[d];
    owned->strides[d] = stride;
    view.strides[d] = (ptrdiff_t)(stride * item);
    stride *= shape[d] > 0 ? shape[d] : 1;
  }
  owned->buffer = buffers::acquire(bytes);
  view.data = static_cast<char*>(owned->buffer);
  view.dtype = dtype;
  view.ndim = (int)shape.size();
  view.writeable = true;
  Versioned& m = owned->managed;
  m = {};
  m.major = 1;
  m.context = owned.get();
  m.deleter = [](Versioned* managed) {
    auto* held = static_cast<Owned*>(managed->context);
    buffers::release(held->buffer);
    delete held;
  };
  const int code = dtype == Dtype::bf16 ? kBfloat : kFloat;
  m.tensor = {owned->buffer,  {kCpu, 0}, (int32_t)view.ndim, {(uint8_t)code, (uint8_t)(item * 8), 1}, owned->shape,
              owned->strides, 0};
  void* object = nullptr;
  if (exchange->take(&owned.release()->managed, &object) != 0) {
    m.deleter(&m);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

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
  m.def("lend_as", &lend_as);
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
