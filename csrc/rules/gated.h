// The gated pairs: one half of an axis gates the other (Dauphin et al. 2016; Shazeer 2020). Any activation makes a
// gate. To add one: a line here, a word in `GatedPairs`, and a line in python/innerloop/reference/gated.py.
#pragma once

#include "rules/activations.h"

namespace innerloop::INNERLOOP_ISA {

// y = act(gate) value
template <class Activation, bool gate_first>
struct Gated {
  using activation = Activation;
  static constexpr bool gate_is_first = gate_first;  // of the two halves
  static_assert(ParametersOf<Activation>::count == 0);

  template <class V>
  static HD V forward(V gate, V value) {
    return Activation{}.forward(gate) * value;
  }
  template <class V>
  static HD V value_backward(V gate, V dy) {
    return dy * Activation{}.forward(gate);
  }
  template <class V>
  static HD V gate_backward(V gate, V value, V dy) {
    const Activation act;
    if constexpr (Activation::saves_output) return act.backward(act.forward(gate), dy * value);
    return act.backward(gate, dy * value);
  }
};

// clang-format off
struct Glu    : Gated<Sigmoid, false> { static constexpr const char* name = "glu"; };
struct Swiglu : Gated<Silu, true>     { static constexpr const char* name = "swiglu"; };
struct Geglu  : Gated<Gelu, true>     { static constexpr const char* name = "geglu"; };
// clang-format on

using GatedPairs = List<Glu, Swiglu, Geglu>;

}  // namespace innerloop::INNERLOOP_ISA
