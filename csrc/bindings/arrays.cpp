#include "bindings/arrays.h"

#include <pybind11/stl.h>

#include <atomic>

#include "bindings/device.h"
#include "bindings/dlpack.h"
#include "bindings/numbers.h"
#include "core/buffers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

constexpr int kNumpyHalf = 23;       // NPY_HALF, of NumPy's stable C interface
constexpr size_t kCached = 1 << 16;  // outputs of at least this many bytes come from the buffer cache

// innerloop._arrays: what conversion needs of Python.
py::object helper(const char* name) { return py::module_::import("innerloop._arrays").attr(name); }

// The dtype that carries bfloat16 in NumPy arrays: ml_dtypes' where that is installed, else two bytes with its name.
const py::dtype& bfloat16() {
  static const auto* dtype = new py::dtype(py::reinterpret_steal<py::dtype>(helper("bfloat16_dtype")().release()));
  return *dtype;
}

// ml_dtypes may have been imported since, or be there twice: its name tells.
bool is_bfloat16(const py::dtype& d) {
  return d.kind() == 'V' && d.itemsize() == 2 &&
         (d.is(bfloat16()) || d.equal(bfloat16()) ||
          std::string(py::str(static_cast<const py::object&>(d))) == "bfloat16");
}

Dtype dtype_of(const py::array& array, const char* name) {
  const py::dtype d = array.dtype();
  if (d.byteorder() != '>' || d.itemsize() == 1) {
    switch (d.normalized_num()) {
      case py::detail::npy_api::NPY_FLOAT_:
        return Dtype::f32;
      case py::detail::npy_api::NPY_DOUBLE_:
        return Dtype::f64;
      case kNumpyHalf:
        return Dtype::f16;
      case py::detail::npy_api::NPY_BOOL_:
        return Dtype::boolean;
      case py::detail::npy_api::NPY_INT8_:
        return Dtype::i8;
      case py::detail::npy_api::NPY_UINT8_:
        return Dtype::u8;
      case py::detail::npy_api::NPY_INT16_:
        return Dtype::i16;
      case py::detail::npy_api::NPY_UINT16_:
        return Dtype::u16;
      case py::detail::npy_api::NPY_INT32_:
        return Dtype::i32;
      case py::detail::npy_api::NPY_UINT32_:
        return Dtype::u32;
      case py::detail::npy_api::NPY_INT64_:
        return Dtype::i64;
      case py::detail::npy_api::NPY_UINT64_:
        return Dtype::u64;
      default:
        break;
    }
  }
  if (is_bfloat16(d)) return Dtype::bf16;
  throw TypeError(std::string(name) + " must be an array of a native float or integer dtype, got dtype " +
                  std::string(py::str(static_cast<const py::object&>(d))));
}

Array view_of(const py::array& array, py::object caller, const char* name) {
  Array a{array, std::move(caller), {}};
  read_view(array, name, a.view);
  return a;
}

py::dtype numpy_dtype(Dtype d) {
  if (d == Dtype::bf16) return bfloat16();
  return d == Dtype::f64 ? py::dtype::of<double>() : d == Dtype::f16 ? py::dtype("e") : py::dtype::of<float>();
}

bool is_ndarray(py::handle value) { return Py_TYPE(value.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

std::atomic<bool> use_reference{false};

}  // namespace

// A tensor that no autograd follows and whose memory is as it lies there, by the short way; null for any other array.
static py::object lent_tensor(py::handle value) {
  try {
    return lends_plainly(value) ? py::object(from_dlpack(value, bfloat16())) : py::object();
  } catch (const std::exception&) {
    return {};  // to_numpy says why, and names the argument
  }
}

py::object as_ndarray(py::handle value, const char* name) {
  py::object object = py::reinterpret_borrow<py::object>(value);
  if (is_ndarray(value)) return object;
  py::object tensor = lent_tensor(value);
  if (tensor) return tensor;
  if (is_on_device(value)) {
    throw OnDevice(std::string(name) +
                   " must be an array that can be read in place on the CPU, got one of a CUDA device");
  }
  return helper("to_numpy")(object, name);
}

void read_view(py::handle ndarray, const char* name, TensorView& v) {
  const py::array array = py::reinterpret_borrow<py::array>(ndarray);
  v.name = name;
  v.dtype = dtype_of(array, name);
  v.data = static_cast<char*>(const_cast<void*>(array.data()));
  v.writeable = array.writeable();
  v.ndim = (int)array.ndim();
  for (int d = 0; d < v.ndim; d++) {
    v.shape[d] = array.shape()[d];
    v.strides[d] = array.strides()[d];
  }
}

Arguments::Arguments(Devices devices) : may_go_over(devices == Devices::any && direct) {}
Arguments::~Arguments() = default;

Array Arguments::in(py::handle value, const char* name) {
  py::object caller = py::reinterpret_borrow<py::object>(value);
  if (on_device) return on_device->in(value, name);
  if (is_ndarray(value)) {
    may_go_over = false;
    return view_of(py::reinterpret_borrow<py::array>(value), caller, name);
  }
  if (direct) {
    Array borrowed{caller, caller, {}};
    borrowed.view.name = name;
    try {
      if (borrow_view(value, borrowed.view)) {
        if (!like) like = caller;
        may_go_over = false;
        return borrowed;
      }
    } catch (const std::exception&) {  // to_numpy says why, and names the argument
    }
  }
  if (may_go_over && is_on_device(value)) {
    on_device = std::make_unique<DeviceCall>();
    like = caller;
    return on_device->in(value, name);
  }
  may_go_over = false;
  py::array array = helper("to_numpy")(caller, name);
  if (!like && !py::isinstance<py::array>(caller)) like = caller;
  return view_of(array, caller, name);
}

Array Arguments::out(py::handle value, const char* name, Dtype dtype, const Shape& shape) {
  if (value.is_none()) return fresh(dtype, shape);
  Array a = in(value, name);
  check_dtype(a.view, dtype, "the dtype of the input");
  check_shape(a.view, shape, "the shape of the result");
  check_output(a.view);
  return a;
}

Array Arguments::out(py::handle value, const char* name, const Array& input) {
  if (value.is_none() && on_device) return on_device->fresh_like(input.caller);
  return out(value, name, input.view.dtype, input.view.dims());
}

Array Arguments::fresh(Dtype dtype, const Shape& shape) {
  size_t bytes = dtype_size(dtype);
  for (int64_t n : shape) {
    if (n == 0) bytes = 0;
  }
  for (int64_t n : shape) {
    if (__builtin_mul_overflow(bytes, (size_t)n, &bytes) || bytes > PTRDIFF_MAX) {
      throw ValueError("a result of shape " + shape_text(shape) + " would not fit into memory");
    }
  }
  if (on_device) return on_device->fresh(like, dtype, shape);
  if (direct && like) {
    Array made{{}, py::none(), {}};
    made.view.name = "out";
    made.owner = fresh_tensor(like, dtype, shape, bytes, made.view);
    if (made.owner) return made;
  }
  if (bytes < kCached) return view_of(py::array(numpy_dtype(dtype), shape), py::none(), "out");
  void* p = buffers::acquire(bytes);
  const py::capsule owner(p, [](void* buffer) { buffers::release(buffer); });
  return view_of(py::array(numpy_dtype(dtype), shape, p, owner), py::none(), "out");
}

void Arguments::check_overlap(const Array& out, const Array& in, bool in_place) {
  if (out.caller.is_none() || !extents_overlap(out.view, in.view)) return;
  if (in_place && same_view(out.view, in.view)) return;
  const auto refuse = [&] {
    throw ValueError(std::string(out.view.name) + " must not overlap " + in.view.name +
                     (in_place ? " unless it is the same view" : "") + ", got two views that share memory");
  };
  if (out.on_device) refuse();  // what kernels take there has no gaps
  const py::object first = as_ndarray(out.owner, out.view.name), second = as_ndarray(in.owner, in.view.name);
  if (helper("shares_memory")(first, second).cast<bool>()) refuse();
}

void Arguments::check_outputs(std::initializer_list<const Array*> written, std::initializer_list<const Array*> read,
                              std::initializer_list<const Array*> in_place) {
  const Array* first = *written.begin();
  for (const Array* output : written) {
    if (!output) continue;
    for (const Array* input : in_place) check_overlap(*output, *input, output == first);
    for (const Array* input : read) {
      if (input) check_overlap(*output, *input, false);
    }
    for (const Array* other : written) {
      if (other && other != output) check_overlap(*output, *other, false);
    }
  }
}

py::object Arguments::result(const Array& array) const {
  if (!array.caller.is_none()) return array.caller;
  if (!like || array.on_device || !is_ndarray(array.owner)) return array.owner;
  return helper("from_numpy")(array.owner, like);
}

py::object Arguments::scalar(Dtype dtype, double value) {
  const Array made = fresh(compute_dtype(dtype), {});
  if (dtype == Dtype::f64) {
    *reinterpret_cast<double*>(made.view.data) = value;
  } else {
    *reinterpret_cast<float*>(made.view.data) = (float)value;  // NumPy would warn of an overflow
  }
  const py::object array = result(made);
  return like ? array : py::object(array[py::tuple()]);
}

py::tuple given_outputs(py::handle out, size_t count, const char* names) {
  if (out.is_none()) {
    py::tuple none(count);
    for (size_t i = 0; i < count; i++) none[i] = py::none();
    return none;
  }
  if (!py::isinstance<py::tuple>(out) || py::len(out) != count) {
    throw TypeError("out must be a tuple " + std::string(names) + " of arrays or None, got " +
                    std::string(py::repr(out)));
  }
  return py::reinterpret_borrow<py::tuple>(out);
}

ParameterValues parameter_values(const char* owner, const Parameter* parameters, int count, const py::dict& given) {
  ParameterValues values;
  size_t used = 0;
  for (int i = 0; i < count; i++) {
    values.value[i] = parameters[i].default_value;
    if (!given.contains(parameters[i].name)) continue;
    used++;
    values.value[i] = number(given[parameters[i].name], parameters[i].name);
    check_range(parameters[i], values.value[i]);
  }
  if (used == given.size()) return values;
  std::string have;
  for (int i = 0; i < count; i++) have += (i ? ", " : "") + std::string(parameters[i].name);
  throw TypeError(std::string(owner) + " takes " + (count ? "the parameters " + have : "no parameters") + ", got " +
                  std::string(py::str(py::list(given.attr("keys")()))));
}

bool reference_in_use() { return use_reference.load(std::memory_order_relaxed); }

py::object reference(const char* noun) {
  return py::module_::import((std::string("innerloop.reference.") + noun).c_str());
}

void copy_into(const Array& out, py::handle values) { helper("copy_into")(out.owner, values); }

void bind_backend(py::module_& m) {
  m.def("isa", [] { return kernels().isa; });
  m.def("isas", &isas);
  m.def("use_isa", &use_isa);
  m.def("vector_bytes", [] { return kernels().vector_bytes; });
  m.def("has_fma", [] { return kernels().has_fma; });
  m.def("backend", [] { return reference_in_use() ? "reference" : "cpu"; });
  m.def("use_reference", [](bool on) { use_reference.store(on); });
  m.def("set_buffer_cache_limit", [](py::handle bytes) {
    const int64_t limit = integer(bytes, "bytes");
    if (limit < 0) throw ValueError("bytes must be at least 0, got " + std::to_string(limit));
    buffers::set_limit((size_t)limit);
  });
  m.def("buffer_cache_limit", &buffers::limit);
  m.def("buffer_cache_held", &buffers::held);
  m.def("buffer_cache_clear", &buffers::clear);
  bind_dlpack(m);
}

}  // namespace innerloop
