// The bodies of softmax and log_softmax, forward and backward, grown from rules/softmax.h.
#pragma once

#include "cuda/rows.h"
#include "rules/softmax.h"

namespace innerloop::INNERLOOP_ISA {

struct SeesNothing {
  template <class V>
  HD void begin(V) {}
  template <class V>
  HD void operator()(int64_t, int, int, V) {}
  template <class V>
  HD void end(V) {}
};

template <class Rule>
struct SoftmaxForward {
  static constexpr int inputs = 1;

  template <class S, class Layout>
  struct Body {
    static constexpr int together = 2;
    RowPlan plan;
    const char* in[1];
    char* out;

    HD void operator()(const Block& block) const {
      using V = typename ComputedAs<S>::type;
      for_rows<Layout>(block, plan, [&](const RowGroup<Layout>& group, int64_t number, bool active) {
        AxisRow<S, 1, Layout> row(group, plan, in, out, number, active, V(-INFINITY));
        SeesNothing nothing;
        const RowTotal<V> found = exponentials(row, nothing);
        const V factor = Rule::from_exponentials ? V(1) / found.total : log(found.total);
        row.read_again([&](int64_t first) {
          row.each(first, [&](int64_t piece, int64_t, int u) {
            V y[row.N];
            INNERLOOP_UNROLL
            for (int i = 0; i < row.N; i++) {
              const V x = row.value(0, u, i);
              if constexpr (Rule::from_exponentials) {
                y[i] = Rule::forward(exponential_of<S>(x - found.top), factor);
              } else {
                y[i] = Rule::forward(x, found.top, factor);
              }
            }
            row.store(piece, y);
          });
        });
      });
    }
  };
};

template <class Rule>
struct SoftmaxBackward {
  static constexpr int inputs = 2;

  template <class S, class Layout>
  struct Body {
    static constexpr int together = Rule::from_exponentials ? 2 : 0;  // the other takes exponentials: it would spill
    RowPlan plan;
    const char* in[2];  // dy, y
    char* out;

    HD void operator()(const Block& block) const {
      using V = typename ComputedAs<S>::type;
      for_rows<Layout>(block, plan, [&](const RowGroup<Layout>& group, int64_t number, bool active) {
        AxisRow<S, 2, Layout> row(group, plan, in, out, number, active, V(0));
        V total(0);
        row.read([&](int64_t first) {
          V terms(0);
          row.each(first, [&](int64_t, int64_t, int u) {
            INNERLOOP_UNROLL
            for (int i = 0; i < row.N; i++) terms = terms + Rule::term(row.value(0, u, i), row.value(1, u, i));
          });
          total = total + terms;
        });
        total = group.sum(total);
        row.read_again([&](int64_t first) {
          row.each(first, [&](int64_t piece, int64_t, int u) {
            V dx[row.N];
            INNERLOOP_UNROLL
            for (int i = 0; i < row.N; i++) dx[i] = Rule::backward(row.value(0, u, i), row.value(1, u, i), total);
            row.store(piece, dx);
          });
        });
      });
    }
  };
};

}  // namespace innerloop::INNERLOOP_ISA
