#include "core/stored_step.h"

#include "core/half.h"

namespace innerloop {

// splitmix64 (G. Steele, D. Lea and C. Flood, OOPSLA 2014).
static uint64_t next_key(uint64_t key, uint64_t value) {
  uint64_t z = (key ^ value) + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t rounding_key(uint64_t seed, uint64_t step, uint64_t array) {
  return next_key(next_key(next_key(0, seed), step), array);
}

uint64_t state_key(uint64_t key, int state) { return next_key(key, (uint64_t)state); }

static std::unique_ptr<Walk<1>> walk_unless_contiguous(const TensorView& t) {
  return is_contiguous(t) ? nullptr : std::make_unique<Walk<1>>(walk_elements(t));
}

// f(the walk over an operand); one that lies end to end is made for the occasion, as a step may have thousands.
template <class F>
static void with_walk(const std::unique_ptr<Walk<1>>& walk, char* data, size_t item, int64_t end, const F& f) {
  if (walk) return f(*walk);
  f(walk_contiguous(data, item, end));
}

StoredStep::StoredStep(const TensorView* views, unsigned used, const TensorView* scales, const TensorView* master,
                       unsigned negatives, uint64_t key) {
  auto stored = [](const TensorView& t) {
    Operand o;
    o.dtype = t.dtype;
    o.data = t.data;
    o.kind = t.dtype == Dtype::f32 && is_contiguous(t) ? Kind::in_place : Kind::converted;
    o.walk = walk_unless_contiguous(t);
    return o;
  };
  states_in_bfloat16 = used >> 2 != 0;
  for (int op = 0; op < kMaxOperands; op++) {
    if ((used >> op & 1) == 0) continue;
    operands[op] = stored(views[op]);
    if (op < 2) continue;
    operands[op].negatives = negatives >> (op - 2) & 1;
    operands[op].scales = scales[op - 2].data;
    if (views[op].dtype == Dtype::u8) operands[op].kind = Kind::in_8_bits;
    if (views[op].dtype == Dtype::bf16) operands[op].kind = Kind::stochastic;
    states_in_bfloat16 &= views[op].dtype == Dtype::bf16;
  }
  renew_key(key);
  if (master == nullptr) return;
  if (master->dtype == Dtype::f32) {
    has_copy = true;
    copy = std::move(operands[0]);
    operands[0] = stored(*master);
  } else {
    operands[0].kind = Kind::split;
    operands[0].lower = master->data;
    operands[0].lower_walk = walk_unless_contiguous(*master);
  }
}

void StoredStep::renew_key(uint64_t key) {
  for (int op = 2; op < kMaxOperands; op++) operands[op].key = state_key(key, op - 2);
}

void StoredStep::widen(const Operand& o, int64_t begin, int64_t end, float* to) const {
  const Storages& storages = *kernels().storages;
  if (o.kind == Kind::split) {
    with_walk(o.walk, o.data, 2, end, [&](const Walk<1>& upper) {
      with_walk(o.lower_walk, o.lower, 2, end,
                [&](const Walk<1>& lower) { storages.split.join(upper, lower, begin, end, to); });
    });
  } else if (o.kind == Kind::in_8_bits) {
    storages.states.widen_8bit(o.data, o.scales, o.negatives, begin, end, to);
  } else {
    with_walk(o.walk, o.data, dtype_size(o.dtype), end,
              [&](const Walk<1>& from) { storage_of(o.dtype).widen(from, begin, end, to); });
  }
}

void StoredStep::narrow(const Operand& o, const float* from, int64_t begin, int64_t end) const {
  const Storages& storages = *kernels().storages;
  if (o.kind == Kind::split) {
    with_walk(o.walk, o.data, 2, end, [&](const Walk<1>& upper) {
      with_walk(o.lower_walk, o.lower, 2, end,
                [&](const Walk<1>& lower) { storages.split.split(from, upper, lower, begin, end); });
    });
  } else if (o.kind == Kind::in_8_bits) {
    storages.states.round_8bit(from, o.negatives, begin, end, o.key, o.data, o.scales);
  } else if (o.kind == Kind::stochastic) {
    storages.states.round_bf16(from, begin, end, o.key, o.data);
  } else {
    with_walk(o.walk, o.data, dtype_size(o.dtype), end,
              [&](const Walk<1>& to) { storage_of(o.dtype).narrow(from, to, begin, end); });
  }
}

void StoredStep::run(const OptimizerKernels& kernel, const StepScalars& scalars, unsigned used, int64_t begin,
                     int64_t end) const {
  constexpr int64_t chunk = 1024;  // a multiple of the rounding block
  alignas(64) float scratch[kMaxOperands][chunk + 16];
  char* at[kMaxOperands];
  uint64_t keys[kMaxStates];
  for (int s = 0; s < kMaxStates; s++) keys[s] = operands[2 + s].key;
  const bool in_place =
      states_in_bfloat16 && operands[0].kind == Kind::in_place && operands[1].kind == Kind::in_place && !has_copy;
  for (int64_t n; begin < end; begin += n) {
    n = in_place || end - begin < chunk ? end - begin : chunk;
    // States in bfloat16 are rounded by the kernel itself, but for a last part of a rounding block.
    const bool rounded = states_in_bfloat16 && n >= kRoundingBlock;
    if (rounded) n -= n % kRoundingBlock;
    auto is_converted = [&](const Operand& o) {
      return o.kind > Kind::in_place && !(rounded && o.kind == Kind::stochastic);
    };
    for (int op = 0; op < kMaxOperands; op++) {
      const Operand& o = operands[op];
      at[op] = o.kind == Kind::unused ? nullptr : o.data + begin * (int64_t)dtype_size(o.dtype);
      if (!is_converted(o)) continue;
      at[op] = reinterpret_cast<char*>(scratch[op]);
      widen(o, begin, begin + n, scratch[op]);
    }
    rounded ? kernel.rounded(scalars, used, at, keys, begin, n) : kernel.flat(scalars, used, at, 0, n);
    for (int op = 0; op < kMaxOperands; op++) {
      if (op != 1 && is_converted(operands[op])) narrow(operands[op], scratch[op], begin, begin + n);
    }
    if (has_copy) narrow(copy, reinterpret_cast<const float*>(at[0]), begin, begin + n);
  }
}

}  // namespace innerloop
