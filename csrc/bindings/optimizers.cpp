// Python's optimizers: converts, checks, releases the GIL, calls the list.
#include "bindings/optimizers.h"

#include <stdio.h>
#include <string.h>

#include <charconv>

#include "bindings/arrays.h"
#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

std::string text(py::handle value) { return std::string(py::repr(value)); }

// The numbers of a group, as the kernels and as the reference take them: betas=(0.9, 0.999) is beta1 and beta2 to the
// one and a tuple to the other.
struct Numbers {
  ParameterValues values;
  bool maximize = false;
  double l1 = 0;
  py::object for_reference;  // a dict, where the reference is in use
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

double read_number(const Parameter& parameter, py::handle value) {
  const double read = number(value, parameter.name);
  check_range(parameter, read);
  return read;
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

Numbers read_numbers(const Optimizer& optimizer, const py::dict& given) {
  Numbers numbers;
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

// One of params, grads and the lists of states: an array, or a list or tuple of arrays. Among a list of states, None
// is an array that is not given.
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
      if (optional && item.is_none()) continue;
      py::object ndarray = as_ndarray(item, label(i));
      if (!ndarray.is(item)) {
        if (converted.empty()) converted.resize(arrays.size());
        converted[i] = std::move(ndarray);
      }
    }
  }

  bool is_given() const { return given; }
  bool is_given(size_t i) const { return given && !ndarray(i).is_none(); }
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

// Shared memory is refused, once it is certain.
void refuse_overlap(Operand& first, size_t i, Operand& second, size_t j) {
  const py::object shares = py::module_::import("innerloop._arrays").attr("shares_memory");
  if (!shares(first.ndarray(i), second.ndarray(j)).cast<bool>()) return;
  const std::string one = first.label(i), other = second.label(j);
  throw ValueError(one + " must not overlap " + other + ", got two views that share memory");
}

struct Group {
  size_t end;  // of its arrays
  int64_t step;
  Numbers numbers;
  unsigned used;
};

double reference_norm(const Operand& grads, double grad_scale) {
  py::list arrays;
  for (size_t i = 0; i < grads.size(); i++) arrays.append(grads.ndarray(i));
  return reference("gradients").attr("grad_norm")(arrays).cast<double>() / grad_scale;
}

double run_reference(const Optimizer& optimizer, const std::vector<Group>& groups, const Operand* operands,
                     const StepOptions& options, const std::vector<bool>& plain, uint64_t seed) {
  const py::object stored_step = reference("stored").attr("step");
  const py::object function = reference("optimizers").attr("OPTIMIZERS")[optimizer.name].attr("function");
  const double norm = options.clip ? reference_norm(operands[1], options.grad_scale) : 0;
  size_t i = 0;
  for (const Group& group : groups) {
    for (; i < group.end; i++) {
      py::dict keywords = group.numbers.for_reference.attr("copy")();
      keywords["step"] = group.step;
      keywords["grad_scale"] = options.grad_scale;
      if (options.clip) keywords["max_norm"] = options.max_norm;
      if (options.clip) keywords["norm"] = norm;
      py::dict states, scales, below_0, keys;
      for (int s = 0; s < optimizer.state_count; s++) {
        if ((group.used >> s & 1) == 0) continue;
        const char* state = optimizer.states[s].name;
        states[state] = operands[2 + s].ndarray(i);
        keys[state] = state_key(rounding_key(seed, (uint64_t)group.step, i), s);
        below_0[state] = optimizer.states[s].below_0;
        if (operands[kScalesOperand + s].is_given(i)) scales[state] = operands[kScalesOperand + s].ndarray(i);
      }
      if (!plain[i]) {
        const Operand& masters = operands[kMasterOperand];
        stored_step(function, operands[0].ndarray(i), operands[1].ndarray(i), states, scales, below_0, keys,
                    masters.is_given(i) ? masters.ndarray(i) : py::none(), keywords);
        continue;
      }
      for (const auto& [state, array] : states) keywords[state] = array;
      function(operands[0].ndarray(i), operands[1].ndarray(i), **keywords);
    }
  }
  return norm;
}

}  // namespace

struct BoundStep::Arrays {
  std::vector<Group> groups;
  Operand operands[kStoredOperands];
  std::vector<bool> plain;
};

std::vector<StepNumbers> read_steps(const Optimizer& optimizer, const py::tuple& first, const py::tuple& later) {
  StepNumbers numbers{{}, read_options(first[1], first[2])};
  for (const py::handle group : first[0].cast<py::list>()) {
    const Numbers read = read_numbers(optimizer, group.cast<py::dict>());
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

BoundStep::BoundStep(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
                     const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters,
                     py::handle scales, py::handle seed_number)
    : optimizer(find_optimizer(name)),
      options(read_options(max_norm, grad_scale)),
      seed(word64(seed_number, "seed")),
      arrays(std::make_unique<Arrays>()) {
  std::vector<Group>& groups = arrays->groups;
  Operand* operands = arrays->operands;
  const int count = 2 + optimizer.state_count;
  if ((int)states.size() != optimizer.state_count) throw TypeError(name + ": wrong number of states");
  size_t end = 0;
  for (const py::handle item : group_list) {
    const py::tuple group = py::reinterpret_borrow<py::tuple>(item);
    end = group[0].is_none() ? SIZE_MAX : end + group[0].cast<size_t>();
    Numbers numbers = read_numbers(optimizer, group[2].cast<py::dict>());
    const unsigned used = used_states(optimizer, numbers.values.value);
    groups.push_back({end, read_step(group[1]), std::move(numbers), used});
  }

  // Everything is converted first: what follows reads pointers, and no Python code may run in between.
  operands[0] = Operand("params", params, false);
  operands[1] = Operand("grads", grads, false);
  for (int s = 0; s < optimizer.state_count; s++) {
    const State& state = optimizer.states[s];
    const std::string plural = std::string(state.name) + "s";
    const py::object list = states[(size_t)s];
    for (const Group& group : groups) {
      if (!(group.used >> s & 1) || !list.is_none()) continue;
      throw ValueError(plural + " must be given" +
                       (state.needed_by ? std::string(" where ") + state.needed_by + " is not 0" : "") + ", got None");
    }
    operands[2 + s] = Operand(plural, list, true);
  }
  operands[kMasterOperand] = Operand("masters", masters, true);
  for (int s = 0; s < optimizer.state_count && !scales.is_none(); s++) {
    operands[kScalesOperand + s] = Operand(std::string(optimizer.states[s].name) + "_scales",
                                           py::reinterpret_borrow<py::tuple>(scales)[(size_t)s], true);
  }
  const size_t n = operands[0].size();
  for (int op = 1; op < kStoredOperands; op++) {
    if (operands[op].is_given() && operands[op].size() != n) {
      throw ValueError(operands[op].name + " must hold as many arrays as params, " + std::to_string(n) + ", got " +
                       std::to_string(operands[op].size()));
    }
  }
  if (!groups.empty() && groups.back().end == SIZE_MAX) groups.back().end = n;
  if (groups.empty() || groups.back().end != n) throw ValueError("the groups must hold all of params");

  work = std::make_unique<OptimizerStep>(optimizer, options, n);
  arrays->plain.reserve(n);
  TensorView views[kMaxOperands];
  size_t i = 0;
  for (const Group& group : groups) {
    const double* values = group.numbers.values.value;
    work->begin_group(values, group.numbers.maximize, group.numbers.l1, (double)group.step);
    for (; i < group.end; i++) {
      unsigned given = 0;
      for (int op = 0; op < count; op++) {
        const bool used = op < 2 || (group.used >> (op - 2) & 1);
        if (used && !operands[op].is_given(i)) as_ndarray(py::none(), operands[op].label(i));  // throws
        if (!operands[op].is_given(i)) continue;
        read_view(operands[op].ndarray(i), operands[op].label(i), views[op]);
        if (op >= 2) given |= 1u << (op - 2);
      }
      StoredArrays stored;
      for (int s = 0; s < optimizer.state_count; s++) {
        Operand& of_state = operands[kScalesOperand + s];
        if (of_state.is_given(i)) read_view(of_state.ndarray(i), of_state.label(i), stored.scales[s]);
      }
      Operand& master = operands[kMasterOperand];
      stored.has_master = master.is_given(i);
      if (stored.has_master) read_view(master.ndarray(i), master.label(i), stored.master);
      stored.key = rounding_key(seed, (uint64_t)group.step, i);
      arrays->plain.push_back(work->add(views, given, stored));
    }
  }
  work->check_overlap(
      [&](size_t k, int op, size_t j, int other) { refuse_overlap(operands[op], k, operands[other], j); });
}

BoundStep::~BoundStep() = default;

double BoundStep::run_reference() const {
  return innerloop::run_reference(optimizer, arrays->groups, arrays->operands, options, arrays->plain, seed);
}

bool BoundStep::renews_with(const StepNumbers& numbers) const {
  if (numbers.groups.size() != arrays->groups.size() || numbers.options.clip != options.clip) return false;
  for (size_t g = 0; g < numbers.groups.size(); g++) {
    if (used_states(optimizer, numbers.groups[g].values.value) != arrays->groups[g].used) return false;
  }
  return true;
}

void BoundStep::renew(const StepNumbers& numbers, int64_t step) {
  size_t i = 0;
  work->renew_options(numbers.options.grad_scale, numbers.options.max_norm);
  for (size_t g = 0; g < numbers.groups.size(); g++) {
    const StepNumbers::Group& group = numbers.groups[g];
    work->renew_group(g, group.values.value, group.maximize, group.l1, (double)step);
    for (; i < arrays->groups[g].end; i++) work->renew_key(i, rounding_key(seed, (uint64_t)step, i));
  }
}

namespace {

// Returns the norm of the gradients, or None without max_norm. The arguments are BoundStep's.
py::object step(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
                const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters,
                py::handle scales, py::handle seed) {
  const BoundStep bound(name, params, grads, states, group_list, max_norm, grad_scale, masters, scales, seed);
  double norm = 0;
  if (reference_in_use()) {
    norm = bound.run_reference();
  } else {
    py::gil_scoped_release release;
    norm = bound.work->run();
  }
  return bound.options.clip ? py::object(py::float_(norm)) : py::none();
}

// What a step with these would refuse, told before the first: hyperparameters, and params unless it is None.
void check(const std::string& name, const py::dict& numbers, py::handle params, py::handle max_norm,
           py::handle grad_scale) {
  read_numbers(find_optimizer(name), numbers);
  read_options(max_norm, grad_scale);
  Operand operand("params", params, true);
  if (!operand.is_given()) return;
  Extents extents;
  extents.reserve(1, operand.size());
  TensorView view;
  for (size_t i = 0; i < operand.size(); i++) {
    if (!operand.is_given(i)) as_ndarray(py::none(), operand.label(i));  // throws
    read_view(operand.ndarray(i), operand.label(i), view);
    check_floating(view);
    check_output(view);
    extents.add(view, i, 0, true);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
}

// The numbers of a group and of all, checked, for a backend of its own: (values, maximize, l1, which states are used,
// step, grad_scale, max_norm or None).
py::tuple numbers(const std::string& name, py::handle step, const py::dict& given, py::handle max_norm,
                  py::handle grad_scale) {
  const Optimizer& optimizer = find_optimizer(name);
  const Numbers read = read_numbers(optimizer, given);
  const StepOptions options = read_options(max_norm, grad_scale);
  py::list values;
  for (int i = 0; i < optimizer.parameter_count; i++) values.append(read.values.value[i]);
  return py::make_tuple(values, read.maximize, read.l1, used_states(optimizer, read.values.value), read_step(step),
                        options.grad_scale, options.clip ? py::object(py::float_(options.max_norm)) : py::none());
}

double clip_grad_norm(py::handle grads, py::handle max_norm) {
  const double most = read_number(kMaxNorm, max_norm);
  Operand operand("grads", grads, false);
  GradientNorm gradients(operand.size());
  Extents extents;
  extents.reserve(1, operand.size());
  TensorView view;
  for (size_t i = 0; i < operand.size(); i++) {
    read_view(operand.ndarray(i), operand.label(i), view);
    check_floating(view);
    check_output(view);
    extents.add(view, i, 0, true);
    gradients.add(view);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
  if (reference_in_use()) {
    const double norm = reference_norm(operand, 1);
    const py::object clip = reference("gradients").attr("clip");
    for (size_t i = 0; i < operand.size(); i++) clip(operand.ndarray(i), norm, most);
    return norm;
  }
  py::gil_scoped_release release;
  Call call;
  const double norm = gradients.norm(call), factor = clip_coefficient(norm, most);
  if (factor != 1) gradients.multiply(call, factor);
  return norm;
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
    defaults["maximize"] = false;  // and what is no rule's own
    defaults["l1"] = 0.0;
    defaults["max_norm"] = py::none();
    defaults["grad_scale"] = 1.0;
    py::dict states;
    auto named = [](const char* parameter) { return parameter ? py::object(py::str(parameter)) : py::none(); };
    for (int i = 0; i < o.state_count; i++) {
      states[o.states[i].name] = py::make_tuple(named(o.states[i].needed_by), named(o.states[i].starts_as));
    }
    entries.append(py::make_tuple(o.name, defaults, states));
  }
  return entries;
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.def(
      "optimizers", &list,
      "(name, {parameter: default}, {state: (what needs it, what it starts as), each or None}) of each, in list order");
  def_on_any_device(m, "optimizer_step", &step, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
                    py::arg(), py::arg("masters") = py::none(), py::arg("scales") = py::none(), py::arg("seed") = 0);
  m.def("optimizer_numbers", &numbers);
  m.def("optimizer_check", &check, py::arg(), py::arg(), py::arg(), py::arg("max_norm") = py::none(),
        py::arg("grad_scale") = 1.0);
  m.def("clip_grad_norm", &clip_grad_norm);
}

}  // namespace innerloop
