// Softmax cross-entropy, value and gradient in one pass over memory: the loops around rules/softmax_cross_entropy.h.
#include "rules/softmax_cross_entropy.h"

#include "cpu/exponentials.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

enum class Target { label, smoothed_label, probabilities };

// The shares q of a row that its elements are visited for; a label without smoothing needs none.
template <class T, Target target, bool weighted>
struct Shares {
  using L = Lanes<Native<T>>;
  CrossEntropy rule;
  const char* weight;
  const char* probability;  // of the row

  HD L at(int64_t i, int n) const {
    L q(0);
    if constexpr (target != Target::label) {
      const L w = weighted ? Row<T>::load(weight, i, n) : L(1);
      q = target == Target::probabilities ? rule.share(w, Row<T>::load(probability, i, n)) : rule.smooth_share(w);
    }
    return n == L::count ? q : q.first(n, 0);
  }
};

// sum(q) and sum(q (z - base)) over a row, base being the largest element so far: relative to any other, a label's loss
// would lose its digits where a first block is masked with -1e9.
template <class T, Target target, bool weighted>
struct ShareSums {
  using L = Lanes<Native<T>>;
  const Shares<T, target, weighted>& shares;
  T base = 0;
  RowTotal<L> q, qz;

  HD explicit ShareSums(const Shares<T, target, weighted>& s) : shares(s) {}
  HD void begin_block(T top) {
    if (target == Target::label || top == base) return;
    const T raised = top > -(T)INFINITY && top < (T)INFINITY ? top : T(0);
    qz.total = fma(q.total, L(base - raised), qz.total);
    base = raised;
  }
  HD void operator()(int64_t i, int n, L z) {
    if constexpr (target == Target::label) return;
    const L share = shares.at(i, n);
    const L above = z - L(base);
    qz.block = fma(share, n == L::count ? above : above.first(n, 0), qz.block);
    q.block = q.block + share;
  }
  HD void end_block() {
    if constexpr (target == Target::label) return;
    qz.end_block();
    q.end_block();
  }
};

// What the losses of a block of rows are made of, so that their logarithms are taken together. As it starts, losses of
// 0.
template <class T>
struct LossParts {
  T total[kRowsAtOnce], own[kRowsAtOnce], below_top[kRowsAtOnce];
  T sum_q[kRowsAtOnce], sum_qz[kRowsAtOnce];
  T row_weight[kRowsAtOnce], z_weight[kRowsAtOnce], top[kRowsAtOnce];
  HD LossParts() {
    for (int r = 0; r < kRowsAtOnce; r++) {
      total[r] = row_weight[r] = 1;
      own[r] = below_top[r] = sum_q[r] = sum_qz[r] = z_weight[r] = top[r] = 0;
    }
  }
};

// Not inlined: it is wanted once a row at most, by each of the loops.
template <class T>
__attribute__((noinline)) T log_of(T x) {
  return log(Native<T>(x))[0];
}

template <class T, Target target, bool weighted, bool gradient>
struct Loop {
  using L = Lanes<Native<T>>;
  using At = Row<T>;
  static_assert(L::count == kRowsAtOnce);

  const CrossEntropyWork& work;
  const CrossEntropy rule;
  const T scale = T(work.scale);
  const int64_t length = work.rows.length;

  static HD T element(const void* p, int64_t i) {
    T x;
    memcpy(&x, (const char*)p + i * sizeof(T), sizeof x);
    return x;
  }

  // row_scale * dz of 16 elements; `scaled` is as in the rule.
  HD L gradient_of(L e, T scaled, T row_scale, L q) const {
    if constexpr (target == Target::label) return rule.gradient(e, L(scaled));
    return rule.gradient(e, L(scaled), L(row_scale) * q);
  }

  // Row r of the block. z may be dz.
  HD void row(const char* z, const char* t, const char* label_at, const char* weight_at, char* dz, Workspace<T>& space,
              LossParts<T>& parts, int r) const {
    int64_t label = 0;
    T class_weight = 1;
    if constexpr (target != Target::probabilities) {
      memcpy(&label, label_at, sizeof label);
      if (label < 0) {
        if constexpr (gradient) memset(dz, 0, (size_t)length * sizeof(T));
        return;
      }
      if (work.weight) class_weight = element(work.weight, label);
      parts.own[r] = T(rule.hit) * class_weight;
      parts.below_top[r] = element(z, label);
    }
    if (work.sample_weighted) parts.row_weight[r] = element(weight_at, 0);
    const Shares<T, target, weighted> shares = {rule, (const char*)work.weight, t};
    ShareSums<T, target, weighted> sums(shares);
    RowSum<T> found;
    L e;
    if (length <= L::count) {  // stays in registers
      const int n = (int)length;
      const L logits = At::load(z, 0, n, -(T)INFINITY);
      found.top = largest(logits);
      e = exp_below_1(logits - L(found.top));
      found.total = sum(e);
      sums.begin_block(found.top);
      sums(0, n, logits);
      sums.end_block();
    } else {
      found = exponentials<gradient>(z, dz, length, space, sums);
    }
    parts.total[r] = found.total;
    if (work.z_loss != 0) {
      parts.top[r] = found.top;
      parts.z_weight[r] = T(work.z_loss) * (parts.row_weight[r] * class_weight);
    }
    parts.below_top[r] -= found.top;
    T sum_q = parts.own[r];
    if constexpr (target != Target::label) {
      parts.sum_q[r] = sum(sums.q.total);
      parts.sum_qz[r] = sum(sums.qz.total);
      sum_q = sum_q + parts.sum_q[r];
    }
    if constexpr (!gradient) return;
    const T row_scale = scale * parts.row_weight[r];
    T scaled = row_scale * sum_q;
    if (work.z_loss != 0) {
      const T lse = found.top + log_of(found.total);
      scaled = scaled + scale * rule.z_slope(parts.z_weight[r], lse);
    }
    scaled = scaled / found.total;
    const T scaled_own = row_scale * parts.own[r];
    if (length <= L::count) {
      const int n = (int)length;
      L d = gradient_of(e, scaled, row_scale, shares.at(0, n));
      if constexpr (target != Target::probabilities) d = d.but(label, d - L(scaled_own));
      At::store(d, dz, 0, n);
      return;
    }
    for_exponentials(found, length, space, [&](int64_t i, int n, L part, T factor) INNERLOOP_INLINE {
      At::store(gradient_of(part, scaled * factor, row_scale, shares.at(i, n)), dz, i, n);
    });
    if constexpr (target != Target::probabilities) {
      const T d = element(dz, label) - scaled_own;
      memcpy(dz + label * sizeof(T), &d, sizeof d);
    }
  }

  HD L losses(const LossParts<T>& parts) const {
    auto load = [](const T* p) { return L::load((const char*)p); };
    const L log_total = log(load(parts.total));
    L loss(0);
    if constexpr (target != Target::probabilities) {
      loss = rule.label_loss(load(parts.own), load(parts.below_top), log_total);
    }
    if constexpr (target != Target::label) {
      loss = loss + rule.shared_loss(load(parts.sum_q), load(parts.sum_qz), log_total);
    }
    if (work.sample_weighted) loss = load(parts.row_weight) * loss;
    if (work.z_loss != 0) loss = loss + rule.z_value(load(parts.z_weight), load(parts.top) + log_total);
    return loss;
  }

  static void run(const CrossEntropyWork& work, void* memory, int64_t begin, int64_t end) {
    const int64_t classes = work.rows.length;
    const Loop loop = {work, {1 - work.label_smoothing, work.label_smoothing / (double)classes}};
    const Scratch<T> scratch(memory, classes);
    Workspace<T> space;
    space.tops = scratch.tops;
    for_blocks<T>(work.rows, scratch.rows, begin, end, [&](const Block<6>& block, int count) {
      LossParts<T> parts;
      for (int r = 0; r < count; r++) {
        loop.row(block.row(0, r), block.row(1, r), block.row(2, r), block.row(3, r), block.row(5, r), space, parts, r);
      }
      T loss[kRowsAtOnce];
      loop.losses(parts).store((char*)loss);
      for (int r = 0; r < count; r++) memcpy(block.row(4, r), &loss[r], sizeof(T));
    });
  }
};

template <class T, Target target, bool weighted>
void run_target(const CrossEntropyWork& work, void* scratch, int64_t begin, int64_t end) {
  if (work.gradient) {
    Loop<T, target, weighted, true>::run(work, scratch, begin, end);
  } else {
    Loop<T, target, weighted, false>::run(work, scratch, begin, end);
  }
}

template <class T>
void cross_entropy(const CrossEntropyWork& work, void* scratch, int64_t begin, int64_t end) {
  const bool smooth = work.label_smoothing > 0;
  if (work.probabilities) {
    (work.weight ? run_target<T, Target::probabilities, true>
                 : run_target<T, Target::probabilities, false>)(work, scratch, begin, end);
  } else if (smooth) {
    (work.weight ? run_target<T, Target::smoothed_label, true>
                 : run_target<T, Target::smoothed_label, false>)(work, scratch, begin, end);
  } else {
    run_target<T, Target::label, false>(work, scratch, begin, end);
  }
}

}  // namespace

const ByDtype<CrossEntropyKernel> softmax_cross_entropy = {cross_entropy<float>, cross_entropy<double>};

}  // namespace innerloop::INNERLOOP_ISA
