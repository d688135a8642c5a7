// The GPU's norms, beside the CPU's: sums differ in their order, so that results agree within roundings. The bits do
// not depend on the number of multiprocessors.
#include "core/norms.h"
#include "cuda_sums_support.h"

using namespace innerloop;

namespace {

// About `mean`, with a NaN and an infinity in places of which the others must know nothing.
void fill_about(Buffer& b, uint64_t seed, double mean, int64_t nan_at = -1, int64_t infinity_at = -1) {
  Numbers numbers{seed};
  for (int64_t i = 0; i < b.size; i++) set(b, i, numbers.next() + mean);
  if (nan_at >= 0 && nan_at < b.size) set(b, nan_at, NAN);
  if (infinity_at >= 0 && infinity_at < b.size) set(b, infinity_at, INFINITY);
}

struct RowCase {
  Dtype dtype;
  int64_t rows, length;
  bool aligned, weight, bias, special;
};

void test_row_norm(const cuda::RowNorm& gpu, const RowCase& c) {
  const RowNormFunction& cpu = find_row_norm(gpu.name);
  const Dtype computed = compute_dtype(c.dtype);
  const int64_t size = c.rows * c.length, offset = c.aligned ? 0 : misaligned(c.dtype, size);
  const std::string name = gpu.name + shape_text({c.rows, c.length}) + (c.aligned ? "" : ", misaligned") +
                           (c.weight ? ", weight" : "") + (c.bias ? ", bias" : "");
  Buffer x(c.dtype, size, 0), y(c.dtype, size, offset), dy(c.dtype, size, offset), dx(c.dtype, size, offset);
  Buffer weight(c.dtype, c.length, offset), bias(c.dtype, c.length, 0);
  Buffer dweight(c.dtype, c.length, offset), dbias(c.dtype, c.length, 0);
  Buffer saved(computed, c.rows * (gpu.has_mean ? 2 : 1), offset);
  const bool half = is_half(c.dtype);
  fill_about(x, 1, half ? 0 : 100, c.special ? size / 2 : -1, c.special ? 1 : -1);
  fill_about(dy, 2, 0.5);
  fill_about(weight, 3, 1);
  fill_about(bias, 4, 0);
  Buffer want_y(y), want_dx(dx), want_dweight(dweight), want_dbias(dbias), want_saved(saved);
  const Shape shape = {c.rows, c.length};
  const Shape of_saved = gpu.has_mean ? Shape{2, c.rows} : Shape{c.rows};
  const TensorView vx = shaped(x, shape), vs = shaped(want_saved, of_saved);
  const TensorView *vw = c.weight ? &weight.view : nullptr, *vb = c.bias ? &bias.view : nullptr;
  row_norm_forward(cpu, vx, vw, vb, 1e-5, shaped(want_y, shape), &vs);

  cuda::RowNormArrays a = {};
  a.x = x.data();
  a.weight = c.weight ? weight.data() : nullptr;
  a.bias = c.bias ? bias.data() : nullptr;
  a.rows = c.rows;
  a.length = c.length;
  a.eps = 1e-5;
  a.out = y.data();
  a.saved = saved.data();
  expect_success(name, gpu.forward(queue, c.dtype, a));
  expect_close(name + ", y", y, want_y, 16, 16);
  expect_close(name + ", saved", saved, want_saved, 4, half ? 4 : 100);
  Buffer other(x);
  a.x = a.out = other.data();
  a.saved = nullptr;
  expect_success(name, gpu.forward(many, c.dtype, a));
  // Rows that do not all begin at 16 bytes in another place are read otherwise, not summed otherwise.
  expect_same(name + ", y over x by another grid", other, y);

  const bool dw = c.weight, db = c.bias && gpu.has_mean;
  row_norm_backward(cpu, shaped(dy, shape), vx, vs, vw, shaped(want_dx, shape), dw ? &want_dweight.view : nullptr,
                    db ? &want_dbias.view : nullptr);
  a.dy = dy.data();
  a.x = x.data();
  a.bias = nullptr;
  a.saved = want_saved.data();  // as the CPU wrote it
  a.out = dx.data();
  a.dweight = dw ? dweight.data() : nullptr;
  a.dbias = db ? dbias.data() : nullptr;
  expect_success(name, gpu.backward(queue, c.dtype, a));
  double largest = 0;  // of 1 / deviation, which multiplies what is subtracted in dx
  for (int64_t r = 0; r < c.rows; r++) {
    const double rstd = get(want_saved, r + (gpu.has_mean ? c.rows : 0));
    if (rstd > largest) largest = rstd;
  }
  expect_close(name + ", dx", dx, want_dx, 16, 8 * largest);
  const double of_column = 8 * (double)c.rows;
  if (dw) expect_close(name + ", dweight", dweight, want_dweight, 16, of_column);
  if (db) expect_close(name + ", dbias", dbias, want_dbias, 4, of_column);
  Buffer other_dweight(dweight), other_dbias(dbias), over_dy(dy);
  a.dy = a.out = over_dy.data();
  a.dweight = dw ? other_dweight.data() : nullptr;
  a.dbias = db ? other_dbias.data() : nullptr;
  expect_success(name, gpu.backward(many, c.dtype, a));
  expect_same(name + ", dx over dy by another grid", over_dy, dx);
  if (dw) expect_same(name + ", dweight by another grid", other_dweight, dweight);
  if (db) expect_same(name + ", dbias by another grid", other_dbias, dbias);
}

void test_row_norms() {
  for (const cuda::RowNorm& gpu : cuda::row_norms) {
    for (const Dtype dtype : kDtypes) {
      const int64_t w = 16 / (int64_t)dtype_size(dtype), warp = 2048 / (int64_t)dtype_size(dtype);
      for (const bool aligned : {true, false}) {
        test_row_norm(gpu, {dtype, 0, 5, aligned, true, true, false});
        test_row_norm(gpu, {dtype, 3, 0, aligned, true, true, false});
        for (const int64_t length : {int64_t(1), w - 1, w, w + 1, 5 * w, int64_t(77), warp - 1, warp, warp + 1}) {
          test_row_norm(gpu, {dtype, 21, length, aligned, true, true, false});
        }
      }
      test_row_norm(gpu, {dtype, 21, 6 * w, true, false, false, false});
      test_row_norm(gpu, {dtype, 21, 6 * w, true, true, false, false});
      test_row_norm(gpu, {dtype, 21, 6 * w, true, false, true, false});
      test_row_norm(gpu, {dtype, 9, 8 * w, true, true, true, true});
      test_row_norm(gpu, {dtype, 9, 2 * warp + w, true, true, true, true});
      test_row_norm(gpu, {dtype, 1200, w, true, true, true, false});
      test_row_norm(gpu, {dtype, 5, 20001, true, true, true, false});
      test_row_norm(gpu, {dtype, 3, 20000, false, true, true, false});
    }
    test_row_norm(gpu, {Dtype::f32, 540, 520, true, true, true, false});
    test_row_norm(gpu, {Dtype::f32, 2, 30000, true, true, true, false});
    test_row_norm(gpu, {Dtype::f32, 4, 8192, true, true, true, false});
  }
}

struct BatchCase {
  Dtype dtype;
  int64_t samples, channels, inner;
  bool aligned, training, options, special;  // options: weight, bias and, in training, running statistics
};

void test_batch_norm(const BatchCase& c) {
  const Dtype computed = compute_dtype(c.dtype);
  const int64_t size = c.samples * c.channels * c.inner, offset = c.aligned ? 0 : misaligned(c.dtype, size);
  const std::string name = "batch_norm" + shape_text({c.samples, c.channels, c.inner}) +
                           (c.training ? ", training" : "") + (c.options ? "" : ", bare") +
                           (c.aligned ? "" : ", misaligned");
  Buffer x(c.dtype, size, 0), y(c.dtype, size, offset), dy(c.dtype, size, offset), dx(c.dtype, size, offset);
  Buffer weight(c.dtype, c.channels, offset), bias(c.dtype, c.channels, 0);
  Buffer dweight(c.dtype, c.channels, offset), dbias(c.dtype, c.channels, 0);
  Buffer saved(computed, 2 * c.channels, offset);
  Buffer running_mean(computed, c.channels, 0), running_var(computed, c.channels, offset);
  const bool half = is_half(c.dtype);
  fill_about(x, 1, half ? 0 : 100, c.special ? size / 2 : -1, c.special ? 1 : -1);
  fill_about(dy, 2, 0.5);
  fill_about(weight, 3, 1);
  fill_about(bias, 4, 0);
  fill_about(running_mean, 5, half ? 0 : 100);
  fill_about(running_var, 6, 5);
  const Shape shape = {c.samples, c.channels, c.inner};
  const TensorView vx = shaped(x, shape);
  Buffer want_y(y), want_dx(dx), want_dweight(dweight), want_dbias(dbias), want_saved(saved);
  Buffer want_mean(running_mean), want_var(running_var), first_mean(running_mean), first_var(running_var);
  const TensorView vs = shaped(want_saved, {2, c.channels});
  const bool running = c.options || !c.training;
  const BatchNormOptions options = {c.training, 0.1, 1e-5};
  batch_norm_forward(options, vx, running ? &want_mean.view : nullptr, running ? &want_var.view : nullptr,
                     c.options ? &weight.view : nullptr, c.options ? &bias.view : nullptr, shaped(want_y, shape), &vs);

  cuda::BatchNormArrays a = {};
  a.x = x.data();
  a.weight = c.options ? weight.data() : nullptr;
  a.bias = c.options ? bias.data() : nullptr;
  a.running_mean = running ? running_mean.data() : nullptr;
  a.running_var = running ? running_var.data() : nullptr;
  a.saved = saved.data();
  a.out = y.data();
  a.samples = c.samples;
  a.channels = c.channels;
  a.inner = c.inner;
  a.training = c.training;
  a.eps = options.eps;
  a.momentum = options.momentum;
  expect_success(name, cuda::batch_norm_forward(queue, c.dtype, a));
  if (c.training) {
    expect_close(name + ", y", y, want_y, 16, 16);
    expect_close(name + ", saved", saved, want_saved, 4, half ? 4 : 100);
    expect_close(name + ", running_mean", running_mean, want_mean, 4, half ? 4 : 100);
    expect_close(name + ", running_var", running_var, want_var, 4, 10);
  } else {
    expect_same(name + ", y", y, want_y);
    expect_same(name + ", saved", saved, want_saved);
    expect_same(name + ", running_mean", running_mean, want_mean);
    expect_same(name + ", running_var", running_var, want_var);
  }
  Buffer over_x(x);
  a.x = a.out = over_x.data();
  a.running_mean = running ? first_mean.data() : nullptr;
  a.running_var = running ? first_var.data() : nullptr;
  a.saved = nullptr;
  expect_success(name, cuda::batch_norm_forward(many, c.dtype, a));
  expect_same(name + ", y over x by another grid", over_x, y);
  expect_same(name + ", running_mean by another grid", first_mean, running_mean);
  expect_same(name + ", running_var by another grid", first_var, running_var);

  const bool sums = c.options;
  batch_norm_backward(c.training, shaped(dy, shape), vx, vs, c.options ? &weight.view : nullptr, shaped(want_dx, shape),
                      sums ? &want_dweight.view : nullptr, sums ? &want_dbias.view : nullptr);
  a.dy = dy.data();
  a.x = x.data();
  a.saved = want_saved.data();
  a.out = dx.data();
  a.dweight = sums ? dweight.data() : nullptr;
  a.dbias = sums ? dbias.data() : nullptr;
  expect_success(name, cuda::batch_norm_backward(queue, c.dtype, a));
  if (c.training) {
    expect_close(name + ", dx", dx, want_dx, 16, 16);
  } else {
    expect_same(name + ", dx", dx, want_dx);
  }
  const double of_channel = 8 * (double)(c.samples * c.inner);
  if (sums) expect_close(name + ", dweight", dweight, want_dweight, 8, of_channel);
  if (sums) expect_close(name + ", dbias", dbias, want_dbias, 4, of_channel);
  Buffer over_dy(dy), other_dweight(dweight), other_dbias(dbias);
  a.dy = a.out = over_dy.data();
  a.dweight = sums ? other_dweight.data() : nullptr;
  a.dbias = sums ? other_dbias.data() : nullptr;
  expect_success(name, cuda::batch_norm_backward(many, c.dtype, a));
  expect_same(name + ", dx over dy by another grid", over_dy, dx);
  expect_same(name + ", dweight by another grid", other_dweight, dweight);
  expect_same(name + ", dbias by another grid", other_dbias, dbias);
}

void test_batch_norms() {
  for (const Dtype dtype : kDtypes) {
    for (const bool training : {true, false}) {
      for (const bool options : {true, false}) {
        for (const bool aligned : {true, false}) {
          test_batch_norm({dtype, 0, 3, 4, aligned, training, options, false});
          test_batch_norm({dtype, 3, 0, 4, aligned, training, options, false});
          test_batch_norm({dtype, 2, 1, 1, aligned, training, options, false});
          test_batch_norm({dtype, 50, 3, 1, aligned, training, options, false});
          test_batch_norm({dtype, 7, 64, 1, aligned, training, options, false});
          test_batch_norm({dtype, 9, 5, 7, aligned, training, options, false});
          test_batch_norm({dtype, 3, 4, 49, aligned, training, options, false});
        }
        test_batch_norm({dtype, 1, 2, 64, true, training, options, false});
        test_batch_norm({dtype, 30, 16, 4, true, training, options, true});
        test_batch_norm({dtype, 3, 4, 100, true, training, options, true});
      }
      test_batch_norm({dtype, 2500, 70, 1, true, training, true, false});
      test_batch_norm({dtype, 70, 2, 900, true, training, true, false});
    }
  }
}

// A mean that is large beside the deviation costs no digits, and neither does a first element that is far from all.
void test_moments() {
  for (const bool rows : {true, false}) {
    const int64_t n = 5000;
    Buffer x(Dtype::f32, n, 0), y(Dtype::f32, n, 0), saved(Dtype::f32, 2, 0), want(saved);
    fill_about(x, 9, 10000);
    set(x, 0, -20000);
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) mean += get(x, i) / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (get(x, i) - mean) * (get(x, i) - mean);
    set(want, 0, mean);
    set(want, 1, 1 / sqrt(squares / (double)n));
    cuda::BatchNormArrays a = {};
    a.x = x.data();
    a.saved = saved.data();
    a.out = y.data();
    a.samples = rows ? 1 : n;
    a.channels = 1;
    a.inner = rows ? n : 1;
    a.training = true;
    expect_success("moments", cuda::batch_norm_forward(queue, Dtype::f32, a));
    expect_close("batch_norm of a large mean", saved, want, 0, 0);
    cuda::RowNormArrays r = {};
    r.x = x.data();
    r.saved = saved.data();
    r.out = y.data();
    r.rows = 1;
    r.length = n;
    expect_success("moments", find_entry(cuda::row_norms, "layer_norm").forward(queue, Dtype::f32, r));
    expect_close("layer_norm of a large mean", saved, want, 8, 1e-3);
  }
}

}  // namespace

int main() {
  if (!has_same_bits()) return 77;
  test_row_norms();
  test_batch_norms();
  test_moments();
  return report();
}
