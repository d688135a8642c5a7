#include "bindings/dlpack_protocol.h"

#include <atomic>
#include <memory>

#include "core/errors.h"
#include "kernels.h"

namespace innerloop::dlpack {
namespace {

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

bool is_true(PyObject* result) {
  const py::object held = py::reinterpret_steal<py::object>(result);
  if (!held) throw py::error_already_set();
  return !held.is(py::handle(Py_False));
}

}  // namespace

void refuse(const std::string& why) { throw TypeError("its DLPack capsule " + why); }

char* read_layout(const Tensor& t, int64_t item, int64_t* shape, ptrdiff_t* strides) {
  static char nothing[64];
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

void lend_as(py::type type, py::type base) {
  const Lender* lender = lender_of(reinterpret_cast<PyTypeObject*>(base.ptr()));
  auto* derived = reinterpret_cast<PyTypeObject*>(type.ptr());
  if (lender != nullptr && lender_of(derived) == nullptr) remember({derived, lender->exchange, lender->records});
}

bool is_plain(py::handle value, const Lender& lender) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  if (is_true(PyObject_GetAttr(value.ptr(), requires_grad))) {
    if (lender.records == nullptr || is_true(PyObject_CallNoArgs(lender.records))) return false;
  }
  return !is_true(PyObject_CallMethodNoArgs(value.ptr(), is_neg));
}

}  // namespace innerloop::dlpack
