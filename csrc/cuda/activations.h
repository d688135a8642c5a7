// The bodies of the activations' kernels, grown from rules/activations.h.
#pragma once

#include "cuda/elementwise.h"
#include "rules/activations.h"

namespace innerloop::INNERLOOP_ISA {

template <class Rule>
struct Forward {
  static constexpr int inputs = 1;
  Rule rule;
  template <class V>
  HD V operator()(V x) const {
    return rule.forward(x);
  }
};

template <class Rule>
struct Backward {
  static constexpr int inputs = 2;
  Rule rule;
  template <class V>
  HD V operator()(V dy, V saved) const {
    return rule.backward(saved, dy);
  }
};

// For rules that save their output, where only the input is at hand.
template <class Rule>
struct BackwardFromInput {
  static constexpr int inputs = 2;
  Rule rule;
  template <class V>
  HD V operator()(V dy, V x) const {
    return rule.backward(rule.forward(x), dy);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
