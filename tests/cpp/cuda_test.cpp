// The activations' and the optimizers' kernels of the GPU, beside the CPU's.
#include "core/activations.h"
#include "core/optimizers.h"
#include "cuda_support.h"

using namespace innerloop;

namespace {

constexpr cuda::Queue queue = {nullptr, 1};  // of few threads, so that they take several pieces
constexpr int kThreads = 16 * cuda::kBlock;  // of the largest grid

void test_activation(const cuda::Activation& gpu, Dtype dtype, int64_t size, bool aligned) {
  const Activation& cpu = find_activation(gpu.name);
  const std::string name = gpu.name + std::string(aligned ? "" : ", misaligned");
  double parameters[kMaxParameters] = {};
  for (int i = 0; i < cpu.parameter_count; i++) parameters[i] = cpu.parameters[i].default_value;
  const int64_t offset = aligned ? 0 : misaligned(dtype, size);  // of all arrays but the first
  Buffer x(dtype, size, 0), dy(dtype, size, offset), y(dtype, size, offset), dx(dtype, size, offset);
  x.fill(1 + (uint64_t)size);
  dy.fill(2);
  Buffer want_y(y), want_dx(dx), in_place(x);
  activation_forward(cpu, parameters, x.view, want_y.view);
  expect_success(name, gpu.forward(queue, dtype, parameters, elements(x, y)));
  expect_same(name + ", forward", y, want_y);
  expect_success(name, gpu.forward(queue, dtype, parameters, elements(in_place, in_place)));
  expect_same(name + ", in place", in_place, want_y);
  Buffer& saved = cpu.saves_output ? y : x;
  activation_backward(cpu, parameters, dy.view, saved.view, cpu.saves_output, want_dx.view);
  expect_success(name, gpu.backward(queue, dtype, parameters, elements(dy, saved, dx)));
  expect_same(name + ", backward", dx, want_dx);
  activation_backward(cpu, parameters, dy.view, x.view, false, want_dx.view);
  expect_success(name, gpu.backward_from_input(queue, dtype, parameters, elements(dy, x, dx)));
  expect_same(name + ", backward from input", dx, want_dx);
}

void test_activations() {
  for (const cuda::Activation& gpu : cuda::activations) {
    for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16}) {
      const int64_t w = 16 / (int64_t)dtype_size(dtype);
      for (const int64_t size : {int64_t(0), int64_t(1), w - 1, w, w + 1, 5 * w, 300 * w + 1}) {
        for (const bool aligned : {true, false}) test_activation(gpu, dtype, size, aligned);
      }
      test_activation(gpu, dtype, (kThreads + 5) * w + 1, true);
    }
  }
}

// What a step is taken with.
struct Case {
  const char* name;
  Dtype param, grad;
  bool master;  // float32, beside a param of half precision
  bool all;     // every state is used, and every option that the rule has is on
  double step;
  int arrays;
};

Storage storage_of(Dtype d) {
  return d == Dtype::bf16 ? Storage::bfloat16 : d == Dtype::f16 ? Storage::float16 : Storage::full;
}

void test_optimizer(const cuda::Optimizer& gpu, const Case& c) {
  const Optimizer& cpu = find_optimizer(gpu.name);
  double parameters[kMaxParameters] = {};
  for (int i = 0; i < cpu.parameter_count; i++) {
    const Parameter& p = cpu.parameters[i];
    parameters[i] = p.default_value;
    if (!c.all) continue;
    if (p.is_flag && strcmp(p.name, "nesterov") != 0) parameters[i] = 1;
    if (strcmp(p.name, "momentum") == 0) parameters[i] = 0.9;
    if (strcmp(p.name, "weight_decay") == 0) parameters[i] = 0.03;
  }
  StepOptions options;
  options.grad_scale = c.all ? 8 : 1;
  StepScalars scalars;
  scalars.factor = c.all ? -1.0 / 8 : 1;
  scalars.l1 = c.all ? 0.01 : 0;
  OptimizerStep work(cpu, options, (size_t)c.arrays);
  const unsigned used = work.begin_group(parameters, c.all, scalars.l1, c.step);

  const bool wide = c.param == Dtype::f64;
  const Dtype computed = compute_dtype(c.param);
  constexpr int64_t tile = 4096;  // elements of float32 that a block takes at once
  const int64_t sizes[] = {7, 0, 1, 3, 4, 5, 63, tile - 1, tile, tile + 1};
  std::vector<std::unique_ptr<Buffer>> got, want;  // of each array: the operands that are used, and the master
  std::vector<cuda::StepArray> arrays;
  for (int i = 0; i < c.arrays; i++) {
    const int64_t size = i < 20 ? sizes[i % 10] : 1 + i % 9, offset = i % 3 == 2 ? 1 : 0;
    cuda::StepArray array = {};
    array.aligned = true;
    array.size = size;
    array.param = storage_of(c.param);
    array.grad = storage_of(c.grad);
    TensorView views[kMaxOperands];
    StoredArrays stored;
    auto operand = [&](Dtype dtype, bool any_bits, bool negatives) {
      got.push_back(std::make_unique<Buffer>(dtype, size, offset));
      got.back()->fill(10 * (uint64_t)i + got.size(), any_bits);
      if (!negatives) got.back()->make_positive();
      want.push_back(std::make_unique<Buffer>(*got.back()));
      array.aligned &= got.back()->is_aligned();
      return got.back()->data();
    };
    array.data[0] = operand(c.param, true, true);
    views[0] = want.back()->view;
    array.data[1] = operand(c.grad, true, true);
    views[1] = want.back()->view;
    unsigned given = 0;
    for (int s = 0; s < cpu.state_count; s++) {
      if (!(used >> s & 1)) continue;
      array.data[2 + s] = operand(computed, false, cpu.states[s].below_0);
      views[2 + s] = want.back()->view;
      given |= 1u << s;
    }
    if (c.master) {
      char* master = operand(Dtype::f32, true, true);
      stored.master = want.back()->view;
      stored.has_master = true;
      array.copy = array.data[0];
      array.copied = array.param;
      array.data[0] = master;
      array.param = Storage::full;
    }
    work.add(views, given, stored);
    arrays.push_back(array);
  }
  work.run();
  cuda::StepGroup group = {{parameters, c.step, scalars.factor, scalars.l1}, used, {}};
  group.arrays[wide] = {arrays.data(), (int64_t)arrays.size()};
  expect_success(gpu.name, gpu.step(queue, &group, 1, nullptr));
  for (size_t i = 0; i < got.size(); i++) {
    expect_same(std::string(gpu.name) + "_step, " + c.name + ", array " + std::to_string(i), *got[i], *want[i]);
  }
}

void test_optimizers() {
  const Case cases[] = {
      {"float32", Dtype::f32, Dtype::f32, false, false, 1, 12},
      {"float32, all options", Dtype::f32, Dtype::f32, false, true, 7, 60},
      {"float32, many arrays", Dtype::f32, Dtype::f32, false, true, 2, 430},  // of two launches
      {"float64", Dtype::f64, Dtype::f64, false, false, 3, 60},
      {"float64, all options", Dtype::f64, Dtype::f64, false, true, 1, 12},
      {"bfloat16", Dtype::bf16, Dtype::bf16, false, true, 5, 12},
      {"float16 with float32 grads", Dtype::f16, Dtype::f32, false, false, 5, 12},
      {"bfloat16 with masters", Dtype::bf16, Dtype::bf16, true, true, 5, 60},
  };
  for (const cuda::Optimizer& gpu : cuda::optimizers) {
    for (const Case& c : cases) test_optimizer(gpu, c);
  }
}

// Every number of half precision to float32 and back, against the CPU's conversions.
void test_storage() {
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    const double none[kMaxParameters] = {};
    Buffer all(dtype, 65536, 0), want(dtype, 65536, 0);
    for (int i = 0; i < 65536; i++) memcpy(all.data() + 2 * i, &i, 2);
    Buffer got(all);
    activation_forward(find_activation("identity"), none, all.view, want.view);
    const cuda::Activation& identity = find_entry(cuda::activations, "identity");
    expect_success("identity", identity.forward(queue, dtype, none, elements(all, got)));
    expect_same("every number of half precision", got, want);
  }
}

}  // namespace

int main() {
  if (!has_same_bits()) return 77;
  test_storage();
  test_activations();
  test_optimizers();
  return report();
}
