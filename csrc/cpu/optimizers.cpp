// Optimizers' steps, grown from rules/optimizers.h: the loops own loads, stores and tails.
#include "rules/optimizers.h"

#include "cpu/elementwise.h"
#include "cpu/rounding.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class T>
struct Loops {
  using V = Native<T>;
  using Step = typename Rule::template Step<T>;
  using States = StatesOf<Rule>;
  static constexpr int states = States::count;
  static constexpr ptrdiff_t size = sizeof(T);
  static_assert(sizeof(Step) <= sizeof(StepScalars::bytes) && alignof(Step) <= alignof(StepScalars));
  static_assert(std::is_trivially_copyable_v<Step> && states <= kMaxStates);

  static void prepare(const double* parameters, double step, StepScalars& scalars) {
    const Step made(make_rule<Rule>(parameters), step);
    memcpy(scalars.bytes, &made, sizeof made);
  }

  // A copy of the call's numbers that no store can alias.
  struct Numbers {
    Step step;
    GradientShare<T> share;
    explicit Numbers(const StepScalars& s)
        : step(*reinterpret_cast<const Step*>(s.bytes)), share{T(s.factor), T(s.l1)} {}
  };

  // One V of each operand, by load(operand) and store(value, operand).
  template <unsigned Used, class Load, class Store>
  static HD void update(const Numbers& numbers, const Load& load, const Store& store) {
    V state[states + 1];  // one more, as there may be none
    const V p = load(0), g = numbers.share.of(p, load(1));
    for (int i = 0; i < states; i++) {
      if (Used >> i & 1) state[i] = load(2 + i);
    }
    store(numbers.step.template update<Used>(p, g, state), 0);
    for (int i = 0; i < states; i++) {
      if (Used >> i & 1) store(state[i], 2 + i);
    }
  }

  // n elements that lie end to end in every operand. The tail is a partial load of the same V.
  template <unsigned Used>
  static void run(const StepScalars& scalars, char* const* operands, int64_t n) {
    const Numbers numbers(scalars);
    char* at[2 + states];
    for (int op = 0; op < 2 + states; op++) at[op] = operands[op];
    int64_t i = 0;
    for (; i + V::lanes <= n; i += V::lanes) {
      update<Used>(
          numbers, [&](int op) { return V::load(at[op] + i * size); },
          [&](V v, int op) { v.store(at[op] + i * size); });
    }
    if (const int rest = (int)(n - i)) {
      update<Used>(
          numbers, [&](int op) { return load_partial<V>(at[op] + i * size, rest); },
          [&](V v, int op) { store_partial(v, at[op] + i * size, rest); });
    }
  }

  // n elements at any distance.
  template <unsigned Used>
  static void run_apart(const StepScalars& scalars, char* const* operands, const ptrdiff_t* stride, int64_t n) {
    const Numbers numbers(scalars);
    for (int64_t i = 0; i < n; i += V::lanes) {
      const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
      update<Used>(
          numbers, [&](int op) { return gather<V>(operands[op] + i * stride[op], stride[op], count); },
          [&](V v, int op) { scatter(v, operands[op] + i * stride[op], stride[op], count); });
    }
  }

  // Whole rounding blocks, the states in bfloat16. They are rounded after each block, not in one loop with the update:
  // there half the samples of a profile of Adam waited for its root and quotient, with little beside them to do.
  template <unsigned Used>
  static void run_rounded(const StepScalars& scalars, char* const* operands, const uint64_t* keys, int64_t first,
                          int64_t n) {
    const Numbers numbers(scalars);
    char* at[2 + states];
    for (int op = 0; op < 2 + states; op++) at[op] = operands[op];
    alignas(64) float kept[states + 1][kRoundingBlock + 16];
    for (int64_t block = 0; block < n; block += kRoundingBlock) {
      for (int i = 0; i < kRoundingBlock; i += V::lanes) {
        update<Used>(
            numbers,
            [&](int op) {
              return op < 2 ? V::load(at[op] + (block + i) * size) : load_as<Bfloat16>(at[op] + (block + i) * 2);
            },
            [&](V v, int op) { v.store(op < 2 ? (void*)(at[op] + (block + i) * size) : (void*)(kept[op - 2] + i)); });
      }
      for (int s = 0; s < states; s++) {
        if ((Used >> s & 1) == 0) continue;
        round_block(kept[s], kRoundingBlock, random_block(keys[s], first + block), at[2 + s] + block * 2);
      }
    }
  }

  // f(Used) for the `used` of this call: one loop each for every set of states that the rule can be asked to use.
  template <unsigned Used = 0, class F>
  static HD void with(unsigned used, const F& f) {
    if constexpr (Used < 1u << states) {
      if constexpr ((Used & States::always_used) == States::always_used) {
        if (Used == used) return f(std::integral_constant<unsigned, Used>());
      }
      with<Used + 1>(used, f);
    }
  }

  static void flat(const StepScalars& scalars, unsigned used, char* const* operands, int64_t begin, int64_t end) {
    char* at[2 + states];
    for (int op = 0; op < 2 + states; op++) at[op] = operands[op] + (operands[op] ? begin * size : 0);
    with(used, [&](auto u) { run<u()>(scalars, at, end - begin); });
  }

  static void strided(const StepScalars& scalars, unsigned used, const Walk<kMaxOperands>& walk, int64_t begin,
                      int64_t end) {
    const int last = walk.ndim - 1;
    ptrdiff_t stride[kMaxOperands];
    bool contiguous = true;
    for (int op = 0; op < kMaxOperands; op++) {
      stride[op] = walk.stride[op][last];
      contiguous &= stride[op] == size;
    }
    with(used, [&](auto u) {
      for_rows(walk, begin, end, [&](char* const* row, int64_t n) {
        if (contiguous) return run<u()>(scalars, row, n);
        run_apart<u()>(scalars, row, stride, n);
      });
    });
  }

  static void rounded(const StepScalars& scalars, unsigned used, char* const* operands, const uint64_t* keys,
                      int64_t first, int64_t n) {
    if constexpr (sizeof(T) == sizeof(float) && states > 0) {
      with(used, [&](auto u) { run_rounded<u()>(scalars, operands, keys, first, n); });
    }
  }

  static constexpr OptimizerKernels kernels = {prepare, flat, strided, rounded};
};

template <class Rule>
const char* refuse(const double* parameters) {
  return make_rule<Rule>(parameters).refuse();
}
template <class Rule, class = void>
struct RefuseOf {
  static constexpr const char* (*function)(const double*) = nullptr;
};
template <class Rule>
struct RefuseOf<Rule, std::void_t<decltype(&Rule::refuse)>> {
  static constexpr const char* (*function)(const double*) = refuse<Rule>;
};

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr Optimizer entries[] = {{Rules::name, ParametersOf<Rules>::data, ParametersOf<Rules>::count,
                                           StatesOf<Rules>::data, StatesOf<Rules>::count, RefuseOf<Rules>::function,
                                           Loops<Rules, float>::kernels, Loops<Rules, double>::kernels}...};
};

}  // namespace

const Span<Optimizer> optimizers = {Table<Optimizers>::entries, Optimizers::count};

}  // namespace innerloop::INNERLOOP_ISA
