// softmax and log_softmax, forward and backward, grown from rules/softmax.h.
#include "rules/softmax.h"

#include "cpu/exponentials.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class T>
struct Loops {
  using L = Lanes<Native<T>>;
  using At = Row<T>;

  static HD L log_of(T x) { return L(log(Native<T>(x))[0]); }

  // Rows of at most 16 elements, each in registers; their logarithms or reciprocals are taken together, and results are
  // laid end to end in whole stores, each over what the one before wrote too much: a masked store costs four of them.
  static void forward_short(const Block<2>& block, int count, int64_t length) {
    alignas(64) T tops[kRowsAtOnce], factors[kRowsAtOnce];
    alignas(64) char e[kRowsAtOnce * sizeof(L)], y[(kRowsAtOnce + 1) * sizeof(L)];
    const int n = (int)length;
    const ptrdiff_t row = n * (ptrdiff_t)sizeof(T);
    static_assert(L::count == kRowsAtOnce);
    for (int r = 0; r < count; r++) {
      const L z = At::load(block.row(0, r), 0, n, -(T)INFINITY);
      tops[r] = largest(z);
      const L exponentials = exp_below_1(z - L(tops[r]));
      factors[r] = sum(exponentials);
      if constexpr (Rule::from_exponentials) exponentials.store(e + r * sizeof(L));
    }
    const L totals = L::load_first((const char*)factors, count);
    (Rule::from_exponentials ? L(1) / totals : log(totals)).store((char*)factors);
    for (int r = 0; r < count; r++) {
      if constexpr (Rule::from_exponentials) {
        Rule::forward(L::load(e + r * sizeof(L)), L(factors[r])).store(y + r * row);
      } else {
        Rule::forward(At::load(block.row(0, r), 0, n), L(tops[r]), L(factors[r])).store(y + r * row);
      }
    }
    if (block.stride[1] == row) {
      memcpy(block.at[1], y, (size_t)(count * row));
    } else {
      for (int r = 0; r < count; r++) memcpy(block.row(1, r), y + r * row, (size_t)row);
    }
  }

  static void forward_row(const char* x, char* y, int64_t length, Workspace<T>& work) {
    Nothing nothing;
    const RowSum<T> row = exponentials<Rule::from_exponentials>(x, y, length, work, nothing);
    if constexpr (Rule::from_exponentials) {
      for_exponentials(row, length, work, [&](int64_t i, int n, L e, T factor) INNERLOOP_INLINE {
        At::store(Rule::forward(e, L(factor / row.total)), y, i, n);
      });
    } else {
      const L top(row.top), log_total = log_of(row.total);
      for_lanes(0, length, [&](int64_t i, int n) INNERLOOP_INLINE {
        At::store(Rule::forward(At::load(x, i, n), top, log_total), y, i, n);
      });
    }
  }

  static void forward(const Rows<2>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    Workspace<T> work;
    work.tops = scratch.tops;
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<2>& block, int count) {
      if (rows.length <= L::count) return forward_short(block, count, rows.length);
      for (int r = 0; r < count; r++) forward_row(block.row(0, r), block.row(1, r), rows.length, work);
    });
  }

  static void backward(const Rows<3>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<3>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char *dy = block.row(0, r), *y = block.row(1, r);
        char* dx = block.row(2, r);
        RowTotal<L> terms;
        for (int64_t at = 0; at < rows.length; at += kRowBlock) {
          const int64_t stop = rows.length - at < kRowBlock ? rows.length : at + kRowBlock;
          for_lanes(at, stop, [&](int64_t i, int n) INNERLOOP_INLINE {
            terms.block = terms.block + Rule::term(At::load(dy, i, n), At::load(y, i, n));
          });
          terms.end_block();
        }
        const L total(sum(terms.total));
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          At::store(Rule::backward(At::load(dy, i, n), At::load(y, i, n), total), dx, i, n);
        });
      }
    });
  }

  static constexpr SoftmaxKernels kernels = {forward, backward};
};

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr SoftmaxFunction entries[] = {
      {Rules::name, Loops<Rules, float>::kernels, Loops<Rules, double>::kernels}...};
};

}  // namespace

const Span<SoftmaxFunction> softmaxes = {Table<Softmaxes>::entries, Softmaxes::count};

}  // namespace innerloop::INNERLOOP_ISA
