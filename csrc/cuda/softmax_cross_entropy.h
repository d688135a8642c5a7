// The body of softmax cross-entropy over rows, value and gradient, grown from rules/softmax_cross_entropy.h.
#pragma once

#include "cuda/losses.h"
#include "cuda/rows.h"
#include "rules/softmax_cross_entropy.h"

namespace innerloop::INNERLOOP_ISA {

// A label without smoothing has no shares to be looked after, in half the registers.
enum class Target { label, smoothed_label, probabilities };

// What every row of a call has.
struct CrossEntropyCall {
  CrossEntropy rule;
  double z_loss;
  Labels labels;
  Weights weight, sample_weight;
  RowScale scale;
  char* losses;  // one T a row
  Fault* fault;
};

// The shares q of a row's classes: sum(q) and sum(q (z - base)), base being the largest element so far: relative to any
// other, a label's loss would lose its digits where the first elements are masked with -1e9. Probabilities are the
// second input of the row.
template <class S, Target target, class Layout>
struct ShareSums {
  static constexpr bool shared = target != Target::label;
  static constexpr int inputs = target == Target::probabilities ? 2 : 1;
  using V = typename ComputedAs<S>::type;
  const CrossEntropyCall& call;
  const AxisRow<S, inputs, Layout>& row;
  int64_t label;   // whose logit is wanted; or none, if negative
  V at_label = 0;  // read before anybody writes the gradient over it
  V base = 0, q = 0, qz = 0;

  HD V share(int64_t c, int u, int i) const {
    V w(1);
    if (call.weight.data != nullptr) {
      if (!row.inside(c)) return V(0);
      w = weight_at<typename V::scalar>(call.weight, c);
    }
    if constexpr (inputs == 2) return call.rule.share(w, row.value(1, u, i));
    return call.rule.smooth_share(w);
  }

  HD void begin(V now) {
    if (!shared) return;
    if (!(now.v < V(INFINITY).v)) now = V(0);
    qz = fma(q, base - now, qz);
    base = now;
  }
  HD void operator()(int64_t c, int u, int i, V z) {
    if (!shared || !row.inside(c)) return;
    const V part = share(c, u, i);
    qz = fma(part, z - base, qz);
    q = q + part;
  }
  HD void end(V top) {
    if (label >= 0) at_label = row.element(label);
    if constexpr (Layout::once) row.group.block.sync_warp();  // before a lane writes the gradient over what was read
    if (!shared) return;
    begin(top.v > -V(INFINITY).v ? top : V(0));
    q = row.group.sum(q);
    qz = row.group.sum(qz);
  }
};

template <class S, Target target, class Layout>
struct CrossEntropyRows {
  using Shares = ShareSums<S, target, Layout>;
  static constexpr bool labels = target != Target::probabilities;
  static constexpr int together = target == Target::label ? 2 : 0;  // blocks on a processor: the others would spill
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  RowPlan plan;
  CrossEntropyCall call;
  const char* in[2];  // the logits, the probabilities
  char* out;          // the gradient, or null

  HD void operator()(const Block& block) const {
    const V scale(T(call.scale.known != nullptr ? call.scale.known->scale : call.scale.scale));
    for_rows<Layout>(block, plan, [&](const RowGroup<Layout>& group, int64_t number, bool active) {
      int64_t label = 0;
      if constexpr (labels) {
        if (active) label = call.labels.at(number, group.rank == 0 ? call.fault : nullptr);
      }
      const bool counts = active && label >= 0 && plan.shape.length > 0;
      AxisRow<S, Shares::inputs, Layout> row(group, plan, in, out, number, active, V(-INFINITY));
      const int64_t pieces = row.pieces;
      if (!counts) row.pieces = 0;  // it may hold anything, and is not read
      V class_weight(1), own(0), row_weight(1);
      if (counts && labels) {
        if (call.weight.data != nullptr) class_weight = weight_at<T>(call.weight, label);
        own = V(T(call.rule.hit)) * class_weight;
      }
      if (counts && call.sample_weight.data != nullptr) row_weight = weight_at<T>(call.sample_weight, number);

      Shares shares = {call, row, counts && labels && group.rank == 0 ? label : -1};
      const RowTotal<V> found = exponentials(row, shares);
      const V z_weight = V(T(call.z_loss)) * (row_weight * class_weight);
      V log_total(0);
      if (group.rank == 0 || call.z_loss != 0) log_total = log(found.total);
      if (active && group.rank == 0) {
        V loss(0);
        if constexpr (labels) loss = call.rule.label_loss(own, shares.at_label - found.top, log_total);
        if (Shares::shared) loss = loss + call.rule.shared_loss(shares.q, shares.qz, log_total);
        if (call.sample_weight.data != nullptr) loss = row_weight * loss;
        if (call.z_loss != 0) loss = loss + call.rule.z_value(z_weight, found.top + log_total);
        if (!counts) loss = V(0);
        reinterpret_cast<Piece<T, 1>*>(call.losses)[number].lane[0] = loss.v;
      }
      if (out == nullptr) return;
      if (!counts) {
        row.pieces = pieces;
        row.fill_with([](int64_t) { return V(0); });
        return;
      }
      const V row_scale = scale * row_weight;
      V scaled = row_scale * (Shares::shared ? own + shares.q : own);
      if (call.z_loss != 0) scaled = scaled + scale * call.rule.z_slope(z_weight, found.top + log_total);
      scaled = scaled / found.total;
      const V scaled_own = row_scale * own;
      row.read_again([&](int64_t first) {
        row.each(first, [&](int64_t piece, int64_t c, int u) {
          V d[row.N];
          INNERLOOP_UNROLL
          for (int i = 0; i < row.N; i++) {
            const V e = exponential_of<S>(row.value(0, u, i) - found.top);
            d[i] = Shares::shared ? call.rule.gradient(e, scaled, row_scale * shares.share(c + i, u, i))
                                  : call.rule.gradient(e, scaled);
            if (labels && c + i == label) d[i] = d[i] - scaled_own;
          }
          row.store(piece, d);
        });
      });
    });
  }
};

// The rows of a loss alone, what they are divided by being known; defined in the .cu.
int launch_cross_entropy(const Queue& queue, const RowLoss& loss, double label_smoothing, double z_loss,
                         const RowScale& scale, char* losses);

}  // namespace innerloop::INNERLOOP_ISA
