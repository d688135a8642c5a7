// Python's dense layer: converts, checks, releases the GIL, calls the list.
#include "core/linear.h"

#include <atomic>
#include <memory>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/linear.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"
#include "core/dropout.h"

namespace innerloop {
namespace {

py::array unpacked(const PackedWeight& w) {
  Arguments arguments;
  const Array array = arguments.fresh(w.dtype, {w.k, w.n});
  w.unpack(array.view.data);
  return array.owner;
}

// The weight of a call: an array, or a PackedWeight.
struct WeightArgument {
  Weight weight;
  std::optional<Array> array;

  WeightArgument(Arguments& arguments, py::handle w) {
    if (py::isinstance<PackedWeight>(w)) {
      if (arguments.device()) {
        throw TypeError("w must be an array of a CUDA device, as others of this call are, got a PackedWeight");
      }
      weight.packed = w.cast<const PackedWeight*>();
    } else {
      array = arguments.in(w, "w");
      weight.view = array->view;
    }
  }
  py::object dense() const { return array ? py::object(array->owner) : py::object(unpacked(*weight.packed)); }
};

// The activation of a layer with its parameters; None is the identity.
struct Act {
  const Activation& activation;
  const ParameterValues parameters;
  bool identity;

  Act(py::handle name, const py::dict& given)
      : activation(find_activation(name.is_none() ? "identity" : text(name, "activation"))),
        parameters(parameter_values(activation.name, activation.parameters, activation.parameter_count, given)),
        identity(strcmp(activation.name, "identity") == 0) {}
};

// A layer's dropout. With p = 0 there is none, and the seed may be None.
struct Drop {
  DropoutWork work = {};

  Drop(py::handle p, py::handle seed, py::handle offset) {
    work.p = number(p, "dropout");
    check_probability(work.p, "dropout");
    work.offset = word64(offset, "offset");
    if (!seed.is_none() || work.p > 0) work.seed = word64(seed, "seed");
  }
  const DropoutWork* wanted() const { return work.p > 0 ? &work : nullptr; }
  void pass_on(py::dict& keywords) const {
    keywords["dropout"] = work.p;
    keywords["seed"] = work.seed;
    keywords["offset"] = work.offset;
  }
};

void forward_on(DeviceCall& device, const Act& act, const TensorView& x, const TensorView& w, const TensorView* b,
                const TensorView& y, const TensorView* z, const DropoutWork* dropout) {
  Linear l = {};
  l.m = rows_of(x);
  l.n = w.shape[1];
  l.k = w.shape[0];
  l.x = matrix_on_device(x);
  l.w = matrix_on_device(w);
  l.y = matrix_on_device(y);
  if (z != nullptr) l.z = matrix_on_device(*z);
  l.bias = vector_on_device(b);
  l.activation = activation_index(act.activation);
  l.parameters = act.parameters.value;
  l.dropout = dropout;
  l.keeps_output = dropout != nullptr && z != nullptr && act.activation.saves_output;
  device.launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
    return kernels.linear_forward(queue, x.dtype, is_tf32_allowed(), l);
  });
}

void backward_on(DeviceCall& device, const Act& act, const TensorView& dy, const TensorView& x, const TensorView& w,
                 const TensorView* saved, const TensorView* dx, const TensorView& dw, const TensorView* db,
                 const DropoutWork* dropout) {
  LinearBackward l = {};
  l.m = rows_of(x);
  l.n = w.shape[1];
  l.k = w.shape[0];
  l.dy = matrix_on_device(dy);
  l.x = matrix_on_device(x);
  l.w = matrix_on_device(w);
  l.without_dx = dx == nullptr;
  if (dx != nullptr) l.dx = matrix_on_device(*dx);
  if (saved != nullptr) l.saved = matrix_on_device(*saved);
  l.dw = matrix_on_device(dw);
  l.db = vector_on_device(db);
  l.activation = activation_index(act.activation);
  l.parameters = act.parameters.value;
  device.launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
    return kernels.linear_backward(queue, x.dtype, is_tf32_allowed(), l, dropout);
  });
}

py::object linear(py::handle x, py::handle w, py::handle b, py::handle name, const py::dict& given, py::handle out,
                  py::handle saved_too, py::handle dropout, py::handle seed, py::handle offset) {
  const bool return_saved = boolean(saved_too, "return_saved");
  const Drop drop(dropout, seed, offset);
  const Act act(name, given);
  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  const WeightArgument aw(arguments, w);
  const Shape shape = check_linear(ax.view, aw.weight);
  const auto ab = optional_bias(arguments, b, ax.view, aw.weight.n());
  const Array ay = arguments.out(out, "out", ax.view.dtype, shape);
  Arguments::check_outputs({&ay}, {&ax, array_or_null(aw.array), array_or_null(ab)});
  std::optional<Array> az;
  if (return_saved && !act.identity && (!act.activation.saves_output || drop.wanted())) {
    az = arguments.fresh(ax.view.dtype, shape);
  }

  if (DeviceCall* device = arguments.device()) {
    forward_on(*device, act, ax.view, aw.weight.view, view_or_null(ab), ay.view, view_or_null(az), drop.wanted());
  } else if (reference_in_use()) {
    py::dict keywords(**given);
    keywords["activation"] = act.activation.name;
    keywords["return_saved"] = true;
    drop.pass_on(keywords);
    const py::tuple y_saved = reference("linear").attr("linear")(ax.owner, aw.dense(), owner_or_none(ab), **keywords);
    copy_into(ay, y_saved[0]);
    if (az) copy_into(*az, y_saved[1]);
  } else {
    py::gil_scoped_release release;
    linear_forward(act.activation, act.parameters.value, ax.view, aw.weight, view_or_null(ab), ay.view,
                   view_or_null(az), drop.wanted());
  }
  py::object y = arguments.result(ay);
  if (!return_saved) return y;
  if (act.identity) return py::make_tuple(y, py::none());
  return py::make_tuple(y, az ? arguments.result(*az) : y);
}

py::tuple backward(py::handle dy, py::handle x, py::handle w, py::handle saved, py::handle name, const py::dict& given,
                   py::handle with_bias, py::handle out, py::handle dropout, py::handle seed, py::handle offset,
                   py::handle with_dx) {
  const Drop drop(dropout, seed, offset);
  const bool bias = boolean(with_bias, "bias"), input = boolean(with_dx, "with_dx");
  const Act act(name, given);
  Arguments arguments(Devices::any);
  const Array ady = arguments.in(dy, "dy");
  const Array ax = arguments.in(x, "x");
  const WeightArgument aw(arguments, w);
  const Shape shape = check_linear(ax.view, aw.weight);
  check_dtype(ady.view, ax.view);
  check_shape(ady.view, shape, "that of x @ w");
  std::optional<Array> as;
  if (!saved.is_none()) {
    as = arguments.in(saved, "saved");
    check_dtype(as->view, ax.view);
    check_shape(as->view, shape, "that of x @ w");
  } else if (!act.identity) {
    throw TypeError(std::string("saved must be what linear(..., return_saved=True) gave for ") + act.activation.name +
                    ", got None");
  }
  const LinearGradients gradients(
      arguments, out, ax.view, aw.weight.n(), input ? nullptr : "with_dx=False does without",
      bias ? nullptr : "bias=False does without", {&ady, &ax, array_or_null(aw.array), array_or_null(as)});

  if (DeviceCall* device = arguments.device()) {
    backward_on(*device, act, ady.view, ax.view, aw.weight.view, act.identity ? nullptr : view_or_null(as),
                view_or_null(gradients.dx), gradients.dw.view, gradients.db_view(), drop.wanted());
  } else if (reference_in_use()) {
    py::dict keywords(**given);
    keywords["activation"] = act.activation.name;
    drop.pass_on(keywords);
    gradients.copy_reference(
        reference("linear").attr("linear_backward")(ady.owner, ax.owner, aw.dense(), owner_or_none(as), **keywords));
  } else {
    py::gil_scoped_release release;
    linear_backward(act.activation, act.parameters.value, ady.view, ax.view, aw.weight,
                    act.identity ? nullptr : view_or_null(as), view_or_null(gradients.dx), gradients.dw.view,
                    gradients.db_view(), drop.wanted());
  }
  return gradients.result(arguments);
}

std::unique_ptr<PackedWeight> pack(py::handle w) {
  Arguments arguments;
  const Array aw = arguments.in(w, "w");
  check_floating(aw.view);
  if (aw.view.ndim != 2) throw ValueError("w must have 2 axes, (K, N), got " + describe(aw.view));
  py::gil_scoped_release release;
  return std::make_unique<PackedWeight>(aw.view);
}

std::atomic<bool> tf32_allowed{false};

}  // namespace

bool is_tf32_allowed() { return tf32_allowed.load(std::memory_order_relaxed); }

Matrix matrix_on_device(const TensorView& t) {
  check_dense(t);
  Matrix m = {t.data, 0, t.strides[t.ndim - 1], nullptr, storage_code(t.dtype)};
  if (!rows_merge(t, t.ndim - 1, m.row)) {
    throw ValueError(std::string(t.name) +
                     " must have axes that lie in memory in such an order that its rows are evenly apart on a CUDA "
                     "device: make it contiguous");
  }
  return m;
}

Strided vector_on_device(const TensorView* t) {
  if (t != nullptr) check_dense(*t);
  return strided(t);
}

std::optional<Array> optional_bias(Arguments& arguments, py::handle b, const TensorView& x, int64_t n) {
  if (b.is_none()) return {};
  const Array array = arguments.in(b, "b");
  check_dtype(array.view, x);
  check_shape(array.view, {n}, "one for each column of w");
  return array;
}

LinearGradients::LinearGradients(Arguments& arguments, py::handle out, const TensorView& x, int64_t n,
                                 const char* without_dx, const char* without_db,
                                 std::initializer_list<const Array*> inputs) {
  const py::tuple outputs = given_outputs(out, 3, "(dx, dw, db)");
  if (without_dx && !outputs[0].is_none()) {
    throw ValueError(std::string("out has a dx, which ") + without_dx + "; got an array");
  }
  if (without_db && !outputs[2].is_none()) {
    throw ValueError(std::string("out has a db, which ") + without_db + "; got an array");
  }
  if (!without_dx) dx = arguments.out(outputs[0], "dx", x.dtype, x.dims());
  dw = arguments.out(outputs[1], "dw", x.dtype, {x.shape[x.ndim - 1], n});
  if (!without_db) db = arguments.out(outputs[2], "db", x.dtype, {n});
  Arguments::check_outputs({array_or_null(dx), &dw, array_or_null(db)}, inputs);
}

void LinearGradients::copy_reference(const py::tuple& gradients) const {
  if (dx) copy_into(*dx, gradients[0]);
  copy_into(dw, gradients[1]);
  if (db) copy_into(*db, gradients[2]);
}

py::tuple LinearGradients::result(const Arguments& arguments) const {
  return py::make_tuple(dx ? arguments.result(*dx) : py::object(py::none()), arguments.result(dw),
                        db ? arguments.result(*db) : py::object(py::none()));
}

void bind_linear(py::module_& m) {
  py::class_<PackedWeight>(m, "PackedWeight", "A weight laid out for `linear`: a copy, made by `pack`.")
      .def_property_readonly("shape", [](const PackedWeight& w) { return py::make_tuple(w.k, w.n); })
      .def_property_readonly("dtype", [](const PackedWeight& w) { return py::dtype(dtype_name(w.dtype)); })
      .def("unpack", &unpacked, "The weight as a fresh array of shape (K, N).")
      .def("__repr__", [](const PackedWeight& w) {
        return "PackedWeight(shape=" + shape_text({w.k, w.n}) + ", dtype=" + dtype_name(w.dtype) + ")";
      });
  // Not to be made without pybind11's own constructor, of which there is none: `pack` makes them.
  reinterpret_cast<PyTypeObject*>(m.attr("PackedWeight").ptr())->tp_new = [](PyTypeObject*, PyObject*, PyObject*) {
    PyErr_SetString(PyExc_TypeError, "a PackedWeight is made by pack(w)");
    return static_cast<PyObject*>(nullptr);
  };
  m.def("pack", &pack);
  m.def("linear", &linear);
  m.def("linear_backward", &backward);
  m.def("set_cuda_tf32", [](py::handle allowed) { tf32_allowed = boolean(allowed, "allowed"); });
  m.def("cuda_tf32", &is_tf32_allowed);
}

}  // namespace innerloop
