// The dense layer: products with the epilogues and derivatives that grow from rules/activations.h. The product itself
// knows no activation; it is handed one of these functions.
#include "cpu/linear_gemm.h"
#include "cpu/tables.h"
#include "rules/activations.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class Rule, class T>
void finish_tile(const Finish& given) {
  using V = Native<T>;
  const Finish f = given;  // a copy that no store can alias: a tile of few steps of k is mostly this
  const Rule rule = make_rule<Rule>(f.parameters);
  const bool by_row = f.bias != nullptr && f.bias_by_row, by_column = f.bias != nullptr && !f.bias_by_row;
  for (int v = 0; v < f.vectors; v++) {
    const char* sum = f.sum + v * sizeof(V);
    char *y = f.y + v * sizeof(V), *z = f.z + (f.z != nullptr ? v * sizeof(V) : 0);
    V bias = by_column ? V::load(f.bias + v * sizeof(V)) : V(T(-0.0));  // which changes no sum, -0 neither
    for (int r = 0; r < f.rows; r++, sum += f.sum_row, y += f.y_row) {
      if (by_row) {
        T value;
        memcpy(&value, f.bias + r * sizeof(T), sizeof value);
        bias = V(value);
      }
      const V whole = V::load(sum) + bias;
      if (z != nullptr) {
        whole.store(z);
        z += f.z_row;
      }
      rule.forward(whole).store(y);
    }
  }
}

template <class Rule, class T>
void derive(const double* parameters, char* dy, const char* saved, int64_t n) {
  using V = Native<T>;
  const Rule rule = make_rule<Rule>(parameters);
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes, dy += sizeof(V), saved += sizeof(V)) {
    rule.backward(V::load(saved), V::load(dy)).store(dy);
  }
  if (i == n) return;
  const int rest = (int)(n - i);
  store_partial(rule.backward(load_partial<V>(saved, rest), load_partial<V>(dy, rest)), dy, rest);
}

template <class T, class... Rules>
struct Table;
template <class T, class... Rules>
struct Table<T, List<Rules...>> {
  static constexpr Epilogue epilogues[] = {finish_tile<Rules, T>...};
  static constexpr Derive derivatives[] = {derive<Rules, T>...};
};

// Where w's columns lie end to end, the roles may be swapped: x is packed, w is not, and the result is stored
// transposed. It wins up to 64 rows (32 x 784 x 256 on a Zen 3: 89 against 75 GFLOP/s), and with one or two columns,
// which would leave most lanes idle.
constexpr int64_t kSwapRows = 64;
constexpr int64_t kSwapColumns = 2;

// dy times the derivative is made once, in scratch of up to this size, where two products read it or one reads its
// columns; and up to so many elements of it on one thread.
constexpr int64_t kDerivedBytes = 32 << 20, kDerivedGrain = 1 << 14;

// n elements from where they lie to the next of each other, and back.
template <class T>
void gather(const Strided& from, int64_t n, char* to) {
  with_storage<T>(from.storage, [&](auto source) { decltype(source)::gather(from.data, from.stride, n, to); });
}
template <class T>
void scatter(const char* from, int64_t n, const Strided& to) {
  with_storage<T>(to.storage, [&](auto target) { decltype(target)::scatter(from, n, to.data, to.stride); });
}

// A few rows, copied to where they lie end to end.
template <class T>
Matrix copy_rows(Team& team, const Matrix& from, int64_t m, int64_t k) {
  const ptrdiff_t row = k * (ptrdiff_t)sizeof(T);
  char* rows = (char*)team.scratch((size_t)(m * row) + 64);
  for (int64_t i = 0; i < m; i++) gather<T>({address(from, i, 0), from.column, from.storage}, k, rows + i * row);
  return {rows, row, sizeof(T), nullptr, Storage::full};
}

template <class T>
void forward(Team& team, const Linear& l) {
  if (l.m == 0 || l.n == 0) return;
  Product p = {};
  p.m = l.m;
  p.n = l.n;
  p.k = l.k;
  p.y = l.y;
  p.z = l.z;
  p.parameters = l.parameters;
  p.dropout = l.dropout;
  p.keeps_output = l.keeps_output;
  p.epilogue = Table<T, Activations>::epilogues[l.activation];
  if (l.bias.data != nullptr) {
    char* bias = (char*)team.scratch(((size_t)l.n + kPanel<T>)*sizeof(T));
    gather<T>(l.bias, l.n, bias);
    memset(bias + l.n * sizeof(T), 0, kPanel<T> * sizeof(T));
    p.bias = bias;
  }
  p.a.matrix = l.x;
  p.b.matrix = l.w;
  p.panels = (const char*)l.panels;
  const bool columns_end_to_end = p.panels == nullptr && l.w.row == item_size<T>(l.w.storage);
  if (columns_end_to_end && l.m <= kFewRows<T>) {
    if (!has_plain_rows<T>(p.a)) p.a.matrix = copy_rows<T>(team, l.x, l.m, l.k);
    return multiply_few_rows<T>(team, p);
  }
  if (columns_end_to_end && (l.m <= kSwapRows || (l.n <= kSwapColumns && l.n < l.m))) {
    p.m = l.n;
    p.n = l.m;
    p.a.matrix = l.w;
    p.b.matrix = l.x;
    p.a.transposed = p.b.transposed = p.transposed = true;
  }
  multiply<T>(team, p);
}

// sums += the rows of an m x n matrix, whose columns lie end to end, in order.
template <class T>
void sum_columns(Team& team, int64_t m, int64_t n, const Matrix& matrix, char* sums) {
  using V = Native<T>;
  constexpr int64_t width = 64 * V::lanes;  // columns at a time: they stay in the first-level cache
  const int64_t pieces = ceil_div(n, width);
  const int64_t worth = 1 + m * n / (1 << 16);
  int64_t tasks = pieces < team.threads ? pieces : team.threads;
  if (tasks > worth) tasks = worth;
  team.run((int)tasks, [&](int task) {
    for (int64_t i = pieces * task / tasks; i < pieces * (task + 1) / tasks; i++) {
      const int64_t begin = i * width, end = begin + width < n ? begin + width : n;
      for (int64_t r = 0; r < m; r++) {
        const char* row = address(matrix, r, 0);
        for (int64_t j = begin; j < end; j += V::lanes) {
          const int count = end - j < V::lanes ? (int)(end - j) : V::lanes;
          char* sum = sums + j * sizeof(T);
          const char* from = row + j * sizeof(T);
          if (count == V::lanes) {
            (V::load(sum) + V::load(from)).store(sum);
          } else {
            store_partial(load_partial<V>(sum, count) + load_partial<V>(from, count), sum, count);
          }
        }
      }
    }
  });
}

// A factor times its derivative, made once for all who read it.
template <class T>
Factor derived(Team& team, const Factor& f, int64_t m, int64_t n) {
  const ptrdiff_t row = (ptrdiff_t)(align64((size_t)n * sizeof(T)) | 64);  // rows of a power of two would share a set
  const int tasks = (int)(m * n / kDerivedGrain < team.threads ? 1 + m * n / kDerivedGrain : team.threads);
  char* rows = (char*)team.scratch((size_t)((m + tasks) * row));
  team.run(tasks, [&](int task) {
    for (int64_t i = m * task / tasks; i < m * (task + 1) / tasks; i++) {
      pack_factor<T>(f, i, 0, 1, n, rows + i * row, row, rows + (m + task) * row);
    }
  });
  Factor made = {};
  made.matrix = {rows, row, sizeof(T), nullptr, Storage::full};
  return made;
}

template <class T>
void backward(Team& team, const LinearBackward& l) {
  Factor dz = {};
  dz.matrix = l.dy;
  dz.saved = l.saved;
  dz.derive = Table<T, Activations>::derivatives[l.activation];
  dz.parameters = l.parameters;
  const bool dw_by_columns = l.dw.row == item_size<T>(l.dw.storage) && l.dw.column != l.dw.row;
  if (dz.fused() && !l.without_dw && (dw_by_columns || !l.without_dx) &&
      l.m * l.n * (int64_t)sizeof(T) <= kDerivedBytes) {
    dz = derived<T>(team, dz, l.m, l.n);
  }

  const size_t sums_bytes = (size_t)l.n * sizeof(T);
  char* sums = l.db.data != nullptr && l.n > 0 && !l.without_dw ? (char*)team.scratch(sums_bytes) : nullptr;
  if (sums != nullptr) {
    memset(sums, 0, sums_bytes);
    if (l.accumulate_dw) gather<T>(l.db, l.n, sums);
  }
  if (l.n > 0 && (l.k > 0 || sums != nullptr) && !l.without_dw) {  // also with k = 0, for db
    Product dw = {};
    dw.m = l.k;
    dw.n = l.n;
    dw.k = l.m;
    dw.a.matrix = l.x;
    dw.a.transposed = true;
    dw.b = dz;
    dw.y = l.dw;
    dw.column_sums = sums;
    dw.accumulate = l.accumulate_dw;
    // Columns end to end are rows of the product with the roles swapped.
    if (l.k > 0 && dw_by_columns && has_plain_rows<T>(dz)) {
      dw.m = l.n;
      dw.n = l.k;
      dw.a = dz;
      dw.a.transposed = true;
      dw.b = {};
      dw.b.matrix = l.x;
      dw.y = {l.dw.data, l.dw.column, l.dw.row, nullptr, l.dw.storage};
      dw.column_sums = nullptr;
      if (sums != nullptr) sum_columns<T>(team, l.m, l.n, dw.a.matrix, sums);
    }
    multiply<T>(team, dw);
  }
  if (sums != nullptr) scatter<T>(sums, l.n, l.db);
  if (l.m > 0 && l.k > 0 && !l.without_dx) {
    Product dx = {};
    dx.m = l.m;
    dx.n = l.k;
    dx.k = l.n;
    dx.a = dz;
    dx.b.matrix = l.w;
    dx.b.transposed = true;
    dx.panels = (const char*)l.panels;
    dx.y = l.dx;
    dx.accumulate = l.accumulate_dx;
    multiply<T>(team, dx);
  }
}

template <class T>
void pack(Team& team, int64_t k, int64_t n, const Matrix& w, void* panels) {
  Factor f = {};
  f.matrix = w;
  const int64_t count = ceil_div(n, kPanel<T>);
  const size_t panel_bytes = (size_t)k * kPanel<T> * sizeof(T);
  const int tasks = count < team.threads ? (int)count : team.threads;
  team.run(tasks, [&](int task) {
    int64_t i = count * task / tasks;
    const int64_t end = count * (task + 1) / tasks, whole = (end < n / kPanel<T> ? end : n / kPanel<T>)-i;
    if (has_rows_for_panels<T>(f) && whole > 0) {
      pack_panels_of<T>(f, 0, i * kPanel<T>, k, whole, (char*)panels + panel_bytes * (size_t)i, (ptrdiff_t)panel_bytes);
      i += whole;
    }
    for (; i < end; i++) {
      const int64_t rest = n - i * kPanel<T>;
      pack_panel<T>(f, 0, i * kPanel<T>, k, rest < kPanel<T> ? (int)rest : kPanel<T>,
                    (char*)panels + panel_bytes * (size_t)i, nullptr);
    }
  });
}

template <class T>
constexpr LinearKernels table = {kPanel<T>, pack<T>, forward<T>, backward<T>};

}  // namespace

const ByDtype<LinearKernels> linear = {table<float>, table<double>};

}  // namespace innerloop::INNERLOOP_ISA
