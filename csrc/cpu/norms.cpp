// layer_norm and rms_norm, forward and backward, grown from rules/norms.h.
#include "rules/norms.h"

#include "cpu/moments.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

constexpr int kRowsTogether = 4;  // rows of a backward pass that stay in the nearest cache between its two readings

template <class Rule, class T>
struct Loops {
  using V = Native<T>;
  using L = Lanes<V>;
  using At = Row<T>;

  static void forward(const Rows<4>& rows, const RowNorm& work, void* memory, int64_t begin, int64_t end) {
    const int64_t length = rows.length;
    const Scratch<T> scratch(memory, length);
    const char *weight = (const char*)work.weight, *bias = (const char*)work.bias;
    const V n((T)length), eps((T)work.eps);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<4>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char* x = block.row(0, r);
        char* y = block.row(3, r);
        const T base = Rule::has_mean ? sum_of_row<T>(x, length) / (T)length : T(0);
        const Sums<T> sums = moments_of_row(x, base, length);
        const T above = Rule::has_mean ? sums.u / (T)length : T(0);
        const T rstd = reciprocal_deviation(Rule::variance(V(sums.u), V(sums.uv), n), eps)[0];
        const L shift(-above * rstd), factor(rstd), from(base);
        for_lanes(0, length, [&](int64_t i, int k) INNERLOOP_INLINE {
          const L xhat = fma(At::load(x, i, k) - from, factor, shift);
          At::store(fma(xhat, At::load(weight, i, k), At::load(bias, i, k)), y, i, k);
        });
        const T mean = base + above;
        memcpy(block.row(1, r), &mean, sizeof mean);
        memcpy(block.row(2, r), &rstd, sizeof rstd);
      }
    });
  }

  struct RowState {
    const char *dy, *x;
    char* dx;
    T mean, rstd, mean_g, mean_gx;

    HD L xhat(int64_t i, int k) const {
      const L z = At::load(x, i, k);
      return (Rule::has_mean ? z - L(mean) : z) * L(rstd);
    }
  };

  // dweight and dbias, if they are wanted, already hold the sums over the rows before.
  template <bool sums>
  static void backward_rows(const RowState* row, int rows, const char* weight, int64_t length, char* dweight,
                            char* dbias) {
    for_lanes(0, length, [&](int64_t i, int k) INNERLOOP_INLINE {
      const L w = At::load(weight, i, k);
      L dw(0), db(0);
      if constexpr (sums) {
        dw = At::load(dweight, i, k);
        db = At::load(dbias, i, k);
      }
      for (int r = 0; r < rows; r++) {
        const RowState& s = row[r];
        const L dy = At::load(s.dy, i, k), xhat = s.xhat(i, k);
        At::store(Rule::backward(dy * w, xhat, L(s.mean_g), L(s.mean_gx)) * L(s.rstd), s.dx, i, k);
        if constexpr (sums) {
          dw = fma(dy, xhat, dw);
          db = db + dy;
        }
      }
      if constexpr (sums) {
        At::store(dw, dweight, i, k);
        At::store(db, dbias, i, k);
      }
    });
  }

  static void backward(const Rows<5>& all, const void* weights, void* memory, int64_t begin, int64_t end, void* dweight,
                       void* dbias) {
    const int64_t length = all.length;
    const Scratch<T> scratch(memory, length);
    const char* weight = (const char*)weights;
    for_blocks<T>(all, scratch.rows, begin, end, [&](const Block<5>& block, int count) {
      for (int first = 0; first < count; first += kRowsTogether) {
        RowState row[kRowsTogether];
        const int rows = count - first < kRowsTogether ? count - first : kRowsTogether;
        for (int r = 0; r < rows; r++) {
          RowState& s = row[r];
          s = {block.row(0, first + r), block.row(1, first + r), block.row(4, first + r), 0, 0, 0, 0};
          memcpy(&s.mean, block.row(2, first + r), sizeof(T));
          memcpy(&s.rstd, block.row(3, first + r), sizeof(T));
          const Sums<T> sums = sums_of_row<T>(
              length, [&](int64_t i, int k) INNERLOOP_INLINE { return At::load(s.dy, i, k) * At::load(weight, i, k); },
              [&](int64_t i, int k) INNERLOOP_INLINE { return s.xhat(i, k); });
          s.mean_g = sums.u / (T)length;
          s.mean_gx = sums.uv / (T)length;
        }
        if (dweight) {
          backward_rows<true>(row, rows, weight, length, (char*)dweight, (char*)dbias);
        } else {
          backward_rows<false>(row, rows, weight, length, nullptr, nullptr);
        }
      }
    });
  }

  static void add_blocks(const void* sums, int64_t blocks, int64_t n, char* out, ptrdiff_t stride, int64_t begin,
                         int64_t end) {
    for (int64_t i = begin; i < end; i += L::count) {
      const int k = end - i < L::count ? (int)(end - i) : L::count;
      L total(0);
      for (int64_t b = 0; b < blocks; b++) total = total + At::load((const char*)sums + b * n * sizeof(T), i, k);
      T value[L::count];
      total.store((char*)value);
      for (int j = 0; j < k; j++) memcpy(out + (i + j) * stride, &value[j], sizeof(T));
    }
  }

  static constexpr RowNormKernels kernels = {forward, backward, add_blocks};
};

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr RowNormFunction entries[] = {
      {Rules::name, Rules::has_mean, Loops<Rules, float>::kernels, Loops<Rules, double>::kernels}...};
};

}  // namespace

const Span<RowNormFunction> row_norms = {Table<RowNorms>::entries, RowNorms::count};

}  // namespace innerloop::INNERLOOP_ISA
