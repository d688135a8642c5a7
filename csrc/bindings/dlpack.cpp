#include "bindings/dlpack.h"

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/dlpack_protocol.h"
#include "core/buffers.h"
#include "core/errors.h"

namespace innerloop {

using namespace dlpack;

namespace {

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

void check_device(const Tensor& t) {
  if (t.device.type == kCpu || t.device.type == kCudaHost || t.device.type == kRocmHost) return;
  refuse("lies on a device of type " + std::to_string(t.device.type) + ", not on the CPU");
}

py::array read(const Tensor& t, bool writeable, const py::dtype& bfloat16, const py::capsule& owner) {
  int64_t shape[kMaxDims];
  ptrdiff_t strides[kMaxDims];
  const py::dtype dtype = dtype_of(t.dtype, bfloat16);
  check_device(t);
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

const Exchange* exchange_of(PyTypeObject* type) {
  const Lender* lender = lender_of(type);
  return lender ? lender->exchange : nullptr;
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
  check_device(t);
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
