#include "core/optimizers.h"

#include <string.h>

#include <algorithm>

#include "core/call.h"
#include "core/checks.h"
#include "core/walk.h"

namespace innerloop {
namespace {

constexpr int64_t kPiece = 65536;  // elements of a task: some 10 us of memory traffic, and few enough to stay even
constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us: below two, the caller does them
constexpr int64_t kEven = kRoundingBlock;  // pieces begin on multiples of this

}  // namespace

const Parameter common_parameters[kCommonParameters] = {
    {"maximize", 0, 0, 1, false, true},
    {"l1", 0, 0, 3.4028234663852886e38},
    {"grad_scale", 1, 1.1754943508222875e-38, 3.4028234663852886e38},  // its inverse is a float32 too
};

unsigned used_states(const Optimizer& optimizer, const double* parameters) {
  unsigned used = 0;
  for (int i = 0; i < optimizer.state_count; i++) {
    const char* needed_by = optimizer.states[i].needed_by;
    bool needed = needed_by == nullptr;
    for (int p = 0; p < optimizer.parameter_count && !needed; p++) {
      needed = strcmp(optimizer.parameters[p].name, needed_by) == 0 && parameters[p] != 0;
    }
    used |= (needed ? 1u : 0u) << i;
  }
  return used;
}

void check_together(const Optimizer& optimizer, const double* parameters) {
  const char* why = optimizer.refuse ? optimizer.refuse(parameters) : nullptr;
  if (why == nullptr) return;
  std::string text = std::string(why) + ", got";
  for (int i = 0; i < optimizer.parameter_count; i++) {
    text += (i ? ", " : " ") + std::string(optimizer.parameters[i].name) + " = " + number_text(parameters[i]);
  }
  throw ValueError(text);
}

OptimizerStep::OptimizerStep(const Optimizer& optimizer, const StepOptions& options, size_t arrays)
    : optimizer(optimizer), options(options), norm(options.clip ? arrays : 0) {
  jobs.reserve(arrays);
  extents.reserve(2 + optimizer.state_count, arrays);
}

unsigned OptimizerStep::begin_group(const double* parameters, bool maximize, double l1, double step) {
  groups.emplace_back();
  groups.back().used = used_states(optimizer, parameters);
  renew_group(groups.size() - 1, parameters, maximize, l1, step);
  return groups.back().used;
}

void OptimizerStep::renew_group(size_t i, const double* parameters, bool maximize, double l1, double step) {
  groups[i].maximize = maximize;
  groups[i].l1 = l1;
  optimizer.f32.prepare(parameters, step, groups[i].f32);
  optimizer.f64.prepare(parameters, step, groups[i].f64);
}

void OptimizerStep::renew_options(double grad_scale, double max_norm) {
  options.grad_scale = grad_scale;
  options.max_norm = max_norm;
}

void OptimizerStep::renew_key(size_t i, uint64_t key) {
  if (jobs[i].stored >= 0) stored_steps[(size_t)jobs[i].stored]->renew_key(key);
}

// Whether every operand is of param's dtype and that is what is computed in; throws where they do not fit together.
static bool check_storage(const TensorView* views, unsigned given, const StoredArrays& stored) {
  const TensorView& param = views[0];
  check_floating(param);
  bool plain = !is_half(param.dtype);
  for (int op = 0; op < kMaxOperands; op++) {
    if ((given >> op & 1) == 0) continue;
    const TensorView& t = views[op];
    check_shape(t, param);
    if (op != 1) check_output(t);
    if (t.dtype == param.dtype && !(op >= 2 && is_half(t.dtype))) continue;
    plain = false;
    if (op == 1) {
      if (is_half(param.dtype) && t.dtype == Dtype::f32) continue;
      check_dtype(t, param);
    }
    const TensorView& scales = stored.scales[op - 2];
    const bool coded = t.dtype == Dtype::u8 && scales.data != nullptr;
    if (param.dtype == Dtype::f64) check_dtype(t, param);
    if (t.dtype == Dtype::f32) continue;
    if (t.dtype != Dtype::bf16 && !coded) {
      throw TypeError(std::string(t.name) + " must be float32, or bfloat16, beside " + dtype_name(param.dtype) +
                      " params, got " + describe(t));
    }
    if (!is_contiguous(t)) {
      throw ValueError(std::string(t.name) + " must lie in C order without gaps to be kept in " + dtype_name(t.dtype) +
                       ", got strides " + shape_text(Shape(t.strides, t.strides + t.ndim)) + " for the shape " +
                       shape_text(t.shape, t.ndim));
    }
    if (!coded) continue;
    check_dtype(scales, Dtype::f32, "a scale for each 256 codes");
    check_shape(scales, Shape{(t.size() + 255) / 256}, "a scale for each 256 codes");
    check_output(scales);
    if (!is_contiguous(scales)) throw ValueError(std::string(scales.name) + " must be contiguous, got strides");
  }
  if (!stored.has_master) return plain;
  const TensorView& master = stored.master;
  const bool halves = param.dtype == Dtype::bf16 && master.dtype == Dtype::i16;
  if (!halves && !(is_half(param.dtype) && master.dtype == Dtype::f32)) {
    throw TypeError(std::string(master.name) +
                    " must be float32 beside params of half precision, or int16 beside bfloat16, got " +
                    describe(master) + " beside " + dtype_name(param.dtype));
  }
  check_shape(master, param);
  check_output(master);
  return false;
}

bool OptimizerStep::add(const TensorView* views, unsigned given, const StoredArrays& stored) {
  const TensorView& param = views[0];
  const int operands = 2 + optimizer.state_count;
  const unsigned used = groups.back().used;
  auto is_used = [&](int op) { return op < 2 || (op < operands && (used >> (op - 2) & 1)); };

  const bool plain = check_storage(views, given << 2 | 3, stored);

  Job job;
  job.size = param.size();
  job.kernels = &typed(optimizer, param.dtype);
  job.group = (uint32_t)groups.size() - 1;
  job.wide = param.dtype == Dtype::f64;
  job.walk = job.stored = -1;
  bool flat = true;
  for (int op = 0; op < kMaxOperands; op++) {
    job.operands[op] = is_used(op) ? views[op].data : nullptr;
    flat &= !is_used(op) || is_contiguous(views[op]);
  }
  if (job.size == 0) {
    jobs.push_back(job);
    return plain;
  }
  if (!plain) {
    unsigned negatives = 0, present_bits = 0;
    for (int s = 0; s < optimizer.state_count; s++) negatives |= (optimizer.states[s].below_0 ? 1u : 0u) << s;
    for (int op = 0; op < operands; op++) present_bits |= (is_used(op) ? 1u : 0u) << op;
    job.stored = (int)stored_steps.size();
    stored_steps.push_back(std::make_unique<StoredStep>(
        views, present_bits, stored.scales, stored.has_master ? &stored.master : nullptr, negatives, stored.key));
    for (int s = 0; s < optimizer.state_count; s++) {
      if (is_used(2 + s) && stored.scales[s].data) extents.add(stored.scales[s], jobs.size(), kScalesOperand + s, true);
    }
    if (stored.has_master) extents.add(stored.master, jobs.size(), kMasterOperand, true);
  } else if (!flat) {
    // States that are not used walk along with the parameter, and are not touched.
    const TensorView* all[kMaxOperands];
    for (int op = 0; op < kMaxOperands; op++) all[op] = is_used(op) ? &views[op] : &param;
    auto walk = std::make_unique<Walk<kMaxOperands>>(
        plan_walk<kMaxOperands>({all[0], all[1], all[2], all[3], all[4], all[5]}, 0));
    flat = walk->ndim == 1;  // one dense run after all, such as all in Fortran order
    for (int op = 0; op < kMaxOperands; op++) flat &= walk->stride[op][0] == (ptrdiff_t)dtype_size(param.dtype);
    if (!flat) {
      job.walk = (int)walks.size();
      walks.push_back(std::move(walk));
    }
  }
  for (int op = 0; op < operands; op++) {
    if (is_used(op)) extents.add(views[op], jobs.size(), op, op != 1);
  }
  if (options.clip) norm.add(views[1]);
  jobs.push_back(job);
  return plain;
}

double OptimizerStep::run() {
  struct Piece {
    const Job* job;
    int64_t begin, end;
  };
  Call call;
  double factor = 1 / options.grad_scale, found = 0;
  if (options.clip) {
    found = norm.norm(call) / options.grad_scale;
    factor *= clip_coefficient(found, options.max_norm);
  }
  for (Group& group : groups) {
    for (StepScalars* scalars : {&group.f32, &group.f64}) {
      scalars->factor = group.maximize ? -factor : factor;
      scalars->l1 = group.l1;
    }
  }
  int64_t total = 0;
  for (const Job& job : jobs) total += job.size;
  if (total == 0) return found;
  // Small arrays share a task, large ones are cut; a few tasks for each thread keep the threads even.
  int64_t share = total / (4 * (int64_t)call.threads);
  share = total < 2 * kGrain ? total : std::min(std::max(share, kGrain), kPiece);
  share = (share + kEven - 1) / kEven * kEven;
  std::vector<Piece> pieces;
  std::vector<size_t> tasks;  // the first piece of each
  pieces.reserve(jobs.size() + (size_t)(total / share) + 1);
  tasks.reserve((size_t)(total / share) + 2);
  int64_t room = 0;
  for (const Job& job : jobs) {
    for (int64_t begin = 0; begin < job.size;) {
      if (room < kEven) {
        tasks.push_back(pieces.size());
        room = share;
      }
      const int64_t end = std::min(job.size, begin + room / kEven * kEven);
      pieces.push_back({&job, begin, end});
      room -= end - begin;
      begin = end;
    }
  }
  const int count = (int)tasks.size();
  tasks.push_back(pieces.size());
  call.run(count, [&](int task) {
    for (size_t i = tasks[(size_t)task]; i < tasks[(size_t)task + 1]; i++) {
      const Piece& piece = pieces[i];
      const Job& job = *piece.job;
      const Group& group = groups[job.group];
      const StepScalars& scalars = job.wide ? group.f64 : group.f32;
      if (job.stored >= 0) {
        stored_steps[(size_t)job.stored]->run(*job.kernels, scalars, group.used, piece.begin, piece.end);
      } else if (job.walk < 0) {
        job.kernels->flat(scalars, group.used, job.operands, piece.begin, piece.end);
      } else {
        job.kernels->strided(scalars, group.used, *walks[(size_t)job.walk], piece.begin, piece.end);
      }
    }
  });
  return found;
}

}  // namespace innerloop
