#include "core/norms.h"

#include "core/dispatch.h"
#include "core/errors.h"
#include "core/norms_memory.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us

// mean and 1 / deviation of each row. rms_norm has no mean: it gets an operand that is not read.
struct RowStatistics {
  TensorView mean, rstd;
};
RowStatistics statistics_of(const RowNormFunction& norm, char* data, ptrdiff_t row, ptrdiff_t step,
                            const TensorView& rows_shape, Dtype dtype) {
  return {row_items(data, step, rows_shape, dtype),
          row_items(data + (norm.has_mean ? row : 0), step, rows_shape, dtype)};
}

}  // namespace

const RowNormFunction& find_row_norm(const std::string& name) {
  for (const RowNormFunction& f : *kernels().row_norms) {
    if (name == f.name) return f;
  }
  throw ValueError("there is no norm called '" + name + "'");
}

int64_t row_count(const TensorView& x) {
  int64_t rows = 1;
  for (int d = 0; d < x.ndim - 1; d++) rows *= x.shape[d];
  return rows;
}

void row_norm_forward(const RowNormFunction& norm, const TensorView& x, const TensorView* weight,
                      const TensorView* bias, double eps, const TensorView& y, const TensorView* saved) {
  const int axis = x.ndim - 1;
  const int64_t rows = row_count(x), length = x.shape[axis];
  const Dtype compute = compute_dtype(x.dtype);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(compute);
  if (y.size() == 0) {
    if (saved) fill_items(saved->data, item, saved->size(), compute, NAN);  // of no elements
    return;
  }
  Call call;
  char* kept = saved ? saved->data : take_items(call, checked_product(norm.has_mean ? 2 : 1, rows), compute);
  const auto [mean, rstd] = statistics_of(norm, kept, rows * item, item, without_axis(x, axis), compute);
  RowNorm work;
  work.weight = contiguous_items(call, weight, length, compute, 1);
  work.bias = contiguous_items(call, bias, length, compute, 0);
  work.eps = eps;
  const auto loop = typed(norm, x.dtype).forward;
  run_over_rows<4>(
      call, {{&x, true}, {&mean, false}, {&rstd, false}, {&y, true}}, axis, length,
      [&](const Rows<4>& part, void* scratch, int64_t begin, int64_t end) { loop(part, work, scratch, begin, end); });
}

void row_norm_backward(const RowNormFunction& norm, const TensorView& dy, const TensorView& x, const TensorView& saved,
                       const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                       const TensorView* dbias) {
  const int axis = x.ndim - 1;
  const int64_t rows = row_count(x), length = x.shape[axis];
  const Dtype compute = compute_dtype(x.dtype);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(compute);
  Call call;
  WrittenItems written_dweight(call, dweight), written_dbias(call, dbias);
  if (dx.size() == 0) {
    for (WrittenItems* sum : {&written_dweight, &written_dbias}) {
      sum->fill(0);
      sum->finish();
    }
    return;
  }
  // Side by side, as the half-precision driver takes what is one element a row.
  char* kept = take_items(call, checked_product(norm.has_mean ? 2 : 1, rows), compute);
  for (int i = 0; i < (norm.has_mean ? 2 : 1); i++) {
    for (int64_t r = 0; r < rows; r++) {
      memcpy(kept + (i * rows + r) * item, saved.data + i * saved.strides[0] + r * saved.strides[saved.ndim - 1],
             (size_t)item);
    }
  }
  const auto [mean, rstd] = statistics_of(norm, kept, rows * item, item, without_axis(x, axis), compute);
  const char* weights = contiguous_items(call, weight, length, compute, 1);
  const RowNormKernels& kernel = typed(norm, x.dtype);
  const bool sums = dweight != nullptr || dbias != nullptr;
  const int64_t unit = sums ? rows_of_block(rows, length) : 1, blocks = (rows + unit - 1) / unit;
  char *dweights = nullptr, *dbiases = nullptr;
  if (sums) {
    dweights = take_items(call, checked_product(blocks, length), compute);
    dbiases = take_items(call, checked_product(blocks, length), compute);
  }
  run_over_rows<5>(
      call, {{&dy, true}, {&x, true}, {&mean, false}, {&rstd, false}, {&dx, true}}, axis, length,
      [&](const Rows<5>& part, void* scratch, int64_t begin, int64_t end, int64_t first) {
        if (!sums) return kernel.backward(part, weights, scratch, begin, end, nullptr, nullptr);
        sum_blocks(unit, length, compute, dweights, dbiases, begin, end, first, false,
                   [&](int64_t from, int64_t to, char* dw, char* db) {
                     kernel.backward(part, weights, scratch, from, to, dw, db);
                   });
      },
      Order::c, unit);
  call.split(sums ? length : 0, kGrain / blocks, [&](int64_t begin, int64_t end) {
    const WrittenItems &dw = written_dweight, &db = written_dbias;
    if (dw.data) kernel.add_blocks(dweights, blocks, length, dw.data, dw.stride, begin, end);
    if (db.data) kernel.add_blocks(dbiases, blocks, length, db.data, db.stride, begin, end);
  });
  written_dweight.finish();
  written_dbias.finish();
}

}  // namespace innerloop
