// The elementwise losses, value and gradient in one pass over memory, grown from rules/losses.h.
#include "cpu/rows.h"
#include "cpu/tables.h"
#include "rules/losses.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class = void>
struct ArrayOf {
  static constexpr const char* name = nullptr;
};
template <class Rule>
struct ArrayOf<Rule, std::void_t<decltype(Rule::array)>> {
  static constexpr const char* name = Rule::array;
};
template <class Rule, class = void>
struct RangeOf {
  static constexpr const double* data = nullptr;
};
template <class Rule>
struct RangeOf<Rule, std::void_t<decltype(Rule::pred_range)>> {
  static constexpr const double* data = Rule::pred_range;
};
template <class Rule, class = void>
struct BatchmeanOf {
  static constexpr bool value = false;
};
template <class Rule>
struct BatchmeanOf<Rule, std::void_t<decltype(Rule::batchmean)>> {
  static constexpr bool value = Rule::batchmean;
};

// The sum of 16 lanes in double, by halves.
template <class T>
double sum_in_double(const Lanes<Native<T>>& lanes) {
  T lane[16];
  double half[8];
  lanes.store((char*)lane);
  for (int i = 0; i < 8; i++) half[i] = (double)lane[i] + (double)lane[i + 8];
  for (int n = 4; n > 0; n /= 2) {
    for (int i = 0; i < n; i++) half[i] = half[i] + half[i + n];
  }
  return half[0];
}

// Where 16 elements lie: in the arrays, or for the last few in a copy with room for all.
struct Sixteen {
  const char *pred, *target, *sample_weight, *array;
  char *losses, *gradient;
};

template <class Rule, class T>
struct Loop {
  using V = Native<T>;
  using L = Lanes<V>;

  static HD LossAndSlope<V> both(const Rule& rule, V x, V t, V extra) {
    if constexpr (ArrayOf<Rule>::name != nullptr) {
      return rule.both(x, t, extra);
    } else {
      return rule.both(x, t);
    }
  }

  // Of 16 elements, n of them in use.
  template <bool gradient>
  static HD L lanes(const Rule& rule, const LossBlock& block, const Sixteen& at, bool stream_out) {
    L losses;
    for (int i = 0; i < L::parts; i++) {
      const ptrdiff_t offset = i * (ptrdiff_t)sizeof(V);
      const V extra = at.array ? V::load(at.array + offset) : V(1);
      const auto [loss, slope] = both(rule, V::load(at.pred + offset), V::load(at.target + offset), extra);
      const V weight = at.sample_weight ? V::load(at.sample_weight + offset) : V(1);
      losses.part[i] = at.sample_weight ? weight * loss : loss;
      if constexpr (gradient) {
        const V scale(T(block.scale));
        const V d = slope * (at.sample_weight ? weight * scale : scale);
        stream_out ? stream(d, at.gradient + offset) : d.store(at.gradient + offset);
      }
    }
    if (at.losses) losses.store(at.losses);
    return losses;
  }

  template <bool gradient>
  static double run(const Rule& rule, const LossBlock& block) {
    const bool stream_out = gradient && block.stream && (uintptr_t)block.gradient % sizeof(V) == 0;
    L total(0);
    for (int i = 0; i < block.n; i += L::count) {
      auto from = [&](auto* p) { return p ? p + i * (ptrdiff_t)sizeof(T) : p; };
      Sixteen at = {from(block.pred),  from(block.target), from(block.sample_weight),
                    from(block.array), from(block.losses), from(block.gradient)};
      const int n = block.n - i;
      if (n >= L::count) {
        total = total + lanes<gradient>(rule, block, at, stream_out);
        continue;
      }
      char copy[6][L::count * sizeof(T)] = {};
      const size_t bytes = (size_t)n * sizeof(T);
      const Sixteen own = at;
      auto copied = [&](const char* p, char* to) { return p ? (const char*)memcpy(to, p, bytes) : p; };
      at = {copied(own.pred, copy[0]),  copied(own.target, copy[1]),    copied(own.sample_weight, copy[2]),
            copied(own.array, copy[3]), own.losses ? copy[4] : nullptr, copy[5]};
      total = total + lanes<gradient>(rule, block, at, false).first(n, 0);
      if (own.losses) memcpy(own.losses, copy[4], bytes);
      if constexpr (gradient) memcpy(own.gradient, copy[5], bytes);
    }
    if (stream_out) stream_end();
    return sum_in_double<T>(total);
  }

  static double block(const double* parameters, const LossBlock& block) {
    const Rule rule = make_rule<Rule>(parameters);
    return block.gradient ? run<true>(rule, block) : run<false>(rule, block);
  }
};

template <class T>
bool inside(const char* x, int n, double minimum, double maximum) {
  using V = Native<T>;
  V outside(0);
  auto look = [&](V v) { outside = select((v >= V(T(minimum))) & (v <= V(T(maximum))), outside, V(1)); };
  int i = 0;
  for (; i + V::lanes <= n; i += V::lanes) look(V::load(x + i * sizeof(T)));
  for (; i < n; i++) {
    T one;
    memcpy(&one, x + i * sizeof(T), sizeof one);
    look(V(one));
  }
  for (int lane = 0; lane < V::lanes; lane++) {
    if (outside[lane] != 0) return false;
  }
  return true;
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr ElementwiseLoss entries[] = {{Rules::name,
                                                 ParametersOf<Rules>::data,
                                                 ParametersOf<Rules>::count,
                                                 ArrayOf<Rules>::name,
                                                 BatchmeanOf<Rules>::value,
                                                 RangeOf<Rules>::data,
                                                 {Loop<Rules, float>::block, inside<float>},
                                                 {Loop<Rules, double>::block, inside<double>}}...};
};

}  // namespace

const Span<ElementwiseLoss> elementwise_losses = {Table<ElementwiseLosses>::entries, ElementwiseLosses::count};

}  // namespace innerloop::INNERLOOP_ISA
