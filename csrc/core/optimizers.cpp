#include "core/optimizers.h"

#include <string.h>

#include <algorithm>
#include <tuple>

#include "core/call.h"
#include "core/checks.h"
#include "core/walk.h"

namespace innerloop {
namespace {

constexpr int64_t kPiece = 65536;  // elements of a task: some 10 us of memory traffic, and few enough to stay even
constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us: below two, the caller does them

// The same C-contiguous layout in every operand: by far the most common case, told without planning a walk.
bool is_contiguous(const TensorView& t) {
  ptrdiff_t expected = (ptrdiff_t)dtype_size(t.dtype);
  for (int d = t.ndim - 1; d >= 0; d--) {
    if (t.shape[d] != 1 && t.strides[d] != expected) return false;
    expected *= t.shape[d];
  }
  return true;
}

}  // namespace

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

OptimizerStep::OptimizerStep(const Optimizer& optimizer, const double* parameters, double step, size_t arrays)
    : optimizer(optimizer), mask(used_states(optimizer, parameters)) {
  optimizer.f32.prepare(parameters, step, f32);
  optimizer.f64.prepare(parameters, step, f64);
  jobs.reserve(arrays);
  for (int op = 0; op < 2 + optimizer.state_count; op++) extents[op].reserve(arrays);
}

void OptimizerStep::add(const TensorView* views, unsigned given) {
  const TensorView& param = views[0];
  const int operands = 2 + optimizer.state_count;
  auto is_given = [&](int op) { return op < 2 || (given >> (op - 2) & 1); };
  auto is_used = [&](int op) { return op < 2 || (op < operands && (mask >> (op - 2) & 1)); };

  check_full_precision(param);
  for (int op = 0; op < operands; op++) {
    if (!is_given(op)) continue;
    check_dtype(views[op], param);
    check_shape(views[op], param);
    if (op != 1) check_output(views[op]);
  }

  Job job;
  job.size = param.size();
  job.kernels = param.dtype == Dtype::f64 ? &optimizer.f64 : &optimizer.f32;
  job.scalars = param.dtype == Dtype::f64 ? &f64 : &f32;
  job.walk = -1;
  bool flat = true;
  for (int op = 0; op < kMaxOperands; op++) {
    job.operands[op] = is_used(op) ? views[op].data : nullptr;
    flat &= !is_used(op) || is_contiguous(views[op]);
  }
  if (job.size == 0) return jobs.push_back(job);
  if (!flat) {
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
    if (!is_used(op)) continue;
    Extent e;
    memory_extent(views[op], e.low, e.high);
    e.array = (uint32_t)jobs.size();
    e.operand = (uint8_t)op;
    extents[op].push_back(e);
  }
  jobs.push_back(job);
}

void OptimizerStep::check_overlap(const std::function<void(size_t, int, size_t, int)>& refuse) const {
  std::vector<Extent> all;
  all.reserve(jobs.size() * (size_t)(2 + optimizer.state_count));
  for (const auto& list : extents) all.insert(all.end(), list.begin(), list.end());
  auto before = [](const Extent& a, const Extent& b) { return a.low < b.low; };
  if (!std::is_sorted(all.begin(), all.end(), before)) std::sort(all.begin(), all.end(), before);
  const char *read_end = nullptr, *write_end = nullptr;  // how far those before reach
  for (size_t i = 0; i < all.size(); i++) {
    const Extent& e = all[i];
    if (e.low < write_end || (e.written() && e.low < read_end)) {
      for (size_t j = 0; j < i; j++) {
        if (all[j].high <= e.low || !(e.written() || all[j].written())) continue;
        const bool in_order = std::tie(all[j].operand, all[j].array) < std::tie(e.operand, e.array);
        const Extent &first = in_order ? all[j] : e, &second = in_order ? e : all[j];
        refuse(first.array, first.operand, second.array, second.operand);
      }
    }
    const char*& end = e.written() ? write_end : read_end;
    end = std::max(end, e.high);
  }
}

void OptimizerStep::run() const {
  struct Piece {
    const Job* job;
    int64_t begin, end;
  };
  Call call;
  int64_t total = 0;
  for (const Job& job : jobs) total += job.size;
  if (total == 0) return;
  // Small arrays share a task, large ones are cut; a few tasks for each thread keep the threads even.
  int64_t share = total / (4 * (int64_t)call.threads);
  share = total < 2 * kGrain ? total : std::min(std::max(share, kGrain), kPiece);
  share = (share + 63) & ~int64_t(63);
  std::vector<Piece> pieces;
  std::vector<size_t> tasks;  // the first piece of each
  pieces.reserve(jobs.size() + (size_t)(total / share) + 1);
  tasks.reserve((size_t)(total / share) + 2);
  int64_t room = 0;
  for (const Job& job : jobs) {
    for (int64_t begin = 0; begin < job.size;) {
      if (room < 64) {
        tasks.push_back(pieces.size());
        room = share;
      }
      const int64_t end = std::min(job.size, begin + (room & ~int64_t(63)));
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
      if (job.walk < 0) {
        job.kernels->flat(*job.scalars, mask, job.operands, piece.begin, piece.end);
      } else {
        job.kernels->strided(*job.scalars, mask, *walks[(size_t)job.walk], piece.begin, piece.end);
      }
    }
  });
}

}  // namespace innerloop
