// The bodies of nll_loss: its values, one element a row, and its gradient, which is 0 but for one element a row.
#pragma once

#include "cuda/losses.h"
#include "cuda/rows.h"
#include "rules/losses.h"

namespace innerloop::INNERLOOP_ISA {

struct NllCall {
  RowShape shape;
  Labels labels;
  Weights weight, sample_weight;
  Fault* fault;

  template <class T>
  HD Vec<T, 1> weight_of(int64_t row, int64_t label) const {
    Vec<T, 1> w(1);
    if (weight.data != nullptr) w = weight_at<T>(weight, label);
    if (sample_weight.data != nullptr) w = w * weight_at<T>(sample_weight, row);
    return w;
  }
};

template <class S>
struct NllLosses {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  NllCall call;
  const char* in;
  char* losses;

  HD void operator()(const Block& block) const {
    const Thread thread = block.thread();
    const int64_t rows = call.shape.outer * call.shape.inner;
    for (int64_t row = thread.index; row < rows; row += thread.count) {
      const int64_t label = call.labels.at(row, call.fault);
      V loss(0);
      if (label >= 0) {
        const int64_t inner = call.shape.inner, first = row + row / inner * (call.shape.length - 1) * inner;
        const V x = widen(reinterpret_cast<const Piece<S, 1>*>(in)[first + label * inner].lane[0]);
        loss = NegativeLogLikelihood::loss(x, call.weight_of<T>(row, label));
      }
      reinterpret_cast<Piece<T, 1>*>(losses)[row].lane[0] = loss.v;
    }
  }
};

template <class S, class Layout>
struct NllGradient {
  static constexpr int together = 2;
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  RowPlan plan;
  NllCall call;
  RowScale scale;
  const char* in[1];  // not read
  char* out;

  HD void operator()(const Block& block) const {
    const V by(T(scale.known != nullptr ? scale.known->scale : scale.scale));
    for_rows<Layout>(block, plan, [&](const RowGroup<Layout>& group, int64_t number, bool active) {
      const AxisRow<S, 1, Layout> row(group, plan, in, out, number, active, V(0));
      if (!active) return;
      const int64_t label = call.labels.at(number, nullptr);
      V slope(0);
      if (label >= 0) slope = NegativeLogLikelihood::slope(call.weight_of<T>(number, label)) * by;
      row.fill_with([&](int64_t c) { return c == label ? slope : V(0); });
    });
  }
};

}  // namespace innerloop::INNERLOOP_ISA
