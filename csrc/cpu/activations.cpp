// Activations, forward and backward, grown from rules/activations.h.
#include "rules/activations.h"

#include "cpu/elementwise.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class T>
struct Loops {
  using V = Native<T>;

  static void forward(const double* parameters, const Walk<2>& walk, int64_t begin, int64_t end) {
    const Rule rule = make_rule<Rule>(parameters);
    map<T>(walk, begin, end, [rule](V x) { return rule.forward(x); });
  }
  static void backward(const double* parameters, const Walk<3>& walk, int64_t begin, int64_t end) {
    const Rule rule = make_rule<Rule>(parameters);
    map<T>(walk, begin, end, [rule](V dy, V saved) { return rule.backward(saved, dy); });
  }
  static void backward_from_input(const double* parameters, const Walk<3>& walk, int64_t begin, int64_t end) {
    const Rule rule = make_rule<Rule>(parameters);
    map<T>(walk, begin, end, [rule](V dy, V x) {
      if constexpr (Rule::saves_output) return rule.backward(rule.forward(x), dy);
      return rule.backward(x, dy);
    });
  }

  static constexpr ActivationKernels kernels = {forward, backward, backward_from_input};
};

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr Activation entries[] = {{Rules::name, ParametersOf<Rules>::data, ParametersOf<Rules>::count,
                                            Rules::saves_output, Loops<Rules, float>::kernels,
                                            Loops<Rules, double>::kernels}...};
};

// The elementary functions over contiguous arrays, for tests of their accuracy.
template <class T, class F>
void map_array(const T* x, T* y, int64_t n, const F& f) {
  using V = Native<T>;
  for (int64_t i = 0; i < n; i += V::lanes) {
    const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
    store_partial(f(load_partial<V>(x + i, count)), y + i, count);
  }
}

#define INNERLOOP_ELEMENTARY(name)                           \
  template <class T>                                         \
  void array_##name(const T* x, T* y, int64_t n) {           \
    map_array(x, y, n, [](Native<T> v) { return name(v); }); \
  }
INNERLOOP_ELEMENTARY(exp)
INNERLOOP_ELEMENTARY(expm1)
INNERLOOP_ELEMENTARY(log)
INNERLOOP_ELEMENTARY(log1p)
INNERLOOP_ELEMENTARY(erf)
#undef INNERLOOP_ELEMENTARY

constexpr Elementary functions[] = {{"exp", array_exp<float>, array_exp<double>},
                                    {"expm1", array_expm1<float>, array_expm1<double>},
                                    {"log", array_log<float>, array_log<double>},
                                    {"log1p", array_log1p<float>, array_log1p<double>},
                                    {"erf", array_erf<float>, array_erf<double>}};

}  // namespace

const Span<Elementary> elementary = {functions, sizeof(functions) / sizeof(functions[0])};
const Span<Activation> activations = {Table<Activations>::entries, Activations::count};

}  // namespace innerloop::INNERLOOP_ISA
