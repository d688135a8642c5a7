// The GPU's softmaxes and losses over rows, run on the host by tests/cpp/emulator, beside the CPU's: within a
// tolerance, as sums are taken in another order; and what they do with labels that are no class.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.h"
#include "core/nll_loss.h"
#include "core/softmax.h"
#include "core/softmax_cross_entropy.h"
#include "emulator/device_memory.h"
#include "support.h"

#define INNERLOOP_ISA cuda
#include "cuda/list.h"
#include "cuda/storage.h"

using namespace innerloop;

namespace {

int failures = 0, compared = 0;
const cuda::Queue queue = {nullptr, emulator::kProcessors, 98 * 1024};  // as most GPUs but Hopper have

double get(Dtype dtype, const char* p, int64_t i) {
  float single;
  double wide;
  uint16_t half;
  switch (dtype) {
    case Dtype::f32:
      memcpy(&single, p + 4 * i, 4);
      return single;
    case Dtype::f64:
      memcpy(&wide, p + 8 * i, 8);
      return wide;
    default:
      memcpy(&half, p + 2 * i, 2);
      return dtype == Dtype::bf16 ? cuda::widen(cuda::Bfloat16{half}).v : cuda::widen(cuda::Float16{half}).v;
  }
}
void set(Dtype dtype, char* p, int64_t i, double x) {
  const auto single = (float)x;
  cuda::Bfloat16 bf16;
  cuda::Float16 f16;
  const auto integer = (int64_t)x;
  switch (dtype) {
    case Dtype::f32:
      memcpy(p + 4 * i, &single, 4);
      break;
    case Dtype::f64:
      memcpy(p + 8 * i, &x, 8);
      break;
    case Dtype::bf16:
      cuda::narrow(single, bf16);
      memcpy(p + 2 * i, &bf16, 2);
      break;
    case Dtype::f16:
      cuda::narrow(single, f16);
      memcpy(p + 2 * i, &f16, 2);
      break;
    default: {  // little-endian
      const auto item = (int64_t)dtype_size(dtype);
      memcpy(p + item * i, &integer, (size_t)item);
    }
  }
}

// Memory of the emulated device, which ends where a page does, give or take what brings it to a multiple of 16 bytes or
// not; freeing it sees whether anything was written beside it.
struct Device {
  Dtype dtype;
  Shape shape;
  char* data;

  Device(Dtype dtype, const Shape& shape, bool to_16 = true) : dtype(dtype), shape(shape) {
    data = (char*)emulator::allocate((size_t)size() * dtype_size(dtype), to_16 ? 16 : dtype_size(dtype));
  }
  Device(const Device&) = delete;
  ~Device() { emulator::release(data); }

  int64_t size() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
  TensorView view() const {
    TensorView t;
    t.name = "array";
    t.data = data;
    t.dtype = dtype;
    t.writeable = true;
    t.ndim = (int)shape.size();
    ptrdiff_t stride = (ptrdiff_t)dtype_size(dtype);
    for (int d = t.ndim - 1; d >= 0; d--) {
      t.shape[d] = shape[(size_t)d];
      t.strides[d] = stride;
      stride *= (ptrdiff_t)shape[(size_t)d];
    }
    return t;
  }
  double at(int64_t i) const { return get(dtype, data, i); }
  void put(int64_t i, double x) { set(dtype, data, i, x); }
  void fill(uint64_t seed, double low, double high) {
    Numbers numbers{seed};
    for (int64_t i = 0; i < size(); i++) put(i, low + (numbers.next() / 8 + 0.5) * (high - low));
  }
  void copy(const Device& other) { memcpy(data, other.data, (size_t)size() * dtype_size(dtype)); }
};

// Of what is computed in: some more than what the orders of summing differ by. Half precision: one step.
double tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 1e-14;
    case Dtype::f32:
      return 5e-6;
    case Dtype::bf16:
      return 0x1p-7;
    default:
      return 0x1p-10;
  }
}

// Each beside the other, relative to it and to `floor`.
void expect_close(const std::string& what, const Device& got, const Device& want, double floor) {
  compared++;
  const double tol = tolerance(got.dtype), tiny = got.dtype == Dtype::f16 ? 0x1p-24 : 0;
  for (int64_t i = 0; i < got.size(); i++) {
    const double a = got.at(i), b = want.at(i);
    if (a == b || (a != a && b != b)) continue;
    if (fabs(a - b) <= tol * (fabs(b) + floor) + tiny) continue;
    if (++failures <= 20) {
      printf("DIFFERS: %s, %s: %.9g at %lld of %lld, not %.9g\n", what.c_str(), dtype_name(got.dtype), a, (long long)i,
             (long long)got.size(), b);
    }
    return;
  }
}
// Of the finite elements.
double largest(const Device& x) {
  double most = 0;
  for (int64_t i = 0; i < x.size(); i++) {
    const double a = fabs(x.at(i));
    if (a > most && a < INFINITY) most = a;
  }
  return most;
}
void expect(bool holds, const std::string& what) {
  compared++;
  if (!holds && ++failures <= 20) printf("FAILS: %s\n", what.c_str());
}

struct Random {
  uint64_t state;
  int below(int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)n);
  }
};

// Rows that are masked, hold nothing but -inf, NaN or +inf; the first is always a common one.
void put_special(Device& x, Random& random) {
  const int64_t outer = x.shape[0], length = x.shape[1], inner = x.shape[2];
  for (int64_t row = 1; row < outer * inner; row++) {
    const int kind = random.below(8);
    char* const base = x.data + (row / inner * length * inner + row % inner) * (int64_t)dtype_size(x.dtype);
    for (int64_t c = 0; c < length; c++) {
      if (kind == 0 || (kind < 3 && c % 3 != 1) || (kind == 3 && c < length / 2))
        set(x.dtype, base, c * inner, -INFINITY);
    }
    if (kind == 4 && length > 0) set(x.dtype, base, random.below((int)length) * inner, NAN);
    if (kind == 5 && length > 0) set(x.dtype, base, random.below((int)length) * inner, INFINITY);
  }
}

std::string text(const std::string& what, const Shape& shape) { return what + " of " + shape_text(shape); }

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  const int64_t rows[] = {3, 1, 70, 0};
  int turn = 0;
  for (const int64_t length : {1,   2,   3,   7,   8,   9,   10,  15,   16,   17,   31,   33,   63,   64,   65,  100,
                               127, 129, 255, 256, 257, 511, 513, 1000, 1021, 1024, 1025, 1500, 2033, 2041, 2048}) {
    all.push_back({rows[turn++ % 3], length, 1});
  }
  all.insert(all.end(), {{3, 0, 1}, {0, 5, 1}, {2, 0, 3}, {0, 3, 4}, {2, 4, 0}, {1, 1, 1}, {1, 1, 7}});
  all.insert(all.end(), {{7, 2500, 1}, {5, 4097, 1}, {3, 8200, 1}, {2, 17001, 1}, {1, 40000, 1}, {2, 120001, 1}});
  all.insert(all.end(), {{2, 3, 5}, {3, 21, 70}, {1, 33, 300}, {2, 40, 3}, {1, 300, 33}, {2, 2500, 3}, {5, 7, 256}});
  return all;
}

void test_softmax(Dtype dtype) {
  Random random{(uint64_t)dtype + 5};
  for (const Shape& shape : shapes()) {
    for (int i = 0; i < cuda::softmaxes.count; i++) {
      const cuda::SoftmaxFunction& gpu = cuda::softmaxes.data[i];
      const SoftmaxFunction& cpu = find_softmax(gpu.name);
      const bool logarithm = i == 1, to_16 = random.below(2) != 0;
      const cuda::RowShape rows = {shape[0], shape[1], shape[2]};
      Device x(dtype, shape, to_16), y(dtype, shape, random.below(2) != 0), want(dtype, shape);
      x.fill((uint64_t)random.below(1000), -9, 9);
      if (random.below(3) == 0) put_special(x, random);
      softmax_forward(cpu, x.view(), 1, want.view());
      expect(gpu.forward(queue, dtype, rows, x.data, y.data) == 0, "softmax is launched");
      expect_close(text(gpu.name, shape), y, want, logarithm ? 1 : 0);
      Device dy(dtype, shape, to_16), dx(dtype, shape, random.below(2) != 0), want_dx(dtype, shape);
      dy.fill((uint64_t)random.below(1000), -1, 2);
      softmax_backward(cpu, dy.view(), want.view(), 1, want_dx.view());
      gpu.backward(queue, dtype, rows, dy.data, want.data, dx.data);
      expect_close(text(std::string(gpu.name) + "_backward", shape), dx, want_dx, largest(want_dx));
      // In place: the same bits.
      Device again(dtype, shape, to_16), other(dtype, shape, to_16);
      again.copy(x);
      gpu.forward(queue, dtype, rows, x.data, other.data);
      gpu.forward(queue, dtype, rows, again.data, again.data);
      const size_t bytes = (size_t)again.size() * dtype_size(dtype);
      expect(memcmp(again.data, other.data, bytes) == 0, text("in place, softmax", shape));
    }
  }
}

const Dtype kIntegers[] = {Dtype::i64, Dtype::i32, Dtype::i8,  Dtype::u8,
                           Dtype::i16, Dtype::u16, Dtype::u32, Dtype::u64};

// A random call of softmax_cross_entropy, or of nll_loss, and the CPU's.
void test_loss(Dtype dtype, const Shape& shape, bool nll, bool special, Random& random) {
  const Dtype computed = compute_dtype(dtype);
  const int64_t outer = shape[0], length = shape[1], inner = shape[2], rows = outer * inner;
  const bool probabilities = !nll && random.below(3) == 0;
  const Reduction reduction = (Reduction)random.below(3);
  const bool to_16 = random.below(2) != 0;
  Device x(dtype, shape, to_16);
  x.fill((uint64_t)random.below(1000), -9, nll ? 0 : 9);
  if (special) put_special(x, random);

  Dtype label_dtype = kIntegers[random.below(8)];
  if (dtype_size(label_dtype) == 1 && length > 100) label_dtype = Dtype::i32;
  if (length > 30000) label_dtype = Dtype::i64;
  const bool ignores = !probabilities && random.below(2) == 0;
  const bool is_unsigned =
      label_dtype == Dtype::u8 || label_dtype == Dtype::u16 || label_dtype == Dtype::u32 || label_dtype == Dtype::u64;
  const int64_t ignored = length == 0 || !is_unsigned ? -100 : 0;
  Device target(probabilities ? dtype : label_dtype, probabilities ? shape : Shape{outer, inner},
                to_16 || random.below(2) != 0);
  if (probabilities) {
    target.fill((uint64_t)random.below(1000), 0, 1);
  } else {
    for (int64_t row = 0; row < rows; row++) {
      const bool ignore = length == 0 || (ignores && random.below(3) == 0);
      const double label = ignore ? (double)(length == 0 && is_unsigned ? 0 : ignored) : random.below((int)length);
      target.put(row, label);
      if (!ignore || label != (double)ignored) continue;
      for (int64_t c = 0; c < length && random.below(2) == 0; c++) {  // it may hold anything
        x.put(row / inner * length * inner + row % inner + c * inner, NAN);
      }
    }
  }
  // Only a label that is no class raises a fault; the CPU refuses that.
  const int64_t ignore_index = length == 0 && is_unsigned ? 0 : ignored;

  const bool weighted = random.below(3) == 0, sampled = random.below(3) == 0;
  Device weight(random.below(2) == 0 ? dtype : computed, {length}, false);
  Device sample(random.below(2) == 0 ? dtype : computed, {outer, inner}, false);
  weight.fill(3, 0.1, 2);
  sample.fill(4, 0.1, 2);
  const double smoothing = nll || random.below(2) == 0 ? 0 : 0.1, z_loss = nll || random.below(2) == 0 ? 0 : 0.01;
  const double grad_scale = random.below(2) == 0 ? 1 : -2.5;
  const int gradient = random.below(3);  // none, fresh, in place

  CrossEntropyOptions options;
  options.ignore_index = ignore_index;
  options.label_smoothing = smoothing;
  options.z_loss = z_loss;
  options.reduction = reduction;
  options.grad_scale = grad_scale;
  Device want_losses(computed, {outer, inner}), want_gradient(dtype, shape), want_loss(computed, {1});
  const TensorView target_view = target.view(), weight_view = weight.view(), sample_view = sample.view(),
                   losses_view = want_losses.view(), gradient_view = want_gradient.view();
  const TensorView *w = weighted ? &weight_view : nullptr, *s = sampled ? &sample_view : nullptr,
                   *l = reduction == Reduction::none ? &losses_view : nullptr;
  NllOptions nll_options;
  nll_options.ignore_index = ignore_index;
  nll_options.reduction = reduction;
  nll_options.grad_scale = grad_scale;
  want_loss.put(0, nll ? nll_loss(x.view(), target_view, w, s, nll_options, l, &gradient_view)
                       : softmax_cross_entropy(x.view(), {&target_view, w, s}, options, l, &gradient_view));

  auto storage = [&](const Device& array) {
    if (array.dtype == Dtype::bf16) return Storage::bfloat16;
    return array.dtype == Dtype::f16 ? Storage::float16 : Storage::full;
  };
  Device losses(computed, {outer, inner}, false), loss(computed, {1}, false);
  Device dx(dtype, shape, gradient == 2 ? to_16 : random.below(2) != 0);
  cuda::RowLoss call = {};
  call.dtype = dtype;
  call.target_dtype = target.dtype;
  call.shape = {outer, length, inner};
  call.input = x.data;
  if (gradient == 2) {
    dx.copy(x);
    call.input = dx.data;
  }
  call.target = target.data;
  if (weighted) call.weight = {weight.data, storage(weight)};
  if (sampled) call.sample_weight = {sample.data, storage(sample)};
  call.ignore_index = ignore_index;
  call.grad_scale = grad_scale;
  call.mean = reduction == Reduction::mean;
  call.loss = reduction == Reduction::none ? nullptr : loss.data;
  call.losses = reduction == Reduction::none ? losses.data : nullptr;
  call.gradient = gradient == 0 ? nullptr : dx.data;
  const int error = nll ? cuda::nll_loss(queue, call) : cuda::softmax_cross_entropy(queue, call, smoothing, z_loss);
  char about[200];
  snprintf(about, sizeof about, "%s, %s%s%s%s%s%s, reduction %d, gradient %d", nll ? "nll_loss" : "cross-entropy",
           probabilities ? "probabilities" : dtype_name(label_dtype), ignores ? ", ignoring" : "",
           weighted ? ", weight" : "", sampled ? ", sample_weight" : "", smoothing > 0 ? ", smoothing" : "",
           z_loss > 0 ? ", z_loss" : "", (int)reduction, gradient);
  const std::string what = text(about, shape);
  expect(error == 0, what);
  if (reduction == Reduction::none) {
    expect_close(what + ": losses", losses, want_losses, 10);
  } else {
    expect_close(what + ": loss", loss, want_loss, 10);
  }
  if (gradient != 0) expect_close(what + ": gradient", dx, want_gradient, largest(want_gradient));
  cuda::Fault fault;
  expect(cuda::take_fault(queue, true, &fault) == 0 && fault.none(), what + ": no fault");
}

void test_losses(Dtype dtype) {
  Random random{(uint64_t)dtype + 77};
  for (const Shape& shape : shapes()) {
    const int turns = shape[0] * shape[1] * shape[2] > 20000 ? 3 : 8;
    for (int turn = 0; turn < turns; turn++) test_loss(dtype, shape, false, turn % 4 == 1, random);
    for (int turn = 0; turn < 3; turn++) test_loss(dtype, shape, true, turn == 1, random);
  }
}

// Many rows, whose weights and losses are summed by several blocks.
void test_many_rows() {
  Random random{9};
  for (int turn = 0; turn < 6; turn++) {
    test_loss(Dtype::f32, {turn % 2 == 0 ? 40000 : 1, 3, turn % 2 == 0 ? 1 : 40000}, turn > 3, false, random);
  }
}

// Labels that are no class: counted as ignored, whatever the dtype, and reported, once.
void test_faults() {
  constexpr int64_t rows = 5, classes = 3;
  for (const Dtype integer : kIntegers) {
    for (const bool nll : {false, true}) {
      for (const bool mean : {false, true}) {
        const bool is_unsigned =
            integer == Dtype::u8 || integer == Dtype::u16 || integer == Dtype::u32 || integer == Dtype::u64;
        Device x(Dtype::f32, {rows, classes, 1}), target(integer, {rows, 1}), good(Dtype::i64, {rows, 1});
        x.fill(1, -3, 0);
        const double bad = is_unsigned ? 3 : -1;
        for (int64_t i = 0; i < rows; i++) {
          target.put(i, i == 2 ? bad : (double)(i % 3));
          good.put(i, i == 2 ? -100 : (double)(i % 3));
        }
        if (integer == Dtype::u64) {  // what would be ignore_index, if it had a sign
          const int64_t bits = -100;
          memcpy(target.data + 16, &bits, 8);
        }
        Device loss(Dtype::f32, {1}), want(Dtype::f32, {1}), dx(Dtype::f32, x.shape), want_dx(Dtype::f32, x.shape);
        cuda::RowLoss call = {};
        call.dtype = Dtype::f32;
        call.shape = {rows, classes, 1};
        call.input = x.data;
        call.ignore_index = -100;
        call.grad_scale = 1;
        call.mean = mean;
        auto run = [&](const Device& labels, const Device& into, const Device& gradient) {
          call.target = labels.data;
          call.target_dtype = labels.dtype;
          call.loss = into.data;
          call.gradient = gradient.data;
          return nll ? cuda::nll_loss(queue, call) : cuda::softmax_cross_entropy(queue, call, 0, 0);
        };
        cuda::Fault fault;
        const std::string what = std::string("a wrong label of ") + dtype_name(integer);
        expect(run(good, want, want_dx) == 0 && cuda::take_fault(queue, false, &fault) == 0 && fault.none(), what);
        expect(run(target, loss, dx) == 0 && cuda::take_fault(queue, mean, &fault) == 0, what);
        expect(!fault.none() && fault.classes() == classes && fault.is_unsigned() == (integer == Dtype::u64) &&
                   fault.label == (integer == Dtype::u64 ? -100 : (int64_t)bad),
               what + " is reported");
        expect(cuda::take_fault(queue, true, &fault) == 0 && fault.none(), what + " is reported once");
        expect_close(what + ": loss", loss, want, 0);
        expect_close(what + ": gradient", dx, want_dx, 0);
      }
    }
  }
}

// Where memory ends, nothing is written and nothing is lost.
void test_memory() {
  Device x(Dtype::f32, {4, 5, 1}), target(Dtype::i64, {4, 1}), loss(Dtype::f32, {1}), dx(Dtype::f32, x.shape);
  x.fill(1, -3, 3);
  for (int64_t i = 0; i < 4; i++) target.put(i, 1);
  Device before(Dtype::f32, x.shape);
  before.copy(dx);
  cuda::RowLoss call = {};
  call.dtype = Dtype::f32;
  call.target_dtype = Dtype::i64;
  call.shape = {4, 5, 1};
  call.input = x.data;
  call.target = target.data;
  call.ignore_index = -100;
  call.grad_scale = 1;
  call.mean = true;
  call.loss = loss.data;
  call.gradient = dx.data;
  const int64_t arrays = emulator::array_count();
  emulator::fail_after(0);
  expect(cuda::softmax_cross_entropy(queue, call, 0, 0) != 0, "without memory, an error");
  emulator::fail_after(-1);
  expect(memcmp(before.data, dx.data, (size_t)dx.size() * 4) == 0, "without memory, nothing is written");
  expect(cuda::softmax_cross_entropy(queue, call, 0, 0) == 0, "afterwards it works");
  expect(emulator::array_count() == arrays, "scratch is given back");
}

}  // namespace

int main() {
  if (!kernels().has_fma) {
    printf("this machine has no fused multiply-add: the numbers would differ\n");
    return 77;
  }
  for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16}) {
    test_softmax(dtype);
    test_losses(dtype);
  }
  test_many_rows();
  test_faults();
  test_memory();
  printf("%d comparisons, %d differ\n", compared, failures);
  return failures > 0;
}
