// Every optimizer's arithmetic for one element, over any V (simd/vector.h).
// To add one: write its struct here or, beside its kin, in rules/optimizers/, put it in `Optimizers` below, and write
// its NumPy reference in python/innerloop/reference/optimizers.py. Nothing else needs to know.
//
// A rule has
//   name           as in the public function, <name>_step
//   parameters[]   name, default and range of each number it takes. Its members are just these, all double, in this
//                  order. Python's betas=(0.9, 0.999) are beta1 and beta2 here, its bools are flags
//   states[]       optional: the arrays it keeps for each parameter array, and which number must not be 0 for one to be
//                  used. They start as zeros, or as the number named by `starts_as`
//   refuse()       optional: why its numbers do not go together, or nullptr
//   Step<T>        what one step needs of them, worked out once a call, on the host, in double, and rounded to T
//     Step(rule, step)         steps count from 1
//     update<Used>(p, g, s)    the new p; s[i] becomes the new state i. State i may be touched where bit i of Used is
//                              set, so that a step without momentum reads and writes nothing more
// What all of them take (maximize, l1, max_norm, grad_scale) is no rule's business: the loop does it, and g is what
// comes of it. An `if` may ask Step's numbers, which are the same for all lanes, never a V: see `select`.
#pragma once

#include "rules/list.h"
#include "rules/optimizers/adam.h"
#include "rules/optimizers/descent.h"
#include "rules/optimizers/squares.h"

namespace innerloop::INNERLOOP_ISA {

// What a rule says of its states.
template <class Rule, class = void>
struct StatesOf {
  static constexpr int count = 0;
  static constexpr const State* data = nullptr;
  static constexpr unsigned always_used = 0;
};
template <class Rule>
struct StatesOf<Rule, std::void_t<decltype(Rule::states)>> {
  static constexpr int count = sizeof(Rule::states) / sizeof(Rule::states[0]);
  static constexpr const State* data = Rule::states;
  static constexpr unsigned mask() {
    unsigned m = 0;
    for (int i = 0; i < count; i++) m |= (Rule::states[i].needed_by == nullptr ? 1u : 0u) << i;
    return m;
  }
  static constexpr unsigned always_used = mask();
};

// The gradient as a rule gets it: unscaled, clipped and negated to maximize, all by one factor; then the L1 penalty's
// share. A factor of 1 leaves every bit.
template <class T>
struct GradientShare {
  T factor, l1;

  template <class V>
  HD V of(V p, V g) const {
    g = V(factor) * g;
    if (l1 != 0) g = fma(V(l1), sign_of(p), g);
    return g;
  }
};

using Optimizers = List<Sgd, Adam, AdamW, RmsProp, Adagrad, Adadelta, Adamax, NAdam, RAdam, Lion>;

}  // namespace innerloop::INNERLOOP_ISA
