// The dense layer on the GPU's ordinary cores, beside the CPU's: float32 and float64 to the bit, and half precision as
// float32, rounded. Column sums, which are added up in another order, are held to the rounding of that.
#include "core/activations.h"
#include "core/dropout.h"
#include "core/linear.h"
#include "cuda_support.h"
// in the namespace that it names
#include "cuda/linear_tensor.h"
#include "cuda/storage.h"

using namespace innerloop;

namespace {

constexpr cuda::Queue queue = {nullptr, 3};

struct Case {
  Dtype dtype;
  int64_t m, n, k;
  const char* activation = "identity";
  bool x_by_columns = false, w_by_columns = false, y_by_columns = false;  // y: dw and dx, too
  bool aligned = true, bias = true, any_bits = false;
  double dropped = 0;

  std::string name() const {
    return std::string(activation) + " " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
           (x_by_columns ? ", x by columns" : "") + (w_by_columns ? ", w by columns" : "") +
           (y_by_columns ? ", y by columns" : "") + (aligned ? "" : ", misaligned") + (bias ? "" : ", no bias") +
           (any_bits ? ", any bits" : "") + (dropped > 0 ? ", dropout" : "");
  }
};

// A matrix on the "device", and the same in what is computed in.
struct Operand {
  Buffer buffer, wide;
  int64_t rows, columns;
  bool by_columns;

  Operand(const Case& c, int64_t rows, int64_t columns, bool by_columns)
      : buffer(c.dtype, rows * columns, c.aligned ? 0 : misaligned(c.dtype, rows * columns)),
        wide(compute_dtype(c.dtype), rows * columns, 0),
        rows(rows),
        columns(columns),
        by_columns(by_columns) {}
  Operand& fill(const Case& c, uint64_t seed) {
    buffer.fill(seed, c.any_bits);
    widen(buffer, wide);
    return *this;
  }
  static void widen(const Buffer& from, Buffer& to) {
    if (!is_half(from.dtype)) {
      memcpy(to.data(), from.data(), (size_t)from.size * dtype_size(from.dtype));
      return;
    }
    for (int64_t i = 0; i < from.size; i++) {
      cuda::Vec<float, 1> x;
      if (from.dtype == Dtype::bf16) {
        cuda::load_piece<cuda::Bfloat16, 1>(from.data() + 2 * i, true, 1, &x);
      } else {
        cuda::load_piece<cuda::Float16, 1>(from.data() + 2 * i, true, 1, &x);
      }
      x.store(to.data() + 4 * i);
    }
  }
  static void narrow(const Buffer& from, Buffer& to) {
    if (!is_half(to.dtype)) {
      memcpy(to.data(), from.data(), (size_t)from.size * dtype_size(from.dtype));
      return;
    }
    for (int64_t i = 0; i < from.size; i++) {
      const auto x = cuda::Vec<float, 1>::load(from.data() + 4 * i);
      if (to.dtype == Dtype::bf16) {
        cuda::store_piece<cuda::Bfloat16, 1>(&x, to.data() + 2 * i, true, 1);
      } else {
        cuda::store_piece<cuda::Float16, 1>(&x, to.data() + 2 * i, true, 1);
      }
    }
  }

  TensorView view(const Buffer& b) const {
    TensorView v = b.view;
    const auto item = (ptrdiff_t)dtype_size(b.dtype);
    v.ndim = 2;
    v.shape[0] = rows;
    v.shape[1] = columns;
    v.strides[0] = by_columns ? item : columns * item;
    v.strides[1] = by_columns ? rows * item : item;
    return v;
  }
  TensorView wide_view() const { return view(wide); }
  Matrix matrix() const {
    const TensorView v = view(buffer);
    return {v.data, v.strides[0], v.strides[1], nullptr, storage_code(v.dtype)};
  }
  // What is in `wide`, stored, is what `buffer` should hold.
  void expect(const std::string& what) const {
    Buffer want(buffer);
    narrow(wide, want);
    expect_same(what, buffer, want);
  }
};

double number_at(const Buffer& b, int64_t i) {
  return b.dtype == Dtype::f64 ? reinterpret_cast<const double*>(b.data())[i]
                               : reinterpret_cast<const float*>(b.data())[i];
}

void test(const Case& c) {
  const Activation& activation = find_activation(c.activation);
  double parameters[kMaxParameters] = {};
  for (int i = 0; i < activation.parameter_count; i++) parameters[i] = activation.parameters[i].default_value;
  int number = 0;
  while (strcmp(kernels().activations->data[number].name, c.activation) != 0) number++;
  const DropoutWork work = {1234567890123, 5, c.dropped};
  const DropoutWork* dropout = c.dropped > 0 ? &work : nullptr;
  const bool identity = strcmp(c.activation, "identity") == 0;

  Operand x(c, c.m, c.k, c.x_by_columns), w(c, c.k, c.n, c.w_by_columns), b(c, 1, c.n, false);
  x.fill(c, 1);
  w.fill(c, 2);
  b.fill(c, 3);
  Operand y(c, c.m, c.n, c.y_by_columns), z(c, c.m, c.n, false);
  TensorView bias = b.wide.view;
  const TensorView want_y = y.wide_view(), want_z = z.wide_view();
  Weight weight;
  weight.view = w.wide_view();
  linear_forward(activation, parameters, x.wide_view(), weight, c.bias ? &bias : nullptr, want_y, &want_z, dropout);

  Linear l = {};
  l.m = c.m;
  l.n = c.n;
  l.k = c.k;
  l.x = x.matrix();
  l.w = w.matrix();
  l.y = y.matrix();
  l.z = z.matrix();
  const auto item = (ptrdiff_t)dtype_size(c.dtype);
  if (c.bias) l.bias = {b.buffer.data(), item, storage_code(c.dtype)};
  l.activation = number;
  l.parameters = parameters;
  l.dropout = dropout;
  l.keeps_output = dropout != nullptr && activation.saves_output;
  expect_success(c.name(), cuda::linear_forward(queue, c.dtype, false, l));
  y.expect(c.name() + ", y");
  z.expect(c.name() + ", z");

  Operand dy(c, c.m, c.n, c.y_by_columns), dz(c, c.m, c.n, false);
  dy.fill(c, 4);
  Operand& saved = activation.saves_output && dropout == nullptr ? y : z;
  Operand::widen(saved.buffer, saved.wide);
  // dz is rounded to the dtype, as what a product reads.
  const TensorView dz_view = dz.wide_view();
  Operand kept(c, c.m, c.n, false);
  const TensorView kept_view = kept.wide_view();
  const DropoutWork none = {0, 0, 0};
  innerloop::dropout(dropout != nullptr ? work : none, dy.wide_view(), kept_view);
  activation_backward(activation, parameters, kept_view, saved.wide_view(), activation.saves_output, dz_view);
  Buffer unrounded(dz.wide);
  Operand::narrow(dz.wide, dz.buffer);
  Operand::widen(dz.buffer, dz.wide);
  Operand dx(c, c.m, c.k, c.y_by_columns), dw(c, c.k, c.n, c.y_by_columns), db(c, 1, c.n, false);
  const TensorView dx_view = dx.wide_view(), dw_view = dw.wide_view();
  linear_backward(find_activation("identity"), parameters, dz.wide_view(), x.wide_view(), weight, nullptr, &dx_view,
                  dw_view, nullptr);

  LinearBackward back = {};
  back.m = c.m;
  back.n = c.n;
  back.k = c.k;
  back.dy = dy.matrix();
  back.x = l.x;
  back.w = l.w;
  back.dx = dx.matrix();
  back.dw = dw.matrix();
  if (!identity) back.saved = saved.matrix();
  if (c.bias) back.db = {db.buffer.data(), item, storage_code(c.dtype)};
  back.activation = number;
  back.parameters = parameters;
  expect_success(c.name(), cuda::linear_backward(queue, c.dtype, false, back, dropout));
  dx.expect(c.name() + ", dx");
  dw.expect(c.name() + ", dw");
  if (!c.bias || c.any_bits) return;
  Operand::widen(db.buffer, db.wide);
  const double unit = c.dtype == Dtype::f64 ? 2.3e-16 : 1.2e-7;
  const double last = c.dtype == Dtype::bf16 ? 0.004 : c.dtype == Dtype::f16 ? 0.0005 : 0;
  compared++;
  for (int64_t j = 0; j < c.n; j++) {
    double sum = 0, size = 0;
    for (int64_t i = 0; i < c.m; i++) {
      sum += number_at(unrounded, i * c.n + j);
      size += fabs(number_at(unrounded, i * c.n + j));
    }
    const double got = number_at(db.wide, j);
    if (!(fabs(sum) < (c.dtype == Dtype::f16 ? 65000 : 1e38))) continue;
    const double least = c.dtype == Dtype::f16 ? 3.1e-8 : 0;  // half of the smallest subnormal
    if (fabs(got - sum) <= size * unit * (8 + sqrt((double)c.m)) + last * fabs(sum) + least) continue;
    if (++failures <= 20) printf("DIFFERS: %s, db[%d] is %g, not %g\n", c.name().c_str(), (int)j, got, sum);
    break;
  }
}

// Chunks of rows or of classes: what is there already is gone on from, in the bits of the whole.
void test_accumulate(Dtype dtype) {
  Case c = {dtype, 37, 21, 45};
  Operand dy(c, c.m, c.n, false), x(c, c.m, c.k, false), w(c, c.k, c.n, true);
  dy.fill(c, 1);
  x.fill(c, 2);
  w.fill(c, 3);
  Operand dx(c, c.m, c.k, false), dw(c, c.k, c.n, true), db(c, 1, c.n, false);
  const TensorView dx_view = dx.wide_view(), dw_view = dw.wide_view();
  Weight weight;
  weight.view = w.wide_view();
  linear_backward(find_activation("identity"), nullptr, dy.wide_view(), x.wide_view(), weight, nullptr, &dx_view,
                  dw_view, nullptr);
  LinearBackward l = {};
  l.n = c.n;
  l.k = c.k;
  l.w = w.matrix();
  l.dw = dw.matrix();
  l.activation = identity_index();
  for (const int64_t first : {int64_t(0), int64_t(20)}) {
    l.m = first == 0 ? 20 : c.m - first;
    l.dy = dy.matrix();
    l.dy.data += first * l.dy.row;
    l.x = x.matrix();
    l.x.data += first * l.x.row;
    l.dx = dx.matrix();
    l.dx.data += first * l.dx.row;
    l.accumulate_dw = first > 0;
    expect_success("in chunks", cuda::linear_backward(queue, dtype, false, l, nullptr));
  }
  dx.expect("dx in chunks");
  dw.expect("dw in chunks");
}

// What tensor cores are told of a product, done as they would do it.
void multiply_as_told(const cuda::TensorProduct& t) {
  const auto *a = static_cast<const float*>(t.a), *b = static_cast<const float*>(t.b);
  const auto* bias = static_cast<const float*>(t.bias);
  auto *y = static_cast<float*>(t.y), *z = static_cast<float*>(t.z);
  for (int64_t i = 0; i < t.m; i++) {
    for (int64_t j = 0; j < t.n; j++) {
      float sum = t.accumulate ? y[i * t.y_step + j] : 0;
      for (int64_t k = 0; k < t.k; k++) {
        sum = fmaf(a[t.a_by_columns ? k * t.a_step + i : i * t.a_step + k],
                   b[t.b_by_columns ? j * t.b_step + k : k * t.b_step + j], sum);
      }
      if (bias != nullptr) sum += bias[j];
      if (z != nullptr) z[i * t.z_step + j] = sum;
      cuda::Lanes<float, 1> one = {sum};
      y[i * t.y_step + j] = cuda::activate(t.act, one).lane[0].v;
    }
  }
}

void test_told(const Case& c, bool fits) {
  Operand x(c, c.m, c.k, c.x_by_columns), w(c, c.k, c.n, c.w_by_columns), b(c, 1, c.n, false);
  x.fill(c, 1);
  w.fill(c, 2);
  b.fill(c, 3);
  Operand y(c, c.m, c.n, false), z(c, c.m, c.n, false);
  TensorView bias = b.wide.view;
  const TensorView want_y = y.wide_view(), want_z = z.wide_view();
  Weight weight;
  weight.view = w.wide_view();
  const Activation& activation = find_activation(c.activation);
  linear_forward(activation, nullptr, x.wide_view(), weight, c.bias ? &bias : nullptr, want_y, &want_z);
  cuda::Product p = {};
  p.m = c.m;
  p.n = c.n;
  p.k = c.k;
  p.a = x.matrix();
  p.b = w.matrix();
  p.y = y.matrix();
  p.z = z.matrix();
  if (c.bias) p.bias = {b.buffer.data(), 0, sizeof(float), nullptr, Storage::full};
  while (strcmp(kernels().activations->data[p.act.number].name, c.activation) != 0) p.act.number++;
  cuda::TensorProduct told;
  compared++;
  if (cuda::fits_tensor_cores(p, sizeof(float), told) != fits && ++failures <= 20) {
    printf("DIFFERS: %s is %staken by tensor cores\n", c.name().c_str(), fits ? "not " : "");
  }
  if (!fits) return;
  multiply_as_told(told);
  y.expect(c.name() + ", y as told");
  z.expect(c.name() + ", z as told");
}

void test_told() {
  for (int orders = 0; orders < 4; orders++) {
    const bool x = orders & 1, w = orders & 2;
    test_told({Dtype::f32, 12, 20, 8, "silu", x, w}, !(x && w));
    test_told({Dtype::f32, 9, 20, 8, "tanh", x, w, false, true, false}, !x);
    test_told({Dtype::f32, 12, 20, 8, "silu", x, w, false, false}, false);
    test_told({Dtype::f32, 12, 21, 8, "silu", x, w}, false);
    test_told({Dtype::f32, 12, 20, 7, "silu", x, w}, x && !w);
    test_told({Dtype::f32, 12, 20, 0, "silu", x, w}, false);
  }
}

// The pass that follows where tensor cores did the product alone, in place and not.
template <class S>
void test_finish(Dtype dtype, int64_t m, int64_t n, bool dropped) {
  const Case c = {dtype, m, n, 0};
  const std::string name = "finish of " + std::to_string(m) + " x " + std::to_string(n);
  Operand sums(c, m, n, false), y(c, m, n, false), z(c, m, n, false);
  sums.fill(c, 5);
  const DropoutWork work = {7, 8, 0.3};
  const TensorView z_view = z.wide_view(), y_view = y.wide_view();
  activation_forward(find_activation("gelu"), nullptr, sums.wide_view(), z_view);
  innerloop::dropout(dropped ? work : DropoutWork{0, 0, 0}, z_view, y_view);
  int number = 0;
  while (strcmp(kernels().activations->data[number].name, "gelu") != 0) number++;
  const cuda::FinishPass<S> apart(m, n, sums.matrix(), y.matrix(), z.matrix(), cuda::make_act(number, nullptr),
                                  cuda::make_drop(dropped ? &work : nullptr, n, 1));
  expect_success(name, cuda::launch<cuda::FinishPass<S>::threads>(queue, 2, apart));
  y.expect(name + ", y");
  z.expect(name + ", z");
  const cuda::FinishPass<S> in_place(m, n, sums.matrix(), sums.matrix(), {}, cuda::make_act(number, nullptr),
                                     cuda::make_drop(dropped ? &work : nullptr, n, 1));
  expect_success(name, cuda::launch<cuda::FinishPass<S>::threads>(queue, 2, in_place));
  expect_same(name + ", in place", sums.buffer, y.buffer);
}

}  // namespace

int main() {
  if (!has_same_bits()) return 77;
  constexpr Dtype dtypes[] = {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16};
  for (const Dtype dtype : dtypes) {
    for (const int64_t m : {0, 1, 3, 65}) {
      for (const int64_t n : {0, 1, 4, 67}) {
        for (const int64_t k : {0, 1, 16, 37}) test({dtype, m, n, k, "gelu", false, (m + n + k) % 2 == 1});
      }
    }
    for (int orders = 0; orders < 8; orders++) {
      for (const bool aligned : {true, false}) {
        const bool x = orders & 1, w = orders & 2, y = orders & 4;
        test({dtype, 72, 80, 48, "tanh", x, w, y, aligned});
        test({dtype, 33, 70, 19, "silu", x, w, y, aligned, aligned});
        test({dtype, 21, 18, 35, "sigmoid", x, w, y, aligned, true, false, 0.4});
        test({dtype, 9, 12, 8, "mish", x, w, y, aligned, true, false, 0.7});
      }
    }
    for (const Activation& activation : *kernels().activations) {
      test({dtype, 5, 9, 6, activation.name});
      test({dtype, 20, 37, 33, activation.name, false, true, false, true, true, true});
    }
  }
  // Tiles of 128: where there are as many as multiprocessors; more chunks of rows than one.
  test({Dtype::f32, 130, 300, 130, "gelu"});
  test({Dtype::f32, 300, 258, 50, "softplus", true, true, true, true});
  test({Dtype::f32, 257, 259, 33, "relu", false, true, false, false, true, true});
  test({Dtype::f64, 300, 33, 20, "gelu_tanh"});
  test({Dtype::bf16, 700, 300, 9, "silu"});
  test_accumulate(Dtype::f32);
  test_accumulate(Dtype::f64);
  test_told();
  for (const bool dropped : {false, true}) {
    for (const int64_t n : {1, 8, 259, 520}) {
      test_finish<cuda::Bfloat16>(Dtype::bf16, 50, n, dropped);
      test_finish<float>(Dtype::f32, 33, n, dropped);
    }
  }
  return report();
}
