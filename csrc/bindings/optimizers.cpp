// Python's optimizers: converts, checks, releases the GIL, calls the list.
#include "bindings/optimizers.h"

#include "bindings/device.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "bindings/operand.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

// Shared memory is refused, once it is certain.
void refuse_overlap(Operand& first, size_t i, Operand& second, size_t j) {
  const py::object shares = py::module_::import("innerloop._arrays").attr("shares_memory");
  if (!shares(first.array(i), second.array(j)).cast<bool>()) return;
  const std::string one = first.label(i), other = second.label(j);
  throw ValueError(one + " must not overlap " + other + ", got two views that share memory");
}

struct Group {
  size_t end;  // of its arrays
  int64_t step;
  OptimizerNumbers numbers;
  unsigned used;
};

double reference_norm(const Operand& grads, double grad_scale) {
  py::list arrays;
  for (size_t i = 0; i < grads.size(); i++) arrays.append(grads.array(i));
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
        states[state] = operands[2 + s].array(i);
        keys[state] = state_key(rounding_key(seed, (uint64_t)group.step, i), s);
        below_0[state] = optimizer.states[s].below_0;
        if (operands[kScalesOperand + s].is_given(i)) scales[state] = operands[kScalesOperand + s].array(i);
      }
      if (!plain[i]) {
        const Operand& masters = operands[kMasterOperand];
        stored_step(function, operands[0].array(i), operands[1].array(i), states, scales, below_0, keys,
                    masters.is_given(i) ? masters.array(i) : py::none(), keywords);
        continue;
      }
      for (const auto& [state, array] : states) keywords[state] = array;
      function(operands[0].array(i), operands[1].array(i), **keywords);
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
    OptimizerNumbers numbers = read_numbers(optimizer, group[2].cast<py::dict>());
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
        read_view(operands[op].array(i), operands[op].label(i), views[op]);
        if (op >= 2) given |= 1u << (op - 2);
      }
      StoredArrays stored;
      for (int s = 0; s < optimizer.state_count; s++) {
        Operand& of_state = operands[kScalesOperand + s];
        if (of_state.is_given(i)) read_view(of_state.array(i), of_state.label(i), stored.scales[s]);
      }
      Operand& master = operands[kMasterOperand];
      stored.has_master = master.is_given(i);
      if (stored.has_master) read_view(master.array(i), master.label(i), stored.master);
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
  try {
    const BoundStep bound(name, params, grads, states, group_list, max_norm, grad_scale, masters, scales, seed);
    double norm = 0;
    if (reference_in_use()) {
      norm = bound.run_reference();
    } else {
      py::gil_scoped_release release;
      norm = bound.work->run();
    }
    return bound.options.clip ? py::object(py::float_(norm)) : py::none();
  } catch (const OnDevice&) {
    if (reference_in_use()) throw;
  }
  return step_on_device(name, params, grads, states, group_list, max_norm, grad_scale, masters, scales);
}

// What a step with these would refuse, told before the first: hyperparameters, and params unless it is None.
void check(const std::string& name, const py::dict& numbers, py::handle params, py::handle max_norm,
           py::handle grad_scale) {
  read_numbers(find_optimizer(name), numbers);
  read_options(max_norm, grad_scale);
  Operand operand;
  try {
    operand = Operand("params", params, true);
  } catch (const OnDevice&) {
    return check_on_device(params);
  }
  if (!operand.is_given()) return;
  Extents extents;
  extents.reserve(1, operand.size());
  TensorView view;
  for (size_t i = 0; i < operand.size(); i++) {
    if (!operand.is_given(i)) as_ndarray(py::none(), operand.label(i));  // throws
    read_view(operand.array(i), operand.label(i), view);
    check_floating(view);
    check_output(view);
    extents.add(view, i, 0, true);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
}

py::object clip_grad_norm(py::handle grads, py::handle max_norm) {
  const double most = read_number(kMaxNorm, max_norm);
  Operand operand;
  try {
    operand = Operand("grads", grads, false);
  } catch (const OnDevice&) {
    if (reference_in_use()) throw;
    return clip_on_device(grads, most);
  }
  GradientNorm gradients(operand.size());
  Extents extents;
  extents.reserve(1, operand.size());
  TensorView view;
  for (size_t i = 0; i < operand.size(); i++) {
    read_view(operand.array(i), operand.label(i), view);
    check_floating(view);
    check_output(view);
    extents.add(view, i, 0, true);
    gradients.add(view);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
  if (reference_in_use()) {
    const double norm = reference_norm(operand, 1);
    const py::object clip = reference("gradients").attr("clip");
    for (size_t i = 0; i < operand.size(); i++) clip(operand.array(i), norm, most);
    return py::float_(norm);
  }
  double norm;
  {
    py::gil_scoped_release release;
    Call call;
    norm = gradients.norm(call);
    const double factor = clip_coefficient(norm, most);
    if (factor != 1) gradients.multiply(call, factor);
  }
  return py::float_(norm);
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
  m.def("optimizer_step", &step, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
        py::arg("masters") = py::none(), py::arg("scales") = py::none(), py::arg("seed") = 0);
  m.def("optimizer_check", &check, py::arg(), py::arg(), py::arg(), py::arg("max_norm") = py::none(),
        py::arg("grad_scale") = 1.0);
  m.def("clip_grad_norm", &clip_grad_norm);
}

}  // namespace innerloop
