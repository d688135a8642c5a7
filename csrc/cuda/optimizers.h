// The body of the optimizers' kernels: one launch steps many arrays.
#pragma once

#include "cuda/batches.h"
#include "rules/optimizers.h"

namespace innerloop::INNERLOOP_ISA {

template <class T, unsigned Used, int States, class Step, class Batch>
HD void step_arrays(const Block& block, const Step& step, const GradientShare<T>& share, const Batch& batch) {
  using V = Vec<T, 1>;
  constexpr int N = 16 / sizeof(T);
  for_tiles<T>(block, batch, [&](const StepArray& array, uint32_t, int64_t begin) {
    for_pieces<T>(block, array, begin, [&](int64_t first, int count, bool whole) {
      V p[N], g[N], state[States + 1][N];  // one more, as there may be none
      load_stored<T, N>(array.data[0], first, array.param, whole, count, p);
      load_stored<T, N>(array.data[1], first, array.grad, whole, count, g);
      INNERLOOP_UNROLL
      for (int s = 0; s < States; s++) {
        if (Used >> s & 1) load_stored<T, N>(array.data[2 + s], first, Storage::full, whole, count, state[s]);
      }
      INNERLOOP_UNROLL
      for (int i = 0; i < N; i++) {
        V of_element[States + 1];
        INNERLOOP_UNROLL
        for (int s = 0; s < States; s++) {
          if (Used >> s & 1) of_element[s] = state[s][i];
        }
        p[i] = step.template update<Used>(p[i], share.of(p[i], g[i]), of_element);
        INNERLOOP_UNROLL
        for (int s = 0; s < States; s++) {
          if (Used >> s & 1) state[s][i] = of_element[s];
        }
      }
      store_stored<T, N>(p, array.data[0], first, array.param, whole, count);
      if (array.copy != nullptr) store_stored<T, N>(p, array.copy, first, array.copied, whole, count);
      INNERLOOP_UNROLL
      for (int s = 0; s < States; s++) {
        if (Used >> s & 1) store_stored<T, N>(state[s], array.data[2 + s], first, Storage::full, whole, count);
      }
    });
  });
}

// f(Used) for the `used` of this call, among the sets of states that a rule can be asked to use.
template <class Rule, unsigned Used = 0, class F>
inline void with_used(unsigned used, const F& f) {
  if constexpr (Used < 1u << StatesOf<Rule>::count) {
    if constexpr ((Used & StatesOf<Rule>::always_used) == StatesOf<Rule>::always_used) {
      if (Used == used) return f(std::integral_constant<unsigned, Used>());
    }
    with_used<Rule, Used + 1>(used, f);
  }
}

}  // namespace innerloop::INNERLOOP_ISA
