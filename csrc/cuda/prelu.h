// The bodies of prelu, grown from rules/prelu.h: the slope is one more operand, and its gradient a sum by channel.
#pragma once

#include "cuda/channels.h"
#include "cuda/list.h"
#include "rules/prelu.h"

namespace innerloop::INNERLOOP_ISA {

template <class S>
struct PreluForward {
  Elements<2> e;  // x and y
  const char* weight;
  Cycle slope_of;
  bool weight_aligned;

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    const Thread thread = block.thread();
    for (int64_t first = thread.index * N; first < e.size; first += thread.count * N) {
      const int count = fewer(e.size - first, N);
      const int64_t at = first * (int64_t)sizeof(S);
      V x[N], slope[N];
      load_run<S, N>(e.data[0] + at, e.aligned, count, x);
      slope_of.load<S, N>(weight, first, weight_aligned, slope);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) x[j] = Prelu::forward(x[j], slope[j]);
      store_run<S, N>(x, e.data[1] + at, e.aligned, count);
    }
  }
};

// dx beside the sums of dslope.
template <class S>
struct PreluBackward {
  using V = typename ComputedAs<S>::type;
  static constexpr int inputs = 2, outputs = 1, quantities = 1;
  static constexpr bool moments = false;
  const char* weight;
  char* dweight;

  HD V number(int64_t channel) const { return load_one<S>(weight, channel); }
  HD void term(const V* dy_x, V slope, V* sum, V* dx) const {
    sum[0] = sum[0] + Prelu::slope_term(dy_x[1], dy_x[0]);
    dx[0] = Prelu::backward(dy_x[1], slope, dy_x[0]);
  }
  HD void operator()(int64_t channel, const double* total) const {
    store_one<S>(V((typename V::scalar)total[0]), dweight, channel);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
