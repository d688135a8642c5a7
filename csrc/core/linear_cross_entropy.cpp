#include "core/linear_cross_entropy.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/half.h"

namespace innerloop {
namespace {

// Note [memory of linear_cross_entropy]
// Beyond its inputs and gradients a call takes at most 64 MB: the logits of some rows (16 MiB; up to 32 MiB for 32
// rows, or a quarter of all: 1024 x 256 x 32000 in four pieces 427 ms, in eight 527), 4 to 16 MiB that products pack
// into, with some 6 MiB for what they cannot do without, and what is kept of the rows of a segment. Fewer rows at a
// time than these would be slow: each piece reads w twice and adds to dw.
//
// Where 32 rows are too many, and for half precision where dw in float32 is too large to keep, rows are seen some
// classes at a time: once for the sums that the loss is made of, once more, made anew, for the gradients. Half
// precision sums dx over such parts, and then dw over all rows, in float32, to round them once.
constexpr size_t kLogits = 16 << 20, kMostLogits = 32 << 20;
constexpr size_t kSums = 12 << 20;  // of half precision's gradients
constexpr int64_t kLeastRows = 32;
constexpr int64_t kMostRows = 1 << 16;
constexpr int64_t kPartRows = 512;
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

class Work {
 public:
  Work(Call& call, const LinearCrossEntropy& arguments, const CrossEntropyOptions& options)
      : call(call),
        a(arguments),
        options(options),
        kernels(linear_kernels(a.x.dtype)),
        dtype(compute_dtype(a.x.dtype)),
        item((ptrdiff_t)dtype_size(dtype)),
        half(is_half(a.x.dtype)),
        row_axes(a.x.ndim - 1),
        rows(rows_of(a.x)),
        depth(a.w.shape[0]),
        classes(a.w.shape[1]) {
    if (classes > kLongestRow || depth > kLongestRow) throw std::bad_alloc();
    if (call.threads > kMostThreads) call.threads = kMostThreads;
    call.frugal = std::min<size_t>((size_t)std::max(2, call.threads), 8) << 21;
    const size_t given = limit.load(), row = (size_t)pitch_of(classes);
    const size_t most = given ? given : kMostLogits, sums = given ? given : kSums;
    const size_t quarter = (size_t)rows / 4 < most / row ? (size_t)rows / 4 * row : most;
    bytes = given ? given : std::min(std::max({kLogits, row * (size_t)kLeastRows, quarter}), most);
    const bool wide = row * (given ? 1 : (size_t)kLeastRows) > most;
    const bool keeps_sums = !half || a.dx == nullptr || (size_t)(depth + 1) * (size_t)classes <= sums / sizeof(float);
    in_parts = wide || !keeps_sums;
    if (wide) {  // parts of whole blocks of 2048, which the sums are taken over: any number of them has the same bits
      part = std::max<int64_t>((int64_t)bytes / (kPartRows * item) / kRowBlock, 1) * kRowBlock;
    } else {
      part = classes;
    }
    at_once = pieces_of(part);
    if (wide && half && depth > 0) {
      at_once = std::min(at_once, std::max<int64_t>((int64_t)(sums / sizeof(float)) / depth, 1));
    }
    if (in_parts && half) {
      const int64_t fit = (int64_t)(sums / sizeof(float)) / (depth + 1) / 64 * 64;
      dw_part = std::min(classes, std::max<int64_t>(fit, 16));
    }
  }

  double run() {
    if (a.target.weight) weight = widened(call, *a.target.weight);
    const double divisor = check();
    w = matrix_of(a.w, call);
    if (a.losses && classes == 0) memset(a.losses->data, 0, (size_t)(rows * item));
    double sum = 0;
    if (rows > 0 && classes > 0) {
      logits =
          call.array<char>(std::max(at_once * pitch_of(part), dw_part ? pieces_of(dw_part) * pitch_of(dw_part) : 0));
      if (half && a.dx) take_sums();
      sum = segments(0, rows, [&](int64_t first, int64_t count) { return segment(first, count, divisor); });
      if (half && a.dx) in_parts ? dw_by_parts(divisor) : narrow_dw(0, classes);
    } else if (a.dx) {
      LinearBackward l = gradients(0, classes > 0 ? 0 : rows, 0, classes);
      kernels.backward(call, l);
    }
    return options.reduction == Reduction::none ? 0 : sum / divisor;
  }

 private:
  Call& call;
  const LinearCrossEntropy& a;
  const CrossEntropyOptions& options;
  const LinearKernels& kernels;
  const Dtype dtype;  // that is computed in
  const ptrdiff_t item;
  const bool half;
  const int row_axes;
  const int64_t rows, depth, classes;
  size_t bytes;         // of logits at a time
  bool in_parts;        // rows are seen some classes at a time
  int64_t part;         // classes at a time
  int64_t dw_part = 0;  // classes of dw at a time, where that is apart
  int64_t at_once;      // rows at a time
  char* logits = nullptr;
  Matrix w = {};
  TensorView weight;
  CrossEntropyPlan only;  // where one segment is all: checked and used at once
  bool begun = false;     // dw and db hold the sums of earlier rows

  // Of half precision: sums in float32 on their way to dw (as it lies), db and dx; and what each row's gradient is made
  // of, for those who come back to it.
  bool columns_end_to_end = false;
  float *dw_sums = nullptr, *db_sums = nullptr, *dx_sums = nullptr, *slopes = nullptr;

  ptrdiff_t pitch_of(int64_t n) const { return row_pitch(n, item); }

  // How many rows of n logits at a time, in pieces of about one size.
  int64_t pieces_of(int64_t n) const {
    int64_t most = std::min(std::max<int64_t>((int64_t)bytes / pitch_of(n), 1), kMostRows);
    if (most > 24) most -= most % 24;  // whole tiles
    const int64_t pieces = std::max<int64_t>((rows + most - 1) / most, 1);
    return std::max<int64_t>((rows + pieces - 1) / pieces, 1);
  }

  // `from`, in the order of `to`, rounded.
  void narrow(const float* from, const TensorView& to, int64_t first, int64_t count) {
    const Walk<1> walk = walk_elements(to);
    call.split(count, 1 << 15, [&](int64_t begin, int64_t end) {
      storage_of(to.dtype).narrow(from + begin, walk, first + begin, first + end);
    });
  }

  // f over segments of n rows from `first` on, added in the tree in which all losses at once are.
  template <class F>
  double segments(int64_t first, int64_t n, const F& f) {
    if (n <= kSegment) return f(first, n);
    const int64_t middle = (n / 2 + 7) & ~int64_t(7);
    const double sum = segments(first, middle, f);
    return sum + segments(first + middle, n - middle, f);
  }

  CrossEntropyPlan plan(int64_t first, int64_t count) {
    TensorView labels = *a.target.target, sample_weight;
    if (!is_floating(labels.dtype)) labels = rows_between(call, labels, row_axes, first, count);
    if (a.target.sample_weight) {
      sample_weight = widened(call, rows_between(call, *a.target.sample_weight, row_axes, first, count));
    }
    const CrossEntropyTarget views = {&labels, a.target.weight ? &weight : nullptr,
                                      a.target.sample_weight ? &sample_weight : nullptr};
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

  CrossEntropyPlan segment_plan(int64_t first, int64_t count, double divisor) {
    CrossEntropyPlan rows_plan = rows <= kSegment ? only : plan(first, count);
    rows_plan.scale = options.grad_scale / divisor;
    return rows_plan;
  }

  double segment(int64_t first, int64_t count, double divisor) {
    const size_t mark = call.mark();
    const CrossEntropyPlan rows_plan = segment_plan(first, count, divisor);
    char* losses = a.losses ? a.losses->data + first * item : call.array<char>(count * item);
    const size_t piece_mark = call.mark();
    for (int64_t at = 0; at < count; at += at_once) {
      call.rewind(piece_mark);
      const int64_t n = std::min(at_once, count - at);
      (this->*(in_parts ? &Work::piece_by_parts : &Work::piece))(rows_plan, first, at, n, losses + at * item);
    }
    const double sum = a.losses ? 0 : sum_of(losses, dtype, count);
    call.rewind(mark);
    return sum;
  }

  // The logits of n rows from `first` on and of classes [c, c + count).
  void forward(int64_t first, int64_t n, int64_t c, int64_t count) {
    Linear l = {};
    l.m = n;
    l.n = count;
    l.k = depth;
    l.x = matrix_of(a.x, call, first, n);
    l.w = w;
    l.w.data += c * w.column;
    l.y = {logits, pitch_of(count), item, nullptr};
    l.bias = strided(a.bias);
    if (a.bias) l.bias.data += c * l.bias.stride;
    l.activation = identity_index();
    kernels.forward(call, l);
  }

  // All gradients of these rows and classes, from dlogits where the logits were.
  LinearBackward gradients(int64_t first, int64_t n, int64_t c, int64_t count) {
    LinearBackward l = {};
    l.m = n;
    l.n = count;
    l.k = depth;
    l.dy = {logits, pitch_of(count), item, nullptr};
    l.x = matrix_of(a.x, call, first, n);
    l.w = w;
    l.w.data += c * w.column;
    l.dx = matrix_of(*a.dx, call, first, n);
    l.dw = matrix_of(*a.dw, call);
    l.dw.data += c * l.dw.column;
    l.db = strided(a.db);
    if (a.db) l.db.data += c * l.db.stride;
    l.activation = identity_index();
    l.accumulate_dw = begun;
    return l;
  }

  // Rows [first + at, first + at + n), the plan's from `at` on, in one go.
  void piece(const CrossEntropyPlan& rows_plan, int64_t first, int64_t at, int64_t n, char* losses) {
    forward(first + at, n, 0, classes);
    const TensorView z = matrix_view("logits", logits, dtype, n, classes, pitch_of(classes));
    TensorView losses_view = without_axis(z, 1), probabilities;
    losses_view.data = losses;
    losses_view.strides[0] = item;
    if (rows_plan.probabilities) {
      probabilities = widened(call, rows_between(call, *a.target.target, row_axes, first + at, n));
    }
    const CrossEntropyWork work = cross_entropy_work(
        rows_plan, at, z, 1, rows_plan.probabilities ? &probabilities : nullptr, losses_view, a.dx ? &z : nullptr);
    run_rows(call, work.rows, [&](void* scratch, int64_t begin, int64_t end) {
      run_cross_entropy(rows_plan, work, scratch, begin, end);
    });
    if (!a.dx) return;
    LinearBackward l = gradients(first + at, n, 0, classes);
    if (half) sum_dw(l, classes);
    kernels.backward(call, l);
    begun = true;
  }

  template <class Loop>
  void run_part(const CrossEntropyPart& work, int64_t n, const Loop& loop) {
    split_rows(call, n, work.classes, 0, [&](void*, int64_t begin, int64_t end) { loop(work, begin, end); });
  }

  // Of rows [first + at, ...), the plan's from `at` on, classes [c, c + count).
  CrossEntropyPart part_of(const CrossEntropyPlan& rows_plan, int64_t first, int64_t at, int64_t n, int64_t c,
                           int64_t count) {
    CrossEntropyPart p = {};
    p.first = c;
    p.classes = count;
    p.all_classes = classes;
    p.z = logits;
    p.z_row = pitch_of(count);
    if (rows_plan.probabilities) {
      TensorView some = *a.target.target;
      some.data += c * some.strides[row_axes];
      some.shape[row_axes] = count;
      TensorView rows_of_them = widened(call, rows_between(call, some, row_axes, first + at, n));
      if (rows_of_them.strides[1] != item) {
        TensorView copy = contiguous_view(call.array<char>(n * count * item), dtype, rows_of_them);
        for (int64_t i = 0; i < n; i++) {
          for (int64_t j = 0; j < count; j++) {
            memcpy(copy.data + i * copy.strides[0] + j * item,
                   rows_of_them.data + i * rows_of_them.strides[0] + j * rows_of_them.strides[1], (size_t)item);
          }
        }
        rows_of_them = copy;
      }
      p.probabilities = rows_of_them.data;
      p.probabilities_row = rows_of_them.strides[0];
    } else {
      p.labels = rows_plan.labels + at;
    }
    p.weight = rows_plan.weight;
    if (rows_plan.sample_weight) p.sample_weight = (const char*)rows_plan.sample_weight + at * item;
    p.label_smoothing = rows_plan.label_smoothing;
    p.z_loss = rows_plan.z_loss;
    p.scale = rows_plan.scale;
    return p;
  }

  const CrossEntropyParts& parts() const { return typed(*innerloop::kernels().cross_entropy_parts, dtype); }

  // The same as `piece` some classes at a time; of half precision, without dw and db.
  void piece_by_parts(const CrossEntropyPlan& rows_plan, int64_t first, int64_t at, int64_t n, char* losses) {
    auto* sums = call.array<CrossEntropySums>(n);
    std::fill_n(sums, n, CrossEntropySums());
    char* row_slopes =
        half && a.dx ? reinterpret_cast<char*>(slopes + 4 * (first + at)) : call.array<char>(4 * n * item);
    const size_t mark = call.mark();
    CrossEntropyPart p = {};
    for (int64_t c = 0; c < classes; c += part) {
      call.rewind(mark);
      const int64_t count = std::min(part, classes - c);
      forward(first + at, n, c, count);
      p = part_of(rows_plan, first, at, n, c, count);
      p.sums = sums;
      run_part(p, n, parts().add);
    }
    run_part(p, n, [&](const CrossEntropyPart& work, int64_t begin, int64_t end) {
      parts().finish(work, losses, row_slopes, begin, end);
    });
    if (!a.dx) return;
    for (int64_t c = 0; c < classes; c += part) {
      call.rewind(mark);
      const int64_t count = std::min(part, classes - c);
      if (part < classes) forward(first + at, n, c, count);
      p = part_of(rows_plan, first, at, n, c, count);
      p.slopes = row_slopes;
      run_part(p, n, parts().gradient);
      LinearBackward l = gradients(first + at, n, c, count);
      l.accumulate_dx = c > 0;
      l.without_dw = half;
      if (dx_sums) l.dx = {(char*)dx_sums, (ptrdiff_t)sizeof(float) * depth, sizeof(float), nullptr};
      kernels.backward(call, l);
    }
    if (dx_sums) narrow(dx_sums, *a.dx, (first + at) * depth, n * depth);
    begun = true;
  }

  void take_sums() {
    columns_end_to_end = a.dw->strides[0] == (ptrdiff_t)dtype_size(a.dw->dtype);
    const int64_t columns = in_parts ? dw_part : classes;
    dw_sums = call.array<float>(depth * columns);
    db_sums = call.array<float>(columns);
    if (!in_parts) return;
    slopes = call.array<float>(4 * rows);
    if (part < classes) dx_sums = call.array<float>(at_once * depth);
  }

  // dw and db of `columns` classes to where they are summed.
  void sum_dw(LinearBackward& l, int64_t columns) {
    const ptrdiff_t one = sizeof(float);
    l.dw = columns_end_to_end ? Matrix{(char*)dw_sums, one, one * depth, nullptr}
                              : Matrix{(char*)dw_sums, one * columns, one, nullptr};
    if (a.db) l.db = {(char*)db_sums, one};
  }

  void narrow_dw(int64_t c, int64_t count) {
    TensorView dw = *a.dw;
    dw.data += c * dw.strides[1];
    dw.shape[1] = count;
    if (columns_end_to_end) {
      std::swap(dw.shape[0], dw.shape[1]);
      std::swap(dw.strides[0], dw.strides[1]);
    }
    if (depth > 0) narrow(dw_sums, dw, 0, depth * count);
    if (!a.db) return;
    TensorView db = *a.db;
    db.data += c * db.strides[0];
    db.shape[0] = count;
    narrow(db_sums, db, 0, count);
  }

  // Of half precision: dw and db, some classes of all rows at a time.
  void dw_by_parts(double divisor) {
    const int64_t some = pieces_of(dw_part);
    for (int64_t c = 0; c < classes; c += dw_part) {
      const int64_t count = std::min(dw_part, classes - c);
      begun = false;
      segments(0, rows, [&](int64_t first, int64_t of_segment) {
        const size_t mark = call.mark();
        const CrossEntropyPlan rows_plan = segment_plan(first, of_segment, divisor);
        const size_t piece_mark = call.mark();
        for (int64_t at = 0; at < of_segment; at += some) {
          call.rewind(piece_mark);
          const int64_t n = std::min(some, of_segment - at);
          forward(first + at, n, c, count);
          CrossEntropyPart p = part_of(rows_plan, first, at, n, c, count);
          p.slopes = slopes + 4 * (first + at);
          run_part(p, n, parts().gradient);
          LinearBackward l = gradients(first + at, n, c, count);
          sum_dw(l, count);
          l.without_dx = true;
          kernels.backward(call, l);
          begun = true;
        }
        call.rewind(mark);
        return 0.0;
      });
      narrow_dw(c, count);
    }
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
