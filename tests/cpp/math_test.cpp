// The accuracy of simd/math.h: the largest error of each function in ULP against the C library in a wider type, special
// values, and the same bits for one lane and for a full register. Built with the flags of each row of cmake/isa.cmake.
//
//   math_test                        a dense sample, some seconds
//   math_test --quick                a sixteenth of it, for an emulator
//   math_test --exhaustive [name]    all 2^32 floats, a few minutes a function
//
// Exit status 1 where a bound of the table below is exceeded, 77 where this machine lacks the instructions.
#include "simd/math.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simd/simd.h"

using namespace innerloop::INNERLOOP_ISA;

namespace {

int failures = 0;

// The oracles: double for float, long double for double (64 bits of mantissa on x86, 113 on AArch64).

double sigmoid_of(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
long double sigmoid_of(long double x) { return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x)); }
double cdf_of(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
long double cdf_of(long double x) {
  if (fabsl(x) > 40) return x > 0 ? 1 : 0;  // also keeps the products below finite
  // -x / sqrt(2) is z + rest: rounding it to z alone would be an error of x^2 units. x^2 / 2 - z^2 = 2 z rest has few
  // enough bits where the factors are split.
  const long double z = -x * 0.707106781186547524400844362104849039L;
  const long double x_hi = (float)x, x_lo = x - x_hi, z_hi = (float)z, z_lo = z - z_hi;
  const long double squares =
      (x_hi * x_hi / 2 - z_hi * z_hi) + (x_hi * x_lo - 2 * z_hi * z_lo) + (x_lo * x_lo / 2 - z_lo * z_lo);
  const long double rest = z == 0 ? 0 : squares / (2 * z);
  return (erfcl(z) - rest * 1.128379167095512573896158903121545172L * expl(-z * z)) / 2;
}
double pdf_of(double x) { return exp(-0.5 * x * x) * 0.39894228040143267794; }
long double pdf_of(long double x) {
  if (fabsl(x) > 40) return 0;
  const long double h = (long double)(float)x, l = x - h;
  return expl(-0.5L * h * h) * expl(-(h * l) - 0.5L * l * l) * 0.398942280401432677939946059934381868L;
}

// What is measured: name, binades in which the result is let off, ours, and the oracle in both types. gelu stands for
// what rules/activations.h makes of normal(): its cdf is subnormal, and so rounded to its last place, where x * cdf is
// still normal. So gelu's units do not shrink in the last 4 binades above the subnormals (6 for double).
#define FUNCTIONS(F)                                      \
  F(exp, 0, exp(x), ::exp(w), expl(w))                    \
  F(expm1, 0, expm1(x), ::expm1(w), expm1l(w))            \
  F(log, 0, log(x), ::log(w), logl(w))                    \
  F(log1p, 0, log1p(x), ::log1p(w), log1pl(w))            \
  F(tanh, 0, tanh(x), ::tanh(w), tanhl(w))                \
  F(sigmoid, 0, sigmoid(x), sigmoid_of(w), sigmoid_of(w)) \
  F(erf, 0, erf(x), ::erf(w), erfl(w))                    \
  F(cdf, 0, Normal<V>(x).cdf(), cdf_of(w), cdf_of(w))     \
  F(pdf, 0, Normal<V>(x).pdf(), pdf_of(w), pdf_of(w))     \
  F(gelu, sizeof(w) > 8 ? 6 : 4, Normal<V>(x).x_cdf(), w * cdf_of(w), w * cdf_of(w))

#define DEFINE(name, binades, ours, of_double, of_long_double)         \
  struct Function_##name {                                             \
    static constexpr const char* text = #name;                         \
    template <class V>                                                 \
    static V run(V x) {                                                \
      return ours;                                                     \
    }                                                                  \
    template <class W>                                                 \
    static int let_off(W w) {                                          \
      (void)w;                                                         \
      return binades;                                                  \
    }                                                                  \
    static double exact(double w) { return of_double; }                \
    static long double exact(long double w) { return of_long_double; } \
  };
FUNCTIONS(DEFINE)

// Bounds in ULP: float and double with FMA, then float and double without.
struct Bound {
  const char* name;
  double fma_float, fma_double, plain_float, plain_double;
};
constexpr Bound bounds[] = {
    {"exp", 0.9, 0.9, 0.9, 0.9},       {"expm1", 1.1, 1.2, 1.2, 1.2}, {"log", 0.9, 0.9, 0.9, 0.9},
    {"log1p", 0.95, 0.95, 0.95, 0.95}, {"tanh", 1.5, 1.5, 1.5, 1.5},  {"sigmoid", 2, 2, 2, 2},
    {"erf", 1.2, 1.2, 1.3, 1.3},       {"cdf", 2.2, 2.2, 3.4, 3.4},   {"pdf", 1.3, 1.3, 1.4, 1.5},
    {"gelu", 2.7, 2.7, 3.8, 3.9},
};

template <class T>
struct Wider;
template <>
struct Wider<float> {
  using type = double;
  static constexpr int digits = 24, min_exponent = -126;
};
template <>
struct Wider<double> {
  using type = long double;
  static constexpr int digits = 53, min_exponent = -1022;
};

template <class T>
using BitsFor = typename BitsOf<T>::type;

template <class T>
T from(BitsFor<T> b) {
  T x;
  memcpy(&x, &b, sizeof x);
  return x;
}

// exact = f 2^exponent, 1/2 <= |f| < 1; and a power of 2. By bits for double, which the exhaustive run spends its time
// on.
int exponent_of(double exact) { return (int)(bits(Vec<double, 1>(exact)).v >> 52 & 0x7ff) - 1022; }
int exponent_of(long double exact) {
  int exponent;
  frexpl(exact, &exponent);
  return exponent;
}
double power_of_2(int n, double) { return from<double>((uint64_t)(1023 + n) << 52); }
long double power_of_2(int n, long double) { return ldexpl(1, n); }

// |got - exact| in units of the last place of exact; an infinity counts as the next number after the largest. Below
// 2^min_exponent the unit stays what it is there.
template <class T>
double ulps(T got, typename Wider<T>::type exact, int min_exponent) {
  using W = typename Wider<T>::type;
  if (exact != exact) return got != got ? 0 : INFINITY;
  if (got != got) return INFINITY;
  const W limit = power_of_2(2 - Wider<T>::min_exponent, W(0));  // 2^128 or 2^1024
  W g = got;
  if (g > limit || g < -limit) g = g > 0 ? limit : -limit;
  if (exact > limit || exact < -limit) exact = exact > 0 ? limit : -limit;
  int exponent = exponent_of(exact);
  if (exact == 0 || exponent - 1 < min_exponent) exponent = min_exponent + 1;
  const W error = (g - exact) * power_of_2(Wider<T>::digits - exponent, W(0));
  return (double)(error < 0 ? -error : error);
}

template <class T>
struct Worst {
  double error = 0;
  T at = 0;
};

template <class F, class T>
void check_block(const T* x, Worst<T>& worst, bool compare_one_lane = true) {
  using N = Native<T>;
  T y[N::lanes];
  F::run(N::load(x)).store(y);
  for (int i = 0; i < N::lanes; i++) {
    const typename Wider<T>::type w = x[i];
    const double error = ulps<T>(y[i], F::exact(w), Wider<T>::min_exponent + F::let_off(w));
    if (error > worst.error) worst = {error, x[i]};
    if (!kHasFma || !compare_one_lane) continue;
    const T one = F::run(Vec<T, 1>(x[i])).v;
    if (memcmp(&one, &y[i], sizeof one) != 0 && !(one != one && y[i] != y[i])) {
      if (failures++ < 10) printf("FAIL %s(%a): %a in one lane, %a in %d\n", F::text, x[i], one, y[i], N::lanes);
    }
  }
}

template <class F, class T>
void report(const Worst<T>& worst) {
  double bound = 0;
  for (const Bound& b : bounds) {
    if (strcmp(b.name, F::text) != 0) continue;
    if (sizeof(T) == 4)
      bound = kHasFma ? b.fma_float : b.plain_float;
    else
      bound = kHasFma ? b.fma_double : b.plain_double;
  }
  const bool ok = worst.error <= bound;
  failures += !ok;
  printf("%s %-8s %-6s %8.4f ULP at %a = %.9g (bound %g)\n", ok ? "    " : "FAIL", F::text,
         sizeof(T) == 4 ? "float" : "double", worst.error, (double)worst.at, (double)worst.at, bound);
  fflush(stdout);
}

// Every float, or every stride-th one.
template <class F>
void sweep_floats(uint64_t stride) {
  using N = Native<float>;
  Worst<float> worst;
  for (uint64_t first = 0; first < (uint64_t(1) << 32); first += stride * N::lanes) {
    float x[N::lanes];
    for (int i = 0; i < N::lanes; i++) x[i] = from<float>((uint32_t)(first + i * stride));
    check_block<F>(x, worst, stride > 1 || first % (64 * N::lanes) == 0);
  }
  report<F>(worst);
}

// Doubles: half of them uniform over the bits, half uniform over where the functions bend.
template <class F>
void sample_doubles(int count) {
  using N = Native<double>;
  Worst<double> worst;
  uint64_t state = 88172645463325252u;
  const double widths[] = {0.5, 1, 2, 4, 8, 40, 750};
  for (int block = 0; block < count / N::lanes; block++) {
    double x[N::lanes];
    for (int i = 0; i < N::lanes; i++) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      const double uniform = (double)(int64_t)state * 0x1p-63;
      x[i] = block % 8 == 7 ? from<double>(state) : uniform * widths[block % 8 % 7];
    }
    check_block<F>(x, worst);
  }
  report<F>(worst);
}

template <class V, class T>
void expect(const char* what, V got, T want) {
  for (int i = 0; i < V::lanes; i++) {
    const T g = got[i];
    if (memcmp(&g, &want, sizeof g) == 0 || (g != g && want != want)) continue;
    failures++;
    printf("FAIL %s: %a, not %a\n", what, (double)g, (double)want);
  }
}

template <class V>
void special_values() {
  using T = typename V::scalar;
  const T inf = INFINITY, nan = NAN, tiny = from<T>(1);
  const V plus(inf), minus(-inf), nil(T(0)), minus_nil(-T(0)), bad(nan), least(tiny);
  const V most(from<T>(bits(Vec<T, 1>(inf)).v - 1));
#define EXPECT(expression, want) expect(#expression, expression, T(want))
  EXPECT(exp(plus), inf);
  EXPECT(exp(minus), 0);
  EXPECT(exp(nil), 1);
  EXPECT(exp(minus_nil), 1);
  EXPECT(exp(bad), nan);
  EXPECT(exp(most), inf);
  EXPECT(exp(-most), 0);
  EXPECT(expm1(plus), inf);
  EXPECT(expm1(minus), -1);
  EXPECT(expm1(nil), 0);
  EXPECT(expm1(minus_nil), -T(0));
  EXPECT(expm1(least), tiny);
  EXPECT(expm1(-least), -tiny);
  EXPECT(expm1(most), inf);
  EXPECT(expm1(-most), -1);
  EXPECT(expm1(bad), nan);
  EXPECT(log1p(plus), inf);
  EXPECT(log1p(minus), nan);
  EXPECT(log1p(nil), 0);
  EXPECT(log1p(minus_nil), -T(0));
  EXPECT(log1p(least), tiny);
  EXPECT(log1p(-least), -tiny);
  EXPECT(log1p(V(-1)), -inf);
  EXPECT(log1p(V(-2)), nan);
  EXPECT(log1p(bad), nan);
  EXPECT(log(plus), inf);
  EXPECT(log(minus), nan);
  EXPECT(log(nil), -inf);
  EXPECT(log(minus_nil), -inf);
  EXPECT(log(V(1)), 0);
  EXPECT(log(V(-1)), nan);
  EXPECT(log(-least), nan);
  EXPECT(log(bad), nan);
  EXPECT(tanh(plus), 1);
  EXPECT(tanh(minus), -1);
  EXPECT(tanh(nil), 0);
  EXPECT(tanh(minus_nil), -T(0));
  EXPECT(tanh(least), tiny);
  EXPECT(tanh(-least), -tiny);
  EXPECT(tanh(bad), nan);
  EXPECT(sigmoid(plus), 1);
  EXPECT(sigmoid(minus), 0);
  EXPECT(sigmoid(nil), 0.5);
  EXPECT(sigmoid(minus_nil), 0.5);
  EXPECT(sigmoid(bad), nan);
  EXPECT(erf(plus), 1);
  EXPECT(erf(minus), -1);
  EXPECT(erf(nil), 0);
  EXPECT(erf(minus_nil), -T(0));
  EXPECT(erf(least), tiny);
  EXPECT(erf(bad), nan);
  EXPECT(Normal<V>(plus).cdf(), 1);
  EXPECT(Normal<V>(minus).cdf(), 0);
  EXPECT(Normal<V>(nil).cdf(), 0.5);
  EXPECT(Normal<V>(minus_nil).cdf(), 0.5);
  EXPECT(Normal<V>(bad).cdf(), nan);
  EXPECT(Normal<V>(plus).pdf(), 0);
  EXPECT(Normal<V>(minus).pdf(), 0);
  EXPECT(Normal<V>(bad).pdf(), nan);
#undef EXPECT
}

int run(int argc, char** argv) {
  const bool exhaustive = argc > 1 && strcmp(argv[1], "--exhaustive") == 0;
  const bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
  const uint64_t stride = exhaustive ? 1 : quick ? 16411 : 1009;  // primes: every exponent, other mantissas
  special_values<Vec<float, 1>>();
  special_values<Vec<double, 1>>();
  special_values<Native<float>>();
  special_values<Native<double>>();
#define RUN(name, ...)                                                      \
  if (!exhaustive) sample_doubles<Function_##name>(quick ? 25000 : 400000); \
  if (argc < 3 || strcmp(argv[2], #name) == 0) sweep_floats<Function_##name>(stride);
  FUNCTIONS(RUN)
  printf("%d failures\n", failures);
  return failures != 0;
}

bool machine_can() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__SSE4_2__)
  return __builtin_cpu_supports("sse4.2");
#else
  return true;
#endif
}

}  // namespace

int main(int argc, char** argv) { return machine_can() ? run(argc, argv) : 77; }
