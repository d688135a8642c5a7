#include "core/norms.h"

#include "core/errors.h"
#include "core/norms_memory.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us

const RowNormKernels& typed(const RowNormFunction& norm, Dtype dtype) {
  return dtype == Dtype::f64 ? norm.f64 : norm.f32;
}

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
  const Dtype dtype = compute_dtype(x.dtype);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(dtype);
  if (y.size() == 0) {
    if (saved) fill_items(saved->data, item, saved->size(), dtype, NAN);  // of no elements
    return;
  }
  Call call;
  char* kept = saved ? saved->data : take_items(call, checked_product(norm.has_mean ? 2 : 1, rows), dtype);
  const auto [mean, rstd] = statistics_of(norm, kept, rows * item, item, without_axis(x, axis), dtype);
  RowNorm base;
  base.weight = contiguous_items(call, weight, length, dtype, 1);
  base.bias = contiguous_items(call, bias, length, dtype, 0);
  base.eps = eps;
  const auto loop = typed(norm, x.dtype).forward;
  // Without a mean, what the kernel says of it goes where 1 / deviation follows.
  run_over_rows<4>(call, {{&x, true}, {&mean, false}, {&rstd, false}, {&y, true}}, axis, length,
                   [&](const Rows<4>& rows, void* scratch, int64_t begin, int64_t end, int64_t) {
                     RowNorm work = base;
                     work.rows = rows;
                     loop(work, scratch, begin, end);
                   });
}

void row_norm_backward(const RowNormFunction& norm, const TensorView& dy, const TensorView& x, const TensorView& saved,
                       const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                       const TensorView* dbias) {
  const int axis = x.ndim - 1;
  const int64_t rows = row_count(x), length = x.shape[axis];
  if (dx.size() == 0) {
    for (const TensorView* sum : {dweight, dbias}) {
      if (sum) fill_items(sum->data, sum->strides[0], length, x.dtype, 0);
    }
    return;
  }
  Call call;
  const Dtype dtype = compute_dtype(x.dtype);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(dtype);
  char* data = saved.data;
  ptrdiff_t row = saved.strides[0], step = saved.strides[saved.ndim - 1];
  if (is_half(x.dtype)) {  // what stands beside it must be contiguous
    const Walk<1> walk = walk_rows(saved, saved.ndim - 1);
    data = take_items(call, saved.size(), dtype);
    storage_of(dtype).widen(walk, 0, saved.size(), reinterpret_cast<float*>(data));
    row = rows * item;
    step = item;
  }
  const auto [mean, rstd] = statistics_of(norm, data, row, step, without_axis(x, axis), dtype);
  const RowOperand operands[] = {{&dy, true}, {&x, true}, {&mean, false}, {&rstd, false}, {&dx, true}};
  const char* weights = contiguous_items(call, weight, length, dtype, 1);
  const RowNormKernels& kernel = typed(norm, x.dtype);
  const bool sums = dweight != nullptr || dbias != nullptr;
  const int64_t unit = sums ? rows_of_block(rows, length) : 1, blocks = (rows + unit - 1) / unit;
  const ptrdiff_t pitch = (ptrdiff_t)length * item;
  char *dweights = nullptr, *dbiases = nullptr;
  if (sums) {
    dweights = take_items(call, checked_product(blocks, length), dtype);
    dbiases = take_items(call, checked_product(blocks, length), dtype);
  }
  const TensorView wide_dweight = dweight ? widened_output(call, *dweight) : dx;
  const TensorView wide_dbias = dbias ? widened_output(call, *dbias) : dx;
  run_over_rows<5>(
      call, operands, axis, length,
      [&](const Rows<5>& planned, void* scratch, int64_t begin, int64_t end, int64_t first) {
        RowNormBackward work;
        work.rows = planned;
        work.weight = weights;
        if (!sums) return kernel.backward(work, scratch, begin, end, nullptr, nullptr);
        for (int64_t at = begin; at < end; at += unit) {
          const ptrdiff_t place = (ptrdiff_t)((first + at) / unit) * pitch;
          kernel.backward(work, scratch, at, at + unit < end ? at + unit : end, dweights + place, dbiases + place);
        }
      },
      unit, Order::c);
  if (!sums) return;
  call.split(length, kGrain / blocks, [&](int64_t begin, int64_t end) {
    if (dweight) kernel.add_blocks(dweights, blocks, length, wide_dweight.data, wide_dweight.strides[0], begin, end);
    if (dbias) kernel.add_blocks(dbiases, blocks, length, wide_dbias.data, wide_dbias.strides[0], begin, end);
  });
  if (dweight) narrow_into(call, wide_dweight, *dweight);
  if (dbias) narrow_into(call, wide_dbias, *dbias);
}

}  // namespace innerloop
