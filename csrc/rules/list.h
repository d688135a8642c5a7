// List<Rules...>: a registry of rules at compile time. Every kernel table grows from one.
#pragma once

#include <string.h>

#include <type_traits>

#include "kernels.h"
#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

template <class... Rules>
struct List {
  static constexpr int count = sizeof...(Rules);
};

// How many numbers a rule takes: the length of its `parameters`, or 0 without them.
template <class Rule, class = void>
struct ParametersOf {
  static constexpr int count = 0;
  static constexpr const Parameter* data = nullptr;
};
template <class Rule>
struct ParametersOf<Rule, std::void_t<decltype(Rule::parameters)>> {
  static constexpr int count = sizeof(Rule::parameters) / sizeof(Rule::parameters[0]);
  static constexpr const auto* data = Rule::parameters;
};

// A rule with its parameters in their declared order: its members are just these, all double.
template <class Rule>
HD Rule make_rule(const double* parameters) {
  Rule rule;
  if constexpr (ParametersOf<Rule>::count > 0) {
    static_assert(sizeof(Rule) == ParametersOf<Rule>::count * sizeof(double));
    memcpy((void*)&rule, parameters, sizeof rule);
  }
  return rule;
}

}  // namespace innerloop::INNERLOOP_ISA
