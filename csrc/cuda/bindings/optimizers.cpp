// The optimizers of CUDA arrays: innerloop._core's function of the same name, whose checks of numbers it shares.
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/extents.h"
#include "cuda/bindings/arrays.h"

namespace innerloop::cuda {
namespace {

constexpr int kMaster = kMaxOperands;  // the operand after the states

// One of params, grads, masters and the lists of states: an array, or a list or tuple of arrays, of which None is one
// that is not given.
class Operand {
 public:
  Operand() = default;
  Operand(std::string name, py::handle value) : name(std::move(name)) {
    if (value.is_none()) return;
    given = true;
    listed = PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
    // A tuple of our own holds each array, whatever another thread does to the caller's list meanwhile.
    arrays =
        listed ? py::tuple(py::reinterpret_steal<py::object>(PySequence_Tuple(value.ptr()))) : py::make_tuple(value);
  }
  bool is_given() const { return given; }
  bool is_given(size_t i) const { return given && !operator[](i).is_none(); }
  size_t size() const { return arrays.size(); }
  py::handle operator[](size_t i) const { return PyTuple_GET_ITEM(arrays.ptr(), (py::ssize_t)i); }
  std::string label(size_t i) const { return listed ? name + "[" + std::to_string(i) + "]" : name; }

  std::string name;

 private:
  bool given = false, listed = false;
  py::tuple arrays;
};

struct Group {
  size_t end;  // of its arrays
  std::vector<double> values;
  StepNumbers numbers;
  unsigned used;
  std::vector<StepArray> in_float32, in_float64;
};

Group read_group(const std::string& name, py::handle item, py::handle max_norm, py::handle grad_scale) {
  const py::tuple given = py::reinterpret_borrow<py::tuple>(item);
  const py::tuple read =
      py::module_::import("innerloop._core").attr("optimizer_numbers")(name, given[1], given[2], max_norm, grad_scale);
  if (!read[6].is_none()) {
    throw ValueError("max_norm must be None for arrays on CUDA devices, where clipping is not built yet, got " +
                     std::string(py::repr(max_norm)));
  }
  Group group;
  group.end = given[0].is_none() ? SIZE_MAX : given[0].cast<size_t>();
  for (const py::handle value : py::list(read[0])) group.values.push_back(value.cast<double>());
  const double factor = 1 / read[5].cast<double>();
  group.numbers = {nullptr, (double)read[4].cast<int64_t>(), read[1].cast<bool>() ? -factor : factor,
                   read[2].cast<double>()};
  group.used = read[3].cast<unsigned>();
  return group;
}

Storage storage_of(Dtype d) {
  return d == Dtype::bf16 ? Storage::bfloat16 : d == Dtype::f16 ? Storage::float16 : Storage::full;
}

// An operand beside its param; it is written unless it is the grad.
void check_operand(const TensorView& t, const TensorView& param, int op) {
  check_shape(t, param);
  if (op == 1) {
    if (!(is_half(param.dtype) && t.dtype == Dtype::f32)) check_dtype(t, param);
  } else {
    const Dtype want = compute_dtype(param.dtype);
    if (op == kMaster && !is_half(param.dtype)) {
      throw TypeError(std::string(t.name) + " must be given beside params of half precision only, got " + describe(t) +
                      " beside " + dtype_name(param.dtype));
    }
    if (t.dtype != want) {
      throw TypeError(std::string(t.name) + " must be " + dtype_name(want) + " on a CUDA device beside " +
                      dtype_name(param.dtype) + " params, got " + describe(t));
    }
    check_output(t);
  }
  check_same_order(t, param);
}

const Optimizer& find(const std::string& name) {
  for (const Optimizer& o : optimizers) {
    if (name == o.name) return o;
  }
  throw ValueError("there is no optimizer '" + name + "' for CUDA devices");
}

// As innerloop._core.optimizer_step. Clipping, states in fewer bits and masters of 16 bits are refused.
void step(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
          const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters, py::handle scales,
          py::handle) {
  std::vector<Group> groups;
  for (const py::handle item : group_list) {
    groups.push_back(read_group(name, item, max_norm, grad_scale));
    Group& group = groups.back();
    if (group.end != SIZE_MAX && groups.size() > 1) group.end += groups[groups.size() - 2].end;
  }
  const Optimizer& optimizer = find(name);
  if ((int)states.size() != optimizer.state_count) throw TypeError(name + ": wrong number of states");
  if (!scales.is_none()) {
    throw ValueError("states of 8 bits are not built for arrays on CUDA devices yet");
  }
  Operand operands[kMaster + 1];
  operands[0] = Operand("params", params);
  operands[1] = Operand("grads", grads);
  for (int s = 0; s < optimizer.state_count; s++) {
    const State& state = optimizer.states[s];
    operands[2 + s] = Operand(std::string(state.name) + "s", states[(size_t)s]);
    for (const Group& group : groups) {
      if (!(group.used >> s & 1) || operands[2 + s].is_given()) continue;
      throw ValueError(operands[2 + s].name + " must be given" +
                       (state.needed_by ? std::string(" where ") + state.needed_by + " is not 0" : "") + ", got None");
    }
  }
  operands[kMaster] = Operand("masters", masters);
  if (!operands[0].is_given()) throw TypeError("params must be an array, got NoneType");
  if (!operands[1].is_given()) throw TypeError("grads must be an array, got NoneType");
  const size_t n = operands[0].size();
  for (const Operand& operand : operands) {
    if (!operand.is_given() || operand.size() == n) continue;
    throw ValueError(operand.name + " must hold as many arrays as params, " + std::to_string(n) + ", got " +
                     std::to_string(operand.size()));
  }
  if (!groups.empty() && groups.back().end == SIZE_MAX) groups.back().end = n;
  if (groups.empty() || groups.back().end != n) throw ValueError("the groups must hold all of params");

  Arguments arguments;
  Extents extents;
  extents.reserve(kMaster + 1, n);
  std::vector<py::object> owners;  // until the launches are queued
  size_t i = 0;
  for (Group& group : groups) {
    for (; i < group.end; i++) {
      StepArray a = {};
      TensorView param;
      std::string labels[kMaster + 1];
      a.aligned = true;
      for (int op = 0; op <= kMaster; op++) {
        const Operand& operand = operands[op];
        const bool needed = op < 2 || (op < kMaster && (group.used >> (op - 2) & 1));
        if (!needed && !operand.is_given(i)) continue;
        labels[op] = operand.label(i);
        const Array array = arguments.in(operand[i], labels[op].c_str());
        const TensorView& t = array.view;
        owners.push_back(array.owner);
        if (op == 0) {
          check_floating(t);
          check_output(t);
          check_dense(t);
          param = t;
          a.size = t.size();
          a.param = storage_of(t.dtype);
        } else {
          check_operand(t, param, op);
        }
        if (!needed && op != kMaster) continue;  // a state that is given and not used is what it should be, no more
        if (op == 1) a.grad = storage_of(t.dtype);
        if (op == kMaster) {  // steps in the place of param, which becomes the copy
          a.copy = a.data[0];
          a.copied = a.param;
          a.data[0] = t.data;
          a.param = Storage::full;
        } else {
          a.data[op] = t.data;
        }
        a.aligned &= is_aligned(t);
        extents.add(t, i, op, op != 1);
      }
      if (a.size > 0) (param.dtype == Dtype::f64 ? group.in_float64 : group.in_float32).push_back(a);
    }
  }
  extents.check([&](size_t k, int op, size_t j, int other) {
    throw ValueError(operands[op].label(k) + " must not overlap " + operands[other].label(j) +
                     ", got two views that share memory");
  });

  bool nothing = true;
  for (const Group& group : groups) nothing &= group.in_float32.empty() && group.in_float64.empty();
  if (nothing) return;
  const Queue queue = arguments.queue();
  int error = 0;
  {
    py::gil_scoped_release release;
    for (Group& group : groups) {
      group.numbers.parameters = group.values.data();
      for (const bool wide : {false, true}) {
        const std::vector<StepArray>& arrays = wide ? group.in_float64 : group.in_float32;
        if (error != 0 || arrays.empty()) continue;
        error = optimizer.step(queue, wide, group.numbers, group.used, arrays.data(), (int64_t)arrays.size());
      }
    }
  }
  check(error);
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.def("optimizer_step", &step, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
        py::arg("masters") = py::none(), py::arg("scales") = py::none(), py::arg("seed") = 0);
}

}  // namespace innerloop::cuda
