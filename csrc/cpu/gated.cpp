// The gated pairs, forward and backward, grown from rules/gated.h.
#include "rules/gated.h"

#include "cpu/elementwise.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class T>
struct Loops {
  using V = Native<T>;

  static void forward(const Walk<3>& walk, int64_t begin, int64_t end) {
    map<T>(walk, begin, end, [](V gate, V value) { return Rule::forward(gate, value); });
  }

  // All that is read of a vector is read before either gradient is written.
  static void backward(const Walk<5>& walk, int64_t begin, int64_t end) {
    const int last = walk.ndim - 1;
    bool contiguous = true;
    for (int op = 0; op < 5; op++) contiguous &= walk.stride[op][last] == (ptrdiff_t)sizeof(T);
    for_rows(walk, begin, end, [&](char* const* p, int64_t n) {
      for (int64_t i = 0; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        const auto at = [&](int op) { return p[op] + i * walk.stride[op][last]; };
        const auto get = [&](int op) {
          if (!contiguous) return gather<V>(at(op), walk.stride[op][last], count);
          return count == V::lanes ? V::load(at(op)) : load_partial<V>(at(op), count);
        };
        const auto put = [&](V v, int op) {
          if (!contiguous) return scatter(v, at(op), walk.stride[op][last], count);
          count == V::lanes ? v.store(at(op)) : store_partial(v, at(op), count);
        };
        const V dy = get(0), gate = get(1), value = get(2);
        put(Rule::gate_backward(gate, value, dy), 3);
        put(Rule::value_backward(gate, dy), 4);
      }
    });
  }

  static constexpr GatedKernels kernels = {forward, backward};
};

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr GatedPair entries[] = {{Rules::name, Rules::activation::name, Rules::gate_is_first,
                                           Loops<Rules, float>::kernels, Loops<Rules, double>::kernels}...};
};

}  // namespace

const Span<GatedPair> gated = {Table<GatedPairs>::entries, GatedPairs::count};

}  // namespace innerloop::INNERLOOP_ISA
