#include "bindings/optimizer_numbers.h"

#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

std::string text(py::handle value) { return std::string(py::repr(value)); }

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

// Calls f(name, value) with a number, or with each of a tuple by the names of its items.
template <class F>
void with_number(const std::string& name, int tuple_length, py::handle value, const F& f) {
  if (tuple_length == 0) return f(name, py::reinterpret_borrow<py::object>(value));
  if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) {
    throw TypeError(name + " must be a tuple of " + std::to_string(tuple_length) + " numbers, got " + text(value));
  }
  const py::tuple items(py::reinterpret_borrow<py::object>(value));
  if ((int)items.size() != tuple_length) {
    throw ValueError(name + " must be a tuple of " + std::to_string(tuple_length) + " numbers, got " + text(value));
  }
  for (int i = 0; i < tuple_length; i++) {
    f(name.substr(0, name.size() - 1) + std::to_string(i + 1), py::object(items[(size_t)i]));
  }
}

}  // namespace

double read_number(const Parameter& parameter, py::handle value) {
  const double read = number(value, parameter.name);
  check_range(parameter, read);
  return read;
}

OptimizerNumbers read_numbers(const Optimizer& optimizer, const py::dict& given) {
  OptimizerNumbers numbers;
  py::dict flat;
  const auto take = [&](const std::string& name, const py::object& value) {
    if (name == "maximize") {
      numbers.maximize = read_number(common_parameters[kMaximize], value) != 0;
    } else if (name == "l1") {
      numbers.l1 = read_number(common_parameters[kL1], value);
    } else {
      flat[py::str(name)] = value;
    }
  };
  for (const auto& [key, value] : given) {
    const std::string name = py::str(key);
    with_number(name, tuple_length(optimizer, name), value, take);
  }
  numbers.values = parameter_values(optimizer.name, optimizer.parameters, optimizer.parameter_count, flat);
  check_together(optimizer, numbers.values.value);
  if (!reference_in_use()) return numbers;
  py::dict for_reference;
  auto plain = [&](const std::string& name) -> py::object {
    if (name == "maximize") return py::bool_(numbers.maximize);
    if (name == "l1") return py::float_(numbers.l1);
    const int i = find_parameter(optimizer, name);
    const double value = numbers.values.value[i];
    return optimizer.parameters[i].is_flag ? py::object(py::bool_(value != 0)) : py::object(py::float_(value));
  };
  for (const auto& [key, value] : given) {
    const std::string name = py::str(key);
    const int count = tuple_length(optimizer, name);
    py::tuple items(count);
    for (int i = 0; i < count; i++) items[i] = plain(name.substr(0, name.size() - 1) + std::to_string(i + 1));
    for_reference[key] = count > 0 ? py::object(items) : plain(name);
  }
  numbers.for_reference = for_reference;
  return numbers;
}

// max_norm=None and grad_scale.
StepOptions read_options(py::handle max_norm, py::handle grad_scale) {
  StepOptions options;
  options.grad_scale = read_number(common_parameters[kGradScale], grad_scale);
  options.clip = !max_norm.is_none();
  if (options.clip) options.max_norm = read_number(kMaxNorm, max_norm);
  return options;
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

std::vector<StepNumbers> read_steps(const Optimizer& optimizer, const py::tuple& first, const py::tuple& later) {
  StepNumbers numbers{{}, read_options(first[1], first[2])};
  for (const py::handle group : first[0].cast<py::list>()) {
    const OptimizerNumbers read = read_numbers(optimizer, group.cast<py::dict>());
    numbers.groups.push_back({read.values, read.maximize, read.l1});
  }
  size_t count = 0;
  for (const py::handle group : later[0].cast<py::list>()) {
    for (const auto& [key, values] : group.cast<py::dict>()) count = std::max(count, values.cast<py::list>().size());
  }
  for (size_t i : {1, 2}) count = std::max(count, later[i].is_none() ? 0 : later[i].cast<py::list>().size());
  std::vector<StepNumbers> steps(1 + count, numbers);

  size_t g = 0;
  for (const py::handle group : later[0].cast<py::list>()) {
    for (const auto& [key, each] : group.cast<py::dict>()) {
      const std::string name = py::str(key);
      const int length = tuple_length(optimizer, name);
      const py::list values = each.cast<py::list>();
      for (size_t k = 0; k < values.size(); k++) {
        StepNumbers::Group& to = steps[k + 1].groups.at(g);
        with_number(name, length, values[k], [&](const std::string& item, const py::object& value) {
          if (item == "maximize") {
            to.maximize = read_number(common_parameters[kMaximize], value) != 0;
          } else if (item == "l1") {
            to.l1 = read_number(common_parameters[kL1], value);
          } else if (const int i = find_parameter(optimizer, item); i >= 0) {
            to.values.value[i] = read_number(optimizer.parameters[i], value);
          } else {
            throw TypeError(std::string(optimizer.name) + " has no " + item);
          }
        });
      }
    }
    g++;
  }
  for (size_t k = 1; k <= count; k++) {
    const auto at = [&](size_t i) -> py::object {
      if (later[i].is_none()) return first[i];
      const py::list values = later[i].cast<py::list>();
      return k <= values.size() ? py::object(values[k - 1]) : py::object(first[i]);
    };
    if (!later[1].is_none() || !later[2].is_none()) steps[k].options = read_options(at(1), at(2));
    for (const StepNumbers::Group& group : steps[k].groups) check_together(optimizer, group.values.value);
  }
  return steps;
}

}  // namespace innerloop
