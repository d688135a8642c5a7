// What clipping asks of the gradients: their sum of squares, and a multiplication in place.
#include "cpu/elementwise.h"
#include "cpu/tables.h"
#include "simd/lanes.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
struct Gradients {
  using D = Native<double>;
  using L = Lanes<D>;
  static constexpr int kCopied = 512;  // elements of a strided gradient at once, a multiple of the lanes

  // 16 elements as double.
  static HD L widen(const char* p) {
    if constexpr (sizeof(T) == sizeof(double)) {
      return L::load(p);
    } else {
      L r;
      for (int i = 0; i < L::parts; i++) {
        typename Raw<T, D::lanes>::type x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        r.part[i] = D(__builtin_convertvector(x, typename D::raw));
      }
      return r;
    }
  }

  static HD void add(L& sum, const char* p, int64_t n, L scale) {
    int64_t i = 0;
    for (; i + L::count <= n; i += L::count) {
      const L x = scale * widen(p + i * sizeof(T));
      sum = fma(x, x, sum);
    }
    if (i == n) return;
    T rest[L::count] = {};
    memcpy(rest, p + i * sizeof(T), (size_t)(n - i) * sizeof(T));
    const L x = scale * widen((const char*)rest);
    sum = fma(x, x, sum);
  }

  static double sum_squares(const Walk<1>& x, double scale, int64_t begin, int64_t end) {
    L total(0);
    const L factor(scale);
    const int last = x.ndim - 1;
    const ptrdiff_t stride = x.stride[0][last];
    if (x.ndim == 1 && stride == (ptrdiff_t)sizeof(T)) {
      add(total, x.data[0] + begin * (ptrdiff_t)sizeof(T), end - begin, factor);
      return sum(total);
    }
    // Copied end to end first, so that an element's lane does not depend on where the rows begin.
    T copy[kCopied];
    int held = 0;
    for_rows(x, begin, end, [&](char* const* row, int64_t n) {
      for (int64_t i = 0; i < n; i++) {
        memcpy(&copy[held], row[0] + i * stride, sizeof(T));
        if (++held < kCopied) continue;
        add(total, (const char*)copy, kCopied, factor);
        held = 0;
      }
    });
    add(total, (const char*)copy, held, factor);
    return sum(total);
  }

  static void multiply(const Walk<1>& x, double factor, int64_t begin, int64_t end) {
    using V = Native<T>;
    Walk<2> both;  // x is the input and the output
    both.ndim = x.ndim;
    both.stream = false;
    for (int op = 0; op < 2; op++) {
      both.data[op] = x.data[0];
      memcpy(both.stride[op], x.stride[0], (size_t)x.ndim * sizeof(ptrdiff_t));
    }
    memcpy(both.shape, x.shape, (size_t)x.ndim * sizeof(int64_t));
    map<T>(both, begin, end, [f = T(factor)](V g) { return V(f) * g; });
  }

  static constexpr GradientKernels kernels = {sum_squares, multiply};
};

}  // namespace

const ByDtype<GradientKernels> gradients = {Gradients<float>::kernels, Gradients<double>::kernels};

}  // namespace innerloop::INNERLOOP_ISA
