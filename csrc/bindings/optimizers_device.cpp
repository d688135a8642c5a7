// The optimizers over arrays of a CUDA device: the checks that the kernels there ask for, and the call.
#include "bindings/device.h"
#include "bindings/operand.h"
#include "bindings/optimizers.h"
#include "core/checks.h"
#include "core/dispatch.h"

namespace innerloop {
namespace {

struct Group {
  size_t end;  // of its arrays
  OptimizerNumbers numbers;
  cuda::StepGroup step;
  std::vector<cuda::StepArray> arrays[2];  // [float64]
};

// An operand beside its param; it is written unless it is the grad.
void check_operand(const TensorView& t, const TensorView& param, int op) {
  check_shape(t, param);
  if (op == 1) {
    if (!(is_half(param.dtype) && t.dtype == Dtype::f32)) check_dtype(t, param);
  } else {
    const Dtype want = compute_dtype(param.dtype);
    if (op == kMasterOperand && !is_half(param.dtype)) {
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

void check_param(const TensorView& t) {
  check_floating(t);
  check_output(t);
  check_dense(t);
}

[[noreturn]] void refuse_overlap(Operand& first, size_t i, Operand& second, size_t j) {
  const std::string one = first.label(i), other = second.label(j);
  throw ValueError(one + " must not overlap " + other + ", got two views that share memory");
}

// A fresh 0-d array for the norm: float64 where all that it is of are.
Array fresh_norm(DeviceCall& device, py::handle like, bool float64, cuda::Clipping& clipping) {
  const Array norm = device.fresh(like, float64 ? Dtype::f64 : Dtype::f32, {});
  clipping.norm = norm.view.data;
  clipping.float64 = float64;
  return norm;
}

cuda::StepGroup with_arrays(cuda::StepGroup group, const std::vector<cuda::StepArray> (&arrays)[2]) {
  for (int wide = 0; wide < 2; wide++) group.arrays[wide] = {arrays[wide].data(), (int64_t)arrays[wide].size()};
  return group;
}

}  // namespace

py::object step_on_device(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
                          const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters,
                          py::handle scales) {
  const Optimizer& optimizer = find_optimizer(name);
  const StepOptions options = read_options(max_norm, grad_scale);
  if ((int)states.size() != optimizer.state_count) throw TypeError(name + ": wrong number of states");
  if (!scales.is_none()) throw ValueError("states of 8 bits are not built for arrays on CUDA devices");
  const double factor = 1 / options.grad_scale;
  std::vector<Group> groups;
  groups.reserve(py::len(group_list));
  for (const py::handle item : group_list) {
    const py::tuple given = py::reinterpret_borrow<py::tuple>(item);
    const size_t before = groups.empty() ? 0 : groups.back().end;
    Group group{given[0].is_none() ? SIZE_MAX : before + given[0].cast<size_t>(),
                read_numbers(optimizer, given[2].cast<py::dict>()),
                {},
                {}};
    group.step.used = used_states(optimizer, group.numbers.values.value);
    group.step.numbers = {nullptr, (double)read_step(given[1]), group.numbers.maximize ? -factor : factor,
                          group.numbers.l1};
    groups.push_back(std::move(group));
  }
  Operand operands[kStoredOperands];
  operands[0] = Operand("params", params, false, Devices::any);
  operands[1] = Operand("grads", grads, false, Devices::any);
  for (int s = 0; s < optimizer.state_count; s++) {
    const State& state = optimizer.states[s];
    operands[2 + s] = Operand(std::string(state.name) + "s", states[(size_t)s], true, Devices::any);
    for (const Group& group : groups) {
      if (!(group.step.used >> s & 1) || operands[2 + s].is_given()) continue;
      throw ValueError(operands[2 + s].name + " must be given" +
                       (state.needed_by ? std::string(" where ") + state.needed_by + " is not 0" : "") + ", got None");
    }
  }
  operands[kMasterOperand] = Operand("masters", masters, true, Devices::any);
  const size_t n = operands[0].size();
  for (const Operand& operand : operands) {
    if (!operand.is_given() || operand.size() == n) continue;
    throw ValueError(operand.name + " must hold as many arrays as params, " + std::to_string(n) + ", got " +
                     std::to_string(operand.size()));
  }
  if (!groups.empty() && groups.back().end == SIZE_MAX) groups.back().end = n;
  if (groups.empty() || groups.back().end != n) throw ValueError("the groups must hold all of params");

  DeviceCall device;
  Extents extents;
  extents.reserve(kStoredOperands, n);
  std::vector<py::object> owners;  // until the launches are queued
  bool all_wide = true;
  size_t i = 0;
  for (Group& group : groups) {
    for (; i < group.end; i++) {
      cuda::StepArray a = {};
      TensorView param;
      std::string labels[kStoredOperands];
      a.aligned = true;
      for (int op = 0; op < kStoredOperands; op++) {
        const Operand& operand = operands[op];
        const bool master = op == kMasterOperand;
        const bool needed = op < 2 || (op < kMaxOperands && (group.step.used >> (op - 2) & 1));
        if (!needed && !operand.is_given(i)) continue;
        labels[op] = operands[op].label(i);
        const Array array = device.in(operand.array(i), labels[op].c_str());
        const TensorView& t = array.view;
        owners.push_back(array.owner);
        if (op == 0) {
          check_param(t);
          param = t;
          a.size = t.size();
          a.param = stored_as(t.dtype);
          all_wide &= t.dtype == Dtype::f64;
        } else {
          check_operand(t, param, op);
        }
        if (!needed && !master) continue;  // a state that is given and not used is what it should be, no more
        if (op == 1) a.grad = stored_as(t.dtype);
        if (master) {  // steps in the place of param, which becomes the copy
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
      if (a.size > 0) group.arrays[param.dtype == Dtype::f64].push_back(a);
    }
  }
  extents.check([&](size_t k, int op, size_t j, int other) { refuse_overlap(operands[op], k, operands[other], j); });

  std::vector<cuda::StepGroup> steps;
  for (Group& group : groups) {
    steps.push_back(with_arrays(group.step, group.arrays));
    steps.back().numbers.parameters = group.numbers.values.value;
  }
  cuda::Clipping clipping = {options.max_norm, options.grad_scale, nullptr, false};
  Array norm{{}, py::none(), {}};
  if (options.clip) norm = fresh_norm(device, operands[0].array(0), all_wide, clipping);
  device.launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
    return find_kernel(*kernels.optimizers, optimizer.name)
        .step(queue, steps.data(), (int64_t)steps.size(), options.clip ? &clipping : nullptr);
  });
  return options.clip ? norm.owner : py::none();
}

void check_on_device(py::handle params) {
  Operand operand("params", params, false, Devices::any);
  DeviceCall device;
  Extents extents;
  extents.reserve(1, operand.size());
  for (size_t i = 0; i < operand.size(); i++) {
    const Array array = device.in(operand.array(i), operand.label(i));
    check_param(array.view);
    extents.add(array.view, i, 0, true);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
}

py::object clip_on_device(py::handle grads, double max_norm) {
  Operand operand("grads", grads, false, Devices::any);
  DeviceCall device;
  Extents extents;
  extents.reserve(1, operand.size());
  std::vector<py::object> owners;
  std::vector<cuda::StepArray> arrays[2];
  for (size_t i = 0; i < operand.size(); i++) {
    const Array array = device.in(operand.array(i), operand.label(i));
    const TensorView& t = array.view;
    check_param(t);
    owners.push_back(array.owner);
    extents.add(t, i, 0, true);
    cuda::StepArray a = {};
    a.data[1] = t.data;
    a.size = t.size();
    a.grad = stored_as(t.dtype);
    a.aligned = is_aligned(t);
    arrays[t.dtype == Dtype::f64].push_back(a);
  }
  extents.check([&](size_t i, int, size_t j, int) { refuse_overlap(operand, i, operand, j); });
  cuda::Clipping clipping = {max_norm, 1, nullptr, false};
  const Array norm = fresh_norm(device, operand.array(0), arrays[0].empty(), clipping);
  const cuda::StepGroup gradients = with_arrays({}, arrays);
  device.launch(
      [&](const cuda::Kernels& kernels, const cuda::Queue& queue) { return kernels.clip(queue, gradients, clipping); });
  return norm.owner;
}

}  // namespace innerloop
