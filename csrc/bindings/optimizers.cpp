// Python's optimizers: converts, checks, releases the GIL, calls the list.
#include "core/optimizers.h"

#include <stdio.h>
#include <string.h>

#include <charconv>

#include "bindings/arrays.h"
#include "bindings/nouns.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

std::string text(py::handle value) { return std::string(py::repr(value)); }

// The numbers of a step, as the kernels and as the reference take them: betas=(0.9, 0.999) is beta1 and beta2 to the
// one and a tuple to the other.
struct Numbers {
  ParameterValues values;
  py::dict for_reference;
};

int find_parameter(const Optimizer& optimizer, const std::string& name) {
  for (int i = 0; i < optimizer.parameter_count; i++) {
    if (name == optimizer.parameters[i].name) return i;
  }
  return -1;
}

// "betas" -> 2: how many parameters its name without the s and a number from 1 on gives; 0 if it names no tuple.
int tuple_length(const Optimizer& optimizer, const std::string& name) {
  if (find_parameter(optimizer, name) >= 0 || name.empty() || name.back() != 's') return 0;
  int n = 0;
  while (find_parameter(optimizer, name.substr(0, name.size() - 1) + std::to_string(n + 1)) >= 0) n++;
  return n;
}

Numbers read_numbers(const Optimizer& optimizer, const py::dict& given) {
  py::dict flat;
  for (const auto& [key, value] : given) {
    const std::string name = py::str(key);
    const int count = tuple_length(optimizer, name);
    if (count == 0) {
      flat[key] = value;
      continue;
    }
    if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) {
      throw TypeError(name + " must be a tuple of " + std::to_string(count) + " numbers, got " + text(value));
    }
    const py::tuple items(py::reinterpret_borrow<py::object>(value));
    if ((int)items.size() != count) {
      throw ValueError(name + " must be a tuple of " + std::to_string(count) + " numbers, got " + text(value));
    }
    for (int i = 0; i < count; i++) flat[py::str(name.substr(0, name.size() - 1) + std::to_string(i + 1))] = items[i];
  }
  Numbers numbers;
  numbers.values = parameter_values(optimizer.name, optimizer.parameters, optimizer.parameter_count, flat);
  check_together(optimizer, numbers.values.value);
  if (!reference_in_use()) return numbers;
  auto plain = [&](const std::string& name) -> py::object {
    const int i = find_parameter(optimizer, name);
    const double value = numbers.values.value[i];
    return optimizer.parameters[i].is_flag ? py::object(py::bool_(value != 0)) : py::object(py::float_(value));
  };
  for (const auto& [key, value] : given) {
    const std::string name = py::str(key);
    const int count = tuple_length(optimizer, name);
    py::tuple items(count);
    for (int i = 0; i < count; i++) items[i] = plain(name.substr(0, name.size() - 1) + std::to_string(i + 1));
    numbers.for_reference[key] = count > 0 ? py::object(items) : plain(name);
  }
  return numbers;
}

// Steps count from 1; beyond 2^53 a double would skip some.
int64_t read_step(py::handle step) {
  if (!PyIndex_Check(step.ptr()) || PyBool_Check(step.ptr())) {
    throw TypeError("step must be an integer, got " + text(step));
  }
  const py::object number = py::reinterpret_steal<py::object>(PyNumber_Index(step.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow != 0 || value < 1 || value > (1LL << 53)) {
    throw ValueError("step must count from 1, got " + text(step));
  }
  return value;
}

// One of params, grads and the lists of states: an array, or a list or tuple of arrays.
class Operand {
 public:
  Operand() = default;
  // `optional`: None may stand for the list.
  Operand(std::string name, py::handle value, bool optional) : name(std::move(name)) {
    if (optional && value.is_none()) return;
    given = true;
    listed = PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
    // A tuple of our own holds each array, whatever another thread does to the caller's list meanwhile.
    arrays =
        listed ? py::tuple(py::reinterpret_steal<py::object>(PySequence_Tuple(value.ptr()))) : py::make_tuple(value);
    for (size_t i = 0; i < arrays.size(); i++) {
      const py::handle item = PyTuple_GET_ITEM(arrays.ptr(), (py::ssize_t)i);
      py::object ndarray = as_ndarray(item, label(i));
      if (!ndarray.is(item)) {
        if (converted.empty()) converted.resize(arrays.size());
        converted[i] = std::move(ndarray);
      }
    }
  }

  bool is_given() const { return given; }
  size_t size() const { return arrays.size(); }
  py::handle ndarray(size_t i) const {
    if (i < converted.size() && converted[i]) return converted[i];
    return PyTuple_GET_ITEM(arrays.ptr(), (py::ssize_t)i);
  }
  // params[3], or params if that is one array; good until the next call.
  const char* label(size_t i) {
    if (!listed) return name.c_str();
    buffer.resize(name.size() + 24);
    char* p = buffer.data();
    memcpy(p, name.data(), name.size());
    p += name.size();
    *p++ = '[';
    p = std::to_chars(p, p + 20, i).ptr;
    *p++ = ']';
    *p = 0;
    return buffer.data();
  }

  std::string name;

 private:
  bool given = false, listed = false;
  py::tuple arrays;
  std::vector<py::object> converted;  // what is not NumPy's own, as NumPy arrays
  std::string buffer;
};

void run_reference(const Optimizer& optimizer, const Operand* operands, unsigned used, int64_t step,
                   const py::dict& numbers) {
  const py::object function = reference("optimizers").attr("OPTIMIZERS")[optimizer.name].attr("function");
  for (size_t i = 0; i < operands[0].size(); i++) {
    py::dict keywords(**numbers);
    keywords["step"] = step;
    for (int s = 0; s < optimizer.state_count; s++) {
      if (used >> s & 1) keywords[optimizer.states[s].name] = operands[2 + s].ndarray(i);
    }
    function(operands[0].ndarray(i), operands[1].ndarray(i), **keywords);
  }
}

void step(const std::string& name, py::handle params, py::handle grads, const py::tuple& states, py::handle step_number,
          const py::dict& given_numbers) {
  const Optimizer& optimizer = find_optimizer(name);
  const Numbers numbers = read_numbers(optimizer, given_numbers);
  const int64_t number = read_step(step_number);
  const int count = 2 + optimizer.state_count;
  if ((int)states.size() != optimizer.state_count) throw TypeError(name + ": wrong number of states");

  // Everything is converted first: what follows reads pointers, and no Python code may run in between.
  Operand operands[kMaxOperands];
  operands[0] = Operand("params", params, false);
  operands[1] = Operand("grads", grads, false);
  const unsigned used = used_states(optimizer, numbers.values.value);
  unsigned given = 0;
  for (int s = 0; s < optimizer.state_count; s++) {
    const State& state = optimizer.states[s];
    const std::string plural = std::string(state.name) + "s";
    const py::object list = states[(size_t)s];
    if ((used >> s & 1) && list.is_none()) {
      throw ValueError(plural + " must be given" +
                       (state.needed_by ? std::string(" where ") + state.needed_by + " is not 0" : "") + ", got None");
    }
    operands[2 + s] = Operand(plural, list, true);
    given |= (operands[2 + s].is_given() ? 1u : 0u) << s;
  }
  const size_t arrays = operands[0].size();
  for (int op = 1; op < count; op++) {
    if (operands[op].is_given() && operands[op].size() != arrays) {
      throw ValueError(operands[op].name + " must hold as many arrays as params, " + std::to_string(arrays) + ", got " +
                       std::to_string(operands[op].size()));
    }
  }

  OptimizerStep work(optimizer, numbers.values.value, (double)number, arrays);
  TensorView views[kMaxOperands];
  for (size_t i = 0; i < arrays; i++) {
    for (int op = 0; op < count; op++) {
      if (operands[op].is_given()) read_view(operands[op].ndarray(i), operands[op].label(i), views[op]);
    }
    work.add(views, given);
  }
  work.check_overlap([&](size_t i, int op, size_t j, int other) {
    const py::object shares = py::module_::import("innerloop._arrays").attr("shares_memory");
    if (!shares(operands[op].ndarray(i), operands[other].ndarray(j)).cast<bool>()) return;
    const std::string first = operands[op].label(i), second = operands[other].label(j);
    throw ValueError(first + " must not overlap " + second + ", got two views that share memory");
  });

  if (reference_in_use()) {
    run_reference(optimizer, operands, used, number, numbers.for_reference);
  } else {
    py::gil_scoped_release release;
    work.run();
  }
}

// What a step with these would refuse, told before the first: hyperparameters, and params unless it is None.
void check(const std::string& name, const py::dict& numbers, py::handle params) {
  read_numbers(find_optimizer(name), numbers);
  Operand operand("params", params, true);
  TensorView view;
  for (size_t i = 0; i < operand.size(); i++) {
    read_view(operand.ndarray(i), operand.label(i), view);
    check_full_precision(view);
    check_output(view);
  }
}

py::list list() {
  py::list entries;
  for (const Optimizer& o : *kernels().optimizers) {
    py::dict defaults;
    for (int i = 0; i < o.parameter_count; i++) {
      const Parameter& p = o.parameters[i];
      defaults[p.name] =
          p.is_flag ? py::object(py::bool_(p.default_value != 0)) : py::object(py::float_(p.default_value));
    }
    py::dict states;
    for (int i = 0; i < o.state_count; i++) {
      states[o.states[i].name] = o.states[i].needed_by ? py::object(py::str(o.states[i].needed_by)) : py::none();
    }
    entries.append(py::make_tuple(o.name, defaults, states));
  }
  return entries;
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.def("optimizers", &list, "(name, {parameter: default}, {state: what needs it, or None}) of each, in list order");
  m.def("optimizer_step", &step);
  m.def("optimizer_check", &check);
}

}  // namespace innerloop
