#include "bindings/device.h"

#include <pybind11/stl.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "bindings/dlpack_protocol.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"
#include "core/rows.h"

namespace innerloop {
namespace {

py::object helper(const char* name) { return py::module_::import("innerloop._cuda_arrays").attr(name); }

// Null where innerloop._cuda is not built.
const cuda::Kernels* find_kernels() {
  static std::atomic<const cuda::Kernels*> found{nullptr};
  if (const cuda::Kernels* kernels = found.load(std::memory_order_acquire)) return kernels;
  const py::object module = py::module_::import("innerloop._arrays").attr("cuda_module")();
  if (module.is_none()) return nullptr;
  const py::object capsule = module.attr("kernels");
  auto* kernels = static_cast<const cuda::Kernels*>(PyCapsule_GetPointer(capsule.ptr(), cuda::kKernelsCapsule));
  if (kernels == nullptr) throw py::error_already_set();
  found.store(kernels, std::memory_order_release);
  return kernels;
}

bool is_cuda(const dlpack::Tensor& t) {
  return t.device.type == dlpack::kCuda || t.device.type == dlpack::kCudaManaged;
}

// What a DLPack tensor says, as a view.
void read_tensor(const dlpack::Tensor& t, TensorView& view) {
  if (!is_cuda(t)) {
    throw TypeError(std::string(view.name) +
                    " must lie on a CUDA device, as others of this call do, got an array on the device of DLPack's "
                    "type " +
                    std::to_string(t.device.type));
  }
  if (!dlpack::read_dtype(t.dtype, view.dtype)) {
    throw TypeError(std::string(view.name) +
                    " must be an array of a native float or integer dtype, got DLPack's code " +
                    std::to_string(t.dtype.code) + " with " + std::to_string(t.dtype.bits) + " bits");
  }
  try {
    view.data = dlpack::read_layout(t, (int64_t)dtype_size(view.dtype), view.shape, view.strides);
  } catch (const TypeError& error) {
    throw TypeError(std::string(view.name) + ": " + error.what());
  }
  view.ndim = t.ndim;
}

// By DLPack's C functions, without a call into Python but for what is_plain asks. False where Python must look.
bool borrow(py::handle value, TensorView& view, int& device, std::optional<uintptr_t>& stream) {
  const dlpack::Lender* lender = dlpack::lender_of(Py_TYPE(value.ptr()));
  if (lender == nullptr || lender->exchange->borrow == nullptr || lender->exchange->stream == nullptr) return false;
  dlpack::Tensor t = {};
  try {
    if (!dlpack::is_plain(value, *lender)) return false;
    if (lender->exchange->borrow(value.ptr(), &t) != 0) throw py::error_already_set();
  } catch (const std::exception&) {
    return false;  // `lend` says why
  }
  read_tensor(t, view);
  view.writeable = true;
  device = t.device.id;
  void* now = nullptr;
  if (lender->exchange->stream(dlpack::kCuda, device, &now) != 0) throw py::error_already_set();
  stream = (uintptr_t)now;
  return true;
}

// What a capsule holds, and its consumption: the tensor goes when the owner does.
template <class Managed>
Managed* take(py::handle capsule, const char* name, const char* used, py::object& owner) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (managed == nullptr) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), used);
  owner = py::capsule(managed, [](void* p) {
    auto* m = static_cast<Managed*>(p);
    if (m->deleter != nullptr) m->deleter(m);
  });
  return managed;
}

// Of the array interface's letter and bytes, as DLPack has them.
dlpack::DataType data_type(const std::string& letter, int bytes) {
  const int code = letter == "f"   ? dlpack::kFloat
                   : letter == "i" ? dlpack::kInt
                   : letter == "u" ? dlpack::kUint
                   : letter == "b" ? dlpack::kBool
                                   : 255;
  return {(uint8_t)code, (uint8_t)(bytes * 8), 1};
}

// The streams 0 and 1 are two names of the legacy default one.
uintptr_t stream_of(uintptr_t number) { return number == 1 ? 0 : number; }

std::string strides_text(const TensorView& t) {
  return shape_text(Shape(t.strides, t.strides + t.ndim)) + " for the shape " + shape_text(t.shape, t.ndim);
}

}  // namespace

bool is_on_device(py::handle value) {
  return find_kernels() != nullptr && py::module_::import("innerloop._arrays").attr("is_on_cuda")(value).cast<bool>();
}

DeviceCall::DeviceCall() : kernels(*find_kernels()) {}

void DeviceCall::check(int error) const {
  if (error == 0) return;
  throw std::runtime_error(std::string(kernels.runtime.is_absent(error) ? "no CUDA device can be used: " : "CUDA: ") +
                           kernels.runtime.error_text(error));
}

static std::atomic<bool> checked{[] {
  const char* const given = getenv("INNERLOOP_CUDA_CHECKED");
  return given != nullptr && *given != '\0' && strcmp(given, "0") != 0;
}()};
bool is_checked() { return checked.load(std::memory_order_relaxed); }

void DeviceCall::refuse(const cuda::Fault& fault, const char* call) {
  if (fault.none()) return;
  if (fault.is_prediction()) {
    const double* const range = innerloop::kernels().elementwise_losses->begin()[fault.loss()].pred_range;
    double got;
    memcpy(&got, &fault.label, sizeof got);
    throw ValueError("pred of " + std::string(call) + " must lie in [" + number_text(range[0]) + ", " +
                     number_text(range[1]) + "], got " + number_text(got) + ", whose loss is NaN");
  }
  const std::string label = fault.is_unsigned() ? std::to_string((uint64_t)fault.label) : std::to_string(fault.label);
  throw IndexError("target of " + std::string(call) + " must hold class labels from 0 to " +
                   std::to_string(fault.classes()) + ", that one excluded, or ignore_index; got " + label +
                   ", whose row was ignored");
}

// An array of __cuda_array_interface__, as `lend` took it apart.
void DeviceCall::read_interface(const py::tuple& fields, TensorView& view, int& on) const {
  dlpack::Tensor t = {};
  const int64_t item = fields[1].cast<int64_t>();
  t.data = reinterpret_cast<void*>(fields[2].cast<uintptr_t>());
  auto shape = fields[3].cast<std::vector<int64_t>>();
  std::vector<int64_t> strides;
  if (!fields[4].is_none()) strides = fields[4].cast<std::vector<int64_t>>();
  if (!fields[4].is_none() && strides.size() != shape.size()) {
    throw TypeError(std::string(view.name) + " has other strides than axes in its __cuda_array_interface__");
  }
  for (int64_t& stride : strides) {
    if (item == 0 || stride % item != 0) {
      throw ValueError(std::string(view.name) + " must have strides of whole elements, got " + shape_text(strides));
    }
    stride /= item;
  }
  t.ndim = (int32_t)shape.size();
  t.shape = shape.data();
  t.strides = fields[4].is_none() ? nullptr : strides.data();
  t.dtype = data_type(fields[0].cast<std::string>(), (int)item);
  t.device.type = dlpack::kCuda;
  read_tensor(t, view);
  if (view.size() == 0) return check(kernels.runtime.current_device(&on));
  check(kernels.runtime.device_of(t.data, &on));
  if (on < 0) throw TypeError(std::string(view.name) + " must lie on a CUDA device, got memory of the host");
}

void DeviceCall::place(const TensorView& view, int on, std::optional<uintptr_t> used_on) {
  if (device < 0) {
    device = on;
    first = view.name;
  } else if (on != device) {
    throw ValueError(std::string(view.name) + " must lie on the device of " + first +
                     ", cuda:" + std::to_string(device) + ", got an array on cuda:" + std::to_string(on));
  }
  if (!used_on) return;
  if (!stream) {
    stream = used_on;
    streamed = view.name;
  } else if (stream_of(*used_on) != stream_of(*stream)) {
    throw ValueError(std::string(view.name) + " must be used on the stream of " + streamed +
                     ", got an array of another stream");
  }
}

Array DeviceCall::in(py::handle value, const char* name) {
  Array a;
  a.on_device = true;
  a.caller = a.owner = py::reinterpret_borrow<py::object>(value);
  a.view.name = name;
  int on = 0;
  std::optional<uintptr_t> used_on;
  if (borrow(value, a.view, on, used_on)) {
    place(a.view, on, used_on);
    return a;
  }
  const py::tuple lent = helper("lend")(value, name);
  a.owner = lent[0];
  if (!lent[2].is_none()) used_on = lent[2].cast<uintptr_t>();
  const py::object held = lent[1];
  if (py::isinstance<py::tuple>(held)) {
    read_interface(held, a.view, on);
    a.view.writeable = lent[3].cast<bool>();
  } else if (PyCapsule_IsValid(held.ptr(), dlpack::kVersionedName)) {
    auto* m = take<dlpack::Versioned>(held, dlpack::kVersionedName, "used_dltensor_versioned", a.owner);
    if (m->major > 1) dlpack::refuse("is of version " + std::to_string(m->major) + ", which is not known yet");
    read_tensor(m->tensor, a.view);
    a.view.writeable = (m->flags & dlpack::kReadOnly) == 0;
    on = m->tensor.device.id;
  } else if (PyCapsule_IsValid(held.ptr(), dlpack::kLegacyName)) {
    auto* m = take<dlpack::Legacy>(held, dlpack::kLegacyName, "used_dltensor", a.owner);
    read_tensor(m->tensor, a.view);
    a.view.writeable = lent[3].cast<bool>();  // such a capsule cannot say
    on = m->tensor.device.id;
  } else {
    throw TypeError(std::string(name) + ": its __dlpack__ returned no DLPack capsule");
  }
  place(a.view, on, used_on);
  return a;
}

Array DeviceCall::fresh(py::handle like, Dtype dtype, const Shape& shape) {
  Array a = in(helper("empty")(like, dtype_name(dtype), shape), "out");
  check_dtype(a.view, dtype, "the dtype of the result");
  check_shape(a.view, shape, "the shape of the result");
  a.owner = a.caller;
  a.caller = py::none();
  return a;
}

Array DeviceCall::fresh_like(py::handle like) {
  Array a = in(helper("empty_like")(like), "out");
  a.owner = a.caller;
  a.caller = py::none();
  return a;
}

cuda::Queue DeviceCall::limits() const {
  static std::atomic<int> known[64]
                               [2];  // of each device: its processors, 0 until they are asked for, and shared memory
  cuda::Queue queue = {};
  std::atomic<int>* const of_device = device < 64 ? known[device] : nullptr;
  if (of_device != nullptr) {
    queue.processors = of_device[0].load(std::memory_order_acquire);
    queue.shared_memory = of_device[1].load(std::memory_order_relaxed);
    if (queue.processors > 0) return queue;
  }
  check(kernels.runtime.limits(device, &queue));
  if (of_device != nullptr) {
    of_device[1].store(queue.shared_memory, std::memory_order_relaxed);
    of_device[0].store(queue.processors, std::memory_order_release);
  }
  return queue;
}

DeviceCall::Current::Current(const DeviceCall& call) : call(call) {
  queue = call.limits();
  queue.stream = reinterpret_cast<void*>(call.stream.value_or(0));
  call.check(call.kernels.runtime.current_device(&before));
  call.check(call.kernels.runtime.use_device(call.device));
}

DeviceCall::Current::~Current() {
  if (before != call.device) call.kernels.runtime.use_device(before);
}

// The axes of more than one element, the innermost in memory first.
static int order_of_axes(const TensorView& t, int* order) {
  int n = 0;
  for (int d = 0; d < t.ndim; d++) {
    if (t.shape[d] > 1) order[n++] = d;
  }
  std::sort(order, order + n, [&](int a, int b) { return t.strides[a] < t.strides[b]; });
  return n;
}

void check_dense(const TensorView& t) {
  if (t.size() == 0) return;
  const auto item = (ptrdiff_t)dtype_size(t.dtype);
  if (reinterpret_cast<uintptr_t>(t.data) % (uintptr_t)item != 0) {
    throw ValueError(std::string(t.name) + " must begin at a multiple of its elements' size, " + std::to_string(item) +
                     " bytes");
  }
  int order[kMaxDims];
  const int n = order_of_axes(t, order);
  ptrdiff_t expected = item;
  for (int i = 0; i < n; i++) {
    if (t.strides[order[i]] != expected) {
      throw ValueError(std::string(t.name) + " must lie without gaps on a CUDA device, got strides " + strides_text(t) +
                       ": make it contiguous");
    }
    expected *= t.shape[order[i]];
  }
}

void check_same_order(const TensorView& t, const TensorView& like) {
  check_dense(t);
  if (t.size() == 0) return;
  const auto item = (ptrdiff_t)dtype_size(t.dtype), item_like = (ptrdiff_t)dtype_size(like.dtype);
  for (int d = 0; d < t.ndim; d++) {
    if (t.shape[d] == 1 || t.strides[d] / item == like.strides[d] / item_like) continue;
    throw ValueError(std::string(t.name) + " must lie in memory in the order of " + like.name +
                     " on a CUDA device, got strides " + strides_text(t) + " beside " + strides_text(like));
  }
}

void check_contiguous(const TensorView& t) {
  check_dense(t);
  if (is_contiguous(t)) return;
  throw ValueError(std::string(t.name) + " must be C-contiguous on a CUDA device, got strides " + strides_text(t));
}

cuda::RowShape row_shape(const TensorView& t, int axis, TensorView* rows) {
  check_dense(t);
  TensorView others = without_axis(t, axis);
  cuda::RowShape shape = {1, t.ndim > 0 ? t.shape[axis] : 1, 1};
  if (t.size() == 0) {  // no order in memory: C order
    shape.outer = others.size();
    if (rows) *rows = contiguous_view(nullptr, t.dtype, others);
    return shape;
  }
  int order[kMaxDims];
  const int n = order_of_axes(t, order);
  bool outside = shape.length == 1;
  auto stride = (ptrdiff_t)dtype_size(t.dtype);
  for (int i = 0; i < n; i++) {
    if (order[i] == axis) {
      outside = true;
      continue;
    }
    (outside ? shape.outer : shape.inner) *= t.shape[order[i]];
    others.strides[order[i] - (order[i] > axis)] = stride;
    stride *= (ptrdiff_t)t.shape[order[i]];
  }
  if (rows) *rows = others;
  return shape;
}

void bind_device(py::module_& m) {
  m.def("cuda_checked", &is_checked);
  m.def("set_cuda_checked", [](py::handle value) { checked.store(boolean(value, "checked")); });
}

}  // namespace innerloop
