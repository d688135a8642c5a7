#include "core/linear_cross_entropy.h"

#include <string.h>

#include <algorithm>
#include <atomic>

namespace innerloop {
namespace {

// Note [memory of linear_cross_entropy]
// Beyond its inputs and gradients a call takes at most 64 MB: the logits of some rows (16 MiB, or 32 rows of up to 32
// MiB), 4 to 16 MiB that products pack into, with some 6 MiB for what they cannot do without, and what is kept of the
// rows of a segment. Fewer rows at a time than these would be slow: each piece reads w twice and adds to dw.
constexpr size_t kLogits = 16 << 20, kMostLogits = 32 << 20;
constexpr int64_t kLeastRows = 32;
constexpr int64_t kMostRows = 1 << 16;
constexpr int64_t kSegment = 1 << 18;  // rows whose labels, weights and losses are held at a time
constexpr int kMostThreads = 64;       // each packs for itself

std::atomic<size_t> limit{0};

// Of rows [first, first + count): a view of one axis for the rows, and one for the rest if there is any. Copied where
// the rows' axes do not merge.
TensorView rows_between(Call& call, const TensorView& t, int axes, int64_t first, int64_t count) {
  TensorView rows = t;
  const int64_t item = (int64_t)dtype_size(t.dtype), inner = axes < t.ndim ? t.shape[axes] : 1;
  const ptrdiff_t inner_step = axes < t.ndim ? t.strides[axes] : item;
  rows.ndim = 1 + t.ndim - axes;
  rows.shape[0] = count;
  rows.shape[1] = inner;
  rows.strides[1] = inner_step;
  if (rows_merge(t, axes, rows.strides[0])) {
    if (count > 0) rows.data += first * rows.strides[0];
    return rows;
  }
  rows.data = call.array<char>(count * inner * item);
  rows.strides[0] = inner * item;
  rows.strides[1] = item;
  for_rows_of(t, axes, first, count, [&](int64_t i, ptrdiff_t offset) {
    char* to = rows.data + i * rows.strides[0];
    const char* from = t.data + offset;
    for (int64_t j = 0; j < inner; j++) memcpy(to + j * item, from + j * inner_step, (size_t)item);
  });
  return rows;
}

TensorView logits_view(void* data, Dtype dtype, int64_t rows, int64_t classes, ptrdiff_t pitch) {
  TensorView t;
  t.name = "logits";
  t.data = static_cast<char*>(data);
  t.dtype = dtype;
  t.writeable = true;
  t.ndim = 2;
  t.shape[0] = rows;
  t.shape[1] = classes;
  t.strides[0] = pitch;
  t.strides[1] = (ptrdiff_t)dtype_size(dtype);
  return t;
}

class Work {
 public:
  Work(Call& call, const LinearCrossEntropy& arguments, const CrossEntropyOptions& options)
      : call(call),
        a(arguments),
        options(options),
        kernels(linear_kernels(a.x.dtype)),
        dtype(a.x.dtype),
        row_axes(a.x.ndim - 1),
        rows(rows_of(a.x)),
        depth(a.w.shape[0]),
        classes(a.w.shape[1]) {
    if (call.threads > kMostThreads) call.threads = kMostThreads;
    call.frugal = std::min<size_t>(std::max(2, call.threads), 8) << 21;
    const ptrdiff_t item = (ptrdiff_t)dtype_size(dtype);
    if (classes > kLongestRow) throw std::bad_alloc();
    // An odd number of lines: rows of a power of two would share a set of the cache.
    pitch = ((classes * item + 63) / 64 | 1) * 64;
    const size_t given = limit.load(), least = (size_t)pitch * (size_t)kLeastRows;
    const size_t bytes = given ? given : std::min(std::max(kLogits, least), kMostLogits);
    at_once = std::min(std::max<int64_t>((int64_t)(bytes / (size_t)pitch), 1), kMostRows);
    if (at_once > 24) at_once -= at_once % 24;  // whole tiles
    at_once = std::max<int64_t>(std::min(at_once, rows), 1);
    // Pieces of one size.
    const int64_t pieces = (rows + at_once - 1) / at_once;
    if (pieces > 0) at_once = (rows + pieces - 1) / pieces;
  }

  double run() {
    const double divisor = check();
    w = matrix_of(a.w, call);
    if (a.losses && classes == 0) memset(a.losses->data, 0, (size_t)rows * dtype_size(dtype));
    double sum = 0;
    if (rows > 0 && classes > 0) {
      logits = call.array<char>(at_once * pitch);
      sum = segments(0, rows, [&](int64_t first, int64_t count) { return segment(first, count, divisor); });
    } else if (a.dx) {
      backward(0, classes > 0 ? 0 : rows, {});
    }
    return options.reduction == Reduction::none ? 0 : sum / divisor;
  }

 private:
  Call& call;
  const LinearCrossEntropy& a;
  const CrossEntropyOptions& options;
  const LinearKernels& kernels;
  const Dtype dtype;
  const int row_axes;
  const int64_t rows, depth, classes;
  ptrdiff_t pitch;
  int64_t at_once;
  char* logits = nullptr;
  Matrix w = {};
  CrossEntropyPlan only;  // where one segment is all: checked and used at once
  bool begun = false;     // dw and db hold the sums of earlier rows

  // f over segments of n rows from `first` on, added in the tree in which all losses at once are.
  template <class F>
  double segments(int64_t first, int64_t n, const F& f) {
    if (n <= kSegment) return f(first, n);
    const int64_t half = (n / 2 + 7) & ~int64_t(7);
    const double sum = segments(first, half, f);
    return sum + segments(first + half, n - half, f);
  }

  CrossEntropyPlan plan(int64_t first, int64_t count) {
    const TensorView target = rows_between(call, *a.target.target, row_axes, first, count);
    TensorView sample_weight;
    if (a.target.sample_weight) sample_weight = rows_between(call, *a.target.sample_weight, row_axes, first, count);
    const CrossEntropyTarget views = {&target, a.target.weight, a.target.sample_weight ? &sample_weight : nullptr};
    return plan_cross_entropy(call, dtype, count, classes, views, options);
  }

  // Reads all labels before anything is written; what a mean divides by.
  double check() {
    if (rows <= kSegment) {
      only = plan(0, rows);
      return only.divisor;
    }
    const size_t mark = call.mark();
    const double divisor = segments(0, rows, [&](int64_t first, int64_t count) {
      call.rewind(mark);
      return plan(first, count).divisor;
    });
    call.rewind(mark);
    return options.reduction == Reduction::mean ? divisor : 1;
  }

  double segment(int64_t first, int64_t count, double divisor) {
    const size_t mark = call.mark();
    CrossEntropyPlan rows_plan = rows <= kSegment ? only : plan(first, count);
    rows_plan.scale = options.grad_scale / divisor;
    const size_t item = dtype_size(dtype);
    char* losses = a.losses ? a.losses->data + first * (int64_t)item : call.array<char>(count * (int64_t)item);
    const size_t piece_mark = call.mark();
    for (int64_t at = 0; at < count; at += at_once) {
      call.rewind(piece_mark);
      const int64_t n = std::min(at_once, count - at);
      piece(rows_plan, first, at, n, losses + at * (int64_t)item);
    }
    const double sum = a.losses ? 0 : sum_of(losses, dtype, count);
    call.rewind(mark);
    return sum;
  }

  // Rows [first + at, first + at + n), the plan's from `at` on.
  void piece(const CrossEntropyPlan& rows_plan, int64_t first, int64_t at, int64_t n, char* losses) {
    Linear l = {};
    l.m = n;
    l.n = classes;
    l.k = depth;
    l.x = matrix_of(a.x, call, first + at, n);
    l.w = w;
    l.y = {logits, pitch, (ptrdiff_t)dtype_size(dtype), nullptr};
    l.bias = strided(a.bias);
    l.activation = identity_index();
    kernels.forward(call, l);

    const TensorView z = logits_view(logits, dtype, n, classes, pitch);
    TensorView losses_view = without_axis(z, 1), probabilities;
    losses_view.data = losses;
    losses_view.strides[0] = (ptrdiff_t)dtype_size(dtype);
    if (rows_plan.probabilities) probabilities = rows_between(call, *a.target.target, row_axes, first + at, n);
    const CrossEntropyWork work = cross_entropy_work(rows_plan, at, z, 1, rows_plan.probabilities ? &probabilities : nullptr,
                                                     losses_view, a.dx ? &z : nullptr);
    run_rows(call, work.rows, [&](void* scratch, int64_t begin, int64_t end) {
      run_cross_entropy(rows_plan, work, scratch, begin, end);
    });
    if (a.dx) backward(first + at, n, {logits, pitch, (ptrdiff_t)dtype_size(dtype), nullptr});
  }

  void backward(int64_t first, int64_t n, const Matrix& dz) {
    LinearBackward l = {};
    l.m = n;
    l.n = classes;
    l.k = depth;
    l.dy = dz;
    l.x = matrix_of(a.x, call, first, n);
    l.w = w;
    l.dx = matrix_of(*a.dx, call, first, n);
    l.dw = matrix_of(*a.dw, call);
    l.db = strided(a.db);
    l.activation = identity_index();
    l.accumulate = begun;
    kernels.backward(call, l);
    begun = true;
  }
};

}  // namespace

size_t logits_limit() { return limit.load(); }
void set_logits_limit(size_t bytes) { limit.store(bytes); }

double linear_cross_entropy(const LinearCrossEntropy& arguments, const CrossEntropyOptions& options) {
  Call call;
  return Work(call, arguments, options).run();
}

}  // namespace innerloop
