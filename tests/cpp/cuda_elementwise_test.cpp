// The GPU's dropout, gated pairs, prelu and elementwise losses, beside the CPU's.
#include "core/dropout.h"
#include "core/elementwise_losses.h"
#include "core/gated.h"
#include "core/prelu.h"
#include "cuda_sums_support.h"

using namespace innerloop;

namespace {

void test_dropout(Dtype dtype, int64_t size, bool aligned, const DropoutWork& work) {
  const std::string name = "dropout of " + std::to_string(work.p) + (aligned ? "" : ", misaligned");
  const int64_t offset = aligned ? 0 : misaligned(dtype, size);
  Buffer x(dtype, size, 0), y(dtype, size, offset);
  x.fill(7);
  Buffer want(y), in_place(x);
  dropout(work, x.view, want.view);
  expect_success(name, cuda::dropout(queue, dtype, work, elements(x, y)));
  expect_same(name, y, want);
  expect_success(name, cuda::dropout(queue, dtype, work, elements(in_place, in_place)));
  expect_same(name + ", in place", in_place, want);
}

void test_dropouts() {
  for (const Dtype dtype : kDtypes) {
    const int64_t w = 16 / (int64_t)dtype_size(dtype);
    for (const bool aligned : {true, false}) {
      for (const int64_t size : {int64_t(0), int64_t(1), int64_t(3), w - 1, w, w + 1, 5 * w, 300 * w + 1}) {
        test_dropout(dtype, size, aligned, {5, 6, 0.3});
      }
      test_dropout(dtype, (kThreads + 5) * w + 1, aligned, {~uint64_t(0), uint64_t(1) << 40, 0.5});
      for (const double p : {0.0, 1.0}) test_dropout(dtype, 50, aligned, {1, 0, p});
    }
  }
}

void test_gated(const cuda::GatedPair& gpu, Dtype dtype, int64_t rows, int64_t length, int64_t inner, bool aligned) {
  const GatedPair& cpu = find_gated(gpu.name);
  const std::string name = gpu.name + shape_text({rows, length, inner}) + (aligned ? "" : ", misaligned");
  const int64_t size = rows * length * inner, offset = aligned ? 0 : misaligned(dtype, size);
  Buffer x(dtype, 2 * size, 0), dy(dtype, size, offset), y(dtype, size, offset), dx(dtype, 2 * size, 2 * offset);
  x.fill(3);
  dy.fill(4);
  Buffer want_y(y), want_dx(dx);
  const Shape half = {rows, length, inner}, whole = {rows, 2 * length, inner};
  gated_forward(cpu, shaped(x, whole), 1, shaped(want_y, half));
  expect_success(name, gpu.forward(queue, dtype, {nullptr, x.data(), y.data(), rows, length * inner}));
  expect_same(name + ", forward", y, want_y);
  gated_backward(cpu, shaped(dy, half), shaped(x, whole), 1, shaped(want_dx, whole));
  expect_success(name, gpu.backward(queue, dtype, {dy.data(), x.data(), dx.data(), rows, length * inner}));
  expect_same(name + ", backward", dx, want_dx);
}

void test_gated_pairs() {
  for (const cuda::GatedPair& gpu : cuda::gated) {
    for (const Dtype dtype : kDtypes) {
      for (const bool aligned : {true, false}) {
        test_gated(gpu, dtype, 0, 3, 1, aligned);
        test_gated(gpu, dtype, 3, 0, 2, aligned);
        test_gated(gpu, dtype, 1, 1, 1, aligned);
        test_gated(gpu, dtype, 37, 3, 1, aligned);
        test_gated(gpu, dtype, 5, 8, 1, aligned);
        test_gated(gpu, dtype, 3, 7, 5, aligned);
        test_gated(gpu, dtype, 2, 64, 3, aligned);
        test_gated(gpu, dtype, kThreads / 4, 17, 1, aligned);
      }
    }
  }
}

void test_prelu(Dtype dtype, int64_t samples, int64_t channels, int64_t inner, bool single, bool aligned) {
  const int64_t size = samples * channels * inner, offset = aligned ? 0 : misaligned(dtype, size);
  const std::string name = "prelu " + shape_text({samples, channels, inner}) + (aligned ? "" : ", misaligned");
  Buffer x(dtype, size, 0), dy(dtype, size, offset), y(dtype, size, offset), dx(dtype, size, offset);
  Buffer weight(dtype, single ? 1 : channels, offset), dweight(dtype, weight.size, offset);
  x.fill(11);
  dy.fill(12);
  weight.fill(13, false);
  Buffer want_y(y), want_dx(dx), want_dweight(dweight);
  const Shape shape = {samples, channels, inner};
  prelu_forward(shaped(x, shape), weight.view, shaped(want_y, shape));
  cuda::PreluArrays a = {nullptr, x.data(), weight.data(), y.data(), nullptr, samples, channels, inner};
  if (single) a.samples = a.channels = 1, a.inner = size;
  expect_success(name, cuda::prelu_forward(queue, dtype, a));
  expect_same(name + ", forward", y, want_y);

  const auto backward = [&](Buffer& of_dx, Buffer& of_dweight, const cuda::Queue& on) {
    a.dy = dy.data();
    a.x = x.data();
    a.out = of_dx.data();
    a.dweight = of_dweight.data();
    expect_success(name, cuda::prelu_backward(on, dtype, a));
  };
  prelu_backward(shaped(dy, shape), shaped(x, shape), weight.view, shaped(want_dx, shape), want_dweight.view);
  backward(dx, dweight, queue);
  expect_same(name + ", dx", dx, want_dx);
  fill_plain(x, 14);
  fill_plain(dy, 15);
  prelu_backward(shaped(dy, shape), shaped(x, shape), weight.view, shaped(want_dx, shape), want_dweight.view);
  Buffer other(dweight);
  backward(dx, other, many);
  backward(dy, dweight, queue);
  expect_same(name + ", dx over dy", dy, want_dx);
  expect_same(name + ", dweight by another grid", other, dweight);
  expect_close(name + ", dweight", dweight, want_dweight, 4, 4 * (double)size / (double)weight.size);
}

void test_prelus() {
  for (const Dtype dtype : kDtypes) {
    for (const bool aligned : {true, false}) {
      for (const bool single : {true, false}) {
        test_prelu(dtype, 0, 3, 2, single, aligned);
        test_prelu(dtype, 1, 1, 1, single, aligned);
        test_prelu(dtype, 7, 3, 1, single, aligned);
        test_prelu(dtype, 700, 5, 1, single, aligned);
        test_prelu(dtype, 9, 64, 1, single, aligned);
        test_prelu(dtype, 40, 33, 3, single, aligned);
        test_prelu(dtype, 5, 3, 16, single, aligned);
        test_prelu(dtype, 3, 2, 9001, single, aligned);
      }
    }
    test_prelu(dtype, 1500, 300, 1, false, true);
    test_prelu(dtype, 2, 1, 300000, true, true);
  }
}

// Weights whose sums are exact in any order.
void fill_eighths(Buffer& b, uint64_t seed) {
  Numbers numbers{seed};
  for (int64_t i = 0; i < b.size; i++) set(b, i, (double)(int)(numbers.next() * 4 + 17) / 8);
}

enum class Weighing { none, same, wide };
struct LossCase {
  Dtype dtype;
  int64_t size;
  bool aligned, any_bits;
  Weighing weighing;      // of the sample weights, and of the third array
  int64_t inner, period;  // of the third array
  Reduction reduction;
};

void test_loss(const cuda::ElementwiseLoss& gpu, const LossCase& c) {
  const ElementwiseLoss& cpu = find_elementwise_loss(gpu.name);
  if (c.reduction == Reduction::batchmean && !cpu.batchmean) return;
  const std::string name = std::string(gpu.name) + ", reduction " + std::to_string((int)c.reduction) + ", weights " +
                           std::to_string((int)c.weighing) + (c.aligned ? "" : ", misaligned");
  const Dtype computed = compute_dtype(c.dtype), of_weights = c.weighing == Weighing::wide ? computed : c.dtype;
  const int64_t offset = c.aligned ? 0 : misaligned(c.dtype, c.size);
  Buffer pred(c.dtype, c.size, 0), target(c.dtype, c.size, offset), gradient(c.dtype, c.size, offset);
  Buffer losses(computed, c.size, offset), loss(computed, 1, 0), weights(of_weights, c.size, offset);
  const bool takes_array = cpu.array != nullptr && c.weighing != Weighing::none;
  Buffer array(of_weights, c.period, offset);
  fill_eighths(weights, 21);
  fill_eighths(array, 22);
  pred.fill(23, c.any_bits);
  target.fill(24, c.any_bits);
  for (int64_t i = 0; i < c.size && cpu.pred_range != nullptr; i++) {
    set(pred, i, i == 3 ? 1 : i == 5 ? 0 : fabs(sin((double)i)));
  }
  Buffer expanded(of_weights, c.size, 0);
  for (int64_t i = 0; i < c.size; i++) set(expanded, i, get(array, i / c.inner % c.period));
  const Shape shape = {c.size % 2 == 0 ? 2 : 1, c.size % 2 == 0 ? c.size / 2 : c.size};
  const TensorView vp = shaped(pred, shape), vt = shaped(target, shape), vw = shaped(weights, shape);
  const TensorView va = shaped(expanded, shape);
  double parameters[kMaxParameters] = {};
  for (int i = 0; i < cpu.parameter_count; i++) {
    const Parameter& p = cpu.parameters[i];
    parameters[i] = c.weighing == Weighing::wide && p.is_flag ? 1 - p.default_value : p.default_value;
  }
  const bool weighted = c.weighing != Weighing::none, none = c.reduction == Reduction::none;
  Buffer want_gradient(gradient), want_losses(losses);
  const TensorView vl = shaped(want_losses, shape), vg = shaped(want_gradient, shape);
  const ElementwiseLossInputs inputs = {&vp, &vt, weighted ? &vw : nullptr, takes_array ? &va : nullptr};
  const double want = elementwise_loss(cpu, parameters, inputs, c.reduction, 3, none ? &vl : nullptr, &vg);
  elementwise_loss(cpu, parameters, inputs, Reduction::none, 3, &vl, nullptr);

  cuda::ElementwiseLossArrays a = {};
  a.parameters = parameters;
  a.pred = pred.data();
  a.target = target.data();
  const Storage storage = of_weights == Dtype::bf16  ? Storage::bfloat16
                          : of_weights == Dtype::f16 ? Storage::float16
                                                     : Storage::full;
  a.sample_weight = {weighted ? weights.data() : nullptr, storage};
  a.array = {takes_array ? array.data() : nullptr, storage};
  a.array_inner = c.inner;
  a.array_period = c.period;
  a.losses = none ? losses.data() : nullptr;
  a.loss = none ? nullptr : loss.data();
  a.gradient = gradient.data();
  a.size = c.size;
  a.divisor = c.reduction == Reduction::mean        ? (double)c.size
              : c.reduction == Reduction::batchmean ? (double)shape[0]
                                                    : 1;
  a.divide_by_weights = c.reduction == Reduction::mean;
  a.grad_scale = 3;
  expect_success(name, gpu.run(queue, c.dtype, a));
  expect_same(name + ", gradient", gradient, want_gradient);
  if (none) expect_same(name + ", losses", losses, want_losses);
  if (!none && !c.any_bits) {
    double magnitude = 0;
    for (int64_t i = 0; i < c.size; i++) magnitude += fabs(get(want_losses, i));
    if (c.size > 0) magnitude *= fabs(want / sum_of(want_losses.data(), computed, c.size));
    Buffer expected(computed, 1, 0);
    set(expected, 0, want);
    expect_close(name + ", loss", loss, expected, 8, magnitude);
  }
  a.gradient = pred.data();
  expect_success(name, gpu.run(queue, c.dtype, a));
  expect_same(name + ", gradient over pred", pred, want_gradient);
  a.pred = want_gradient.data();  // any numbers: pred has been written over
  a.gradient = nullptr;
  expect_success(name, gpu.run(queue, c.dtype, a));
  Buffer other(loss);
  a.loss = none ? nullptr : other.data();
  expect_success(name, gpu.run(many, c.dtype, a));
  if (!none) expect_same(name + ", loss without a gradient by another grid", other, loss);
}

void test_losses() {
  for (const cuda::ElementwiseLoss& gpu : cuda::elementwise_losses) {
    for (const Dtype dtype : kDtypes) {
      const int64_t w = 16 / (int64_t)dtype_size(dtype), tile = 8 * 256 * w;
      for (const Reduction r : {Reduction::none, Reduction::mean, Reduction::sum, Reduction::batchmean}) {
        for (const Weighing weighing : {Weighing::none, Weighing::same, Weighing::wide}) {
          for (const bool aligned : {true, false}) {
            for (const int64_t size : {int64_t(0), int64_t(1), 5 * w, 60 * w + 1}) {
              test_loss(gpu, {dtype, size, aligned, size > w, weighing, 1, size > 0 ? size : 1, r});
            }
          }
        }
        // The third array: a scalar, one for each of the last axis, one for each of a middle one.
        test_loss(gpu, {dtype, 120 * w, true, false, Weighing::same, 120 * w, 1, r});
        test_loss(gpu, {dtype, 120 * w, true, false, Weighing::wide, 1, 3 * w, r});
        test_loss(gpu, {dtype, 105 * w, true, false, Weighing::same, 1, 7, r});
        test_loss(gpu, {dtype, 105 * w, true, false, Weighing::wide, 5, 7, r});
        test_loss(gpu, {dtype, 120 * w, false, false, Weighing::wide, 4 * w, 5, r});
      }
      for (const Reduction r : {Reduction::none, Reduction::mean}) {
        test_loss(gpu, {dtype, tile - 1, true, false, Weighing::none, 1, 1, r});
        test_loss(gpu, {dtype, 2 * tile + 3, true, false, Weighing::same, 1, 2 * tile + 3, r});
      }
    }
  }
}

// A prediction out of range is NaN and reported, and the others are what they would be.
void test_range() {
  const cuda::ElementwiseLoss& gpu = find_entry(cuda::elementwise_losses, "binary_cross_entropy");
  for (const Dtype dtype : kDtypes) {
    Buffer pred(dtype, 9, 0), target(dtype, 9, 0), losses(compute_dtype(dtype), 9, 0), gradient(dtype, 9, 0);
    for (int64_t i = 0; i < 9; i++) set(pred, i, (double)i / 8);
    fill_eighths(target, 5);
    const double wrong[] = {-0.125, NAN, 2};
    cuda::ElementwiseLossArrays a = {};
    a.pred = pred.data();
    a.target = target.data();
    a.losses = losses.data();
    a.gradient = gradient.data();
    a.size = 9;
    a.divisor = a.grad_scale = 1;
    a.array_inner = a.array_period = 1;
    cuda::Fault fault;
    expect_success("range", cuda::take_fault(queue, true, &fault));  // what tests before this left
    expect_success("range", gpu.run(queue, dtype, a));
    expect_success("range", cuda::take_fault(queue, true, &fault));
    if (!fault.none()) expect_success("no prediction out of range", cudaErrorInvalidValue);
    for (const double x : wrong) {
      Buffer want_losses(losses), want_gradient(gradient);
      set(pred, 4, x);
      set(want_losses, 4, NAN);
      set(want_gradient, 4, NAN);
      expect_success("range", gpu.run(queue, dtype, a));
      expect_same("losses out of range", losses, want_losses);
      expect_same("gradient out of range", gradient, want_gradient);
      expect_success("range", cuda::take_fault(queue, false, &fault));
      double got;
      memcpy(&got, &fault.label, sizeof got);
      const bool right = !fault.none() && fault.is_prediction() && (got == x || (got != got && x != x)) &&
                         strcmp(cuda::elementwise_losses.begin()[fault.loss()].name, gpu.name) == 0;
      if (!right) expect_success("a prediction out of range is reported", cudaErrorInvalidValue);
    }
  }
}

}  // namespace

int main() {
  if (!has_same_bits()) return 77;
  test_dropouts();
  test_gated_pairs();
  test_prelus();
  test_losses();
  test_range();
  return report();
}
