// Runs the bodies of the GPU's kernels on the host, once for each thread of a grid, and holds every bit that they wrote
// against the CPU's kernels: no GPU is needed. What a GPU adds is the launch, and its own conversions of half
// precision.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "core/activations.h"
#include "core/dispatch.h"
#include "core/optimizers.h"
#include "support.h"

#define INNERLOOP_ISA cuda
#include "cuda/activations.h"
#include "cuda/optimizers.h"

using namespace innerloop;

namespace {

int failures = 0, compared = 0;

bool is_nan(Dtype dtype, const char* p) {
  uint16_t half;
  float single;
  double wide;
  switch (dtype) {
    case Dtype::f32:
      memcpy(&single, p, sizeof single);
      return single != single;
    case Dtype::f64:
      memcpy(&wide, p, sizeof wide);
      return wide != wide;
    default:
      memcpy(&half, p, sizeof half);
      return (half & 0x7fff) > (dtype == Dtype::bf16 ? 0x7f80 : 0x7c00);
  }
}

// An array between bytes that nobody may write, `offset` elements from where 16 bytes begin.
struct Buffer {
  static constexpr int64_t kGuard = 64;
  Dtype dtype;
  int64_t size, begin;
  std::vector<char> bytes;
  TensorView view;

  Buffer(Dtype dtype, int64_t size, int64_t offset) : dtype(dtype), size(size) {
    const auto item = (int64_t)dtype_size(dtype);
    bytes.assign((size_t)(size * item + 3 * kGuard), 0x5a);
    const auto at = reinterpret_cast<uintptr_t>(bytes.data());
    begin = kGuard + (int64_t)(16 - at % 16) % 16 + offset * item;
    set_view();
  }
  // The same elements at another place.
  Buffer(const Buffer& other) : Buffer(other.dtype, other.size, 0) {
    const auto misplaced = (int64_t)(reinterpret_cast<uintptr_t>(bytes.data() + begin) % 16);
    const auto wanted = (int64_t)(reinterpret_cast<uintptr_t>(other.data()) % 16);
    begin += (wanted - misplaced + 16) % 16;
    set_view();
    memcpy(data(), other.data(), (size_t)(size * (int64_t)dtype_size(dtype)));
  }
  Buffer& operator=(const Buffer&) = delete;

  void set_view() {
    view.name = "array";
    view.dtype = dtype;
    view.writeable = true;
    view.ndim = 1;
    view.shape[0] = size;
    view.strides[0] = (ptrdiff_t)dtype_size(dtype);
    view.data = data();
  }
  char* data() { return bytes.data() + begin; }
  const char* data() const { return bytes.data() + begin; }

  // Of every kind: numbers about 1, from 2^-20 to 2^20, and any bits at all, which are also infinite, NaN or subnormal.
  Buffer& fill(uint64_t seed, bool any_bits = true) {
    Numbers numbers{seed};
    const auto item = (int64_t)dtype_size(dtype);
    for (int64_t i = 0; i < size; i++) {
      double x = numbers.next();
      if (i % 4 == 1) x = ldexp(x, (int)(numbers.next() * 5));
      const float single = (float)x;
      uint64_t raw = 0;
      if (any_bits && i % 4 == 3) {
        numbers.next();
        raw = numbers.state >> 7;
      } else if (dtype == Dtype::f64) {
        memcpy(&raw, &x, sizeof x);
      } else if (dtype == Dtype::f32) {
        memcpy(&raw, &single, sizeof single);
      } else {
        raw = dtype == Dtype::bf16 ? cuda::nearest_bfloat16(cuda::Vec<float, 1>(single)).v
                                   : cuda::nearest_float16(cuda::Vec<float, 1>(single)).v;
      }
      memcpy(data() + i * item, &raw, (size_t)item);
    }
    return *this;
  }
  void make_positive() {  // what is never negative: running means of squares
    const auto item = (int64_t)dtype_size(dtype);
    for (int64_t i = 0; i < size; i++) data()[i * item + item - 1] &= 0x7f;
  }

  bool guards_hold() const {
    for (int64_t i = 0; i < (int64_t)bytes.size(); i++) {
      const bool inside = i >= begin && i < begin + size * (int64_t)dtype_size(dtype);
      if (!inside && bytes[(size_t)i] != 0x5a) return false;
    }
    return true;
  }
};

void expect_same(const std::string& what, const Buffer& got, const Buffer& want) {
  const auto item = (int64_t)dtype_size(got.dtype);
  compared++;
  int64_t wrong = got.guards_hold() ? -1 : -2;
  for (int64_t i = 0; i < got.size && wrong == -1; i++) {
    const char *a = got.data() + i * item, *b = want.data() + i * item;
    if (memcmp(a, b, (size_t)item) != 0 && !(is_nan(got.dtype, a) && is_nan(got.dtype, b))) wrong = i;
  }
  if (wrong == -1 || ++failures > 20) return;
  printf("DIFFERS: %s, %s of %lld elements, %s %lld\n", what.c_str(), dtype_name(got.dtype), (long long)got.size,
         wrong == -2 ? "bytes outside of it were written" : "at", (long long)wrong);
}

// The last thread first: none may count on another.
template <class Body>
void run_grid(int64_t count, const Body& body) {
  for (int64_t i = count - 1; i >= 0; i--) body(cuda::Thread{i, count});
}

template <class S, class F>
void run_body(const F& f, std::initializer_list<Buffer*> buffers, int64_t threads) {
  cuda::Elements<F::inputs + 1> e;
  e.size = (*buffers.begin())->size;
  e.aligned = true;
  int op = 0;
  for (Buffer* buffer : buffers) {
    e.data[op++] = buffer->data();
    e.aligned &= reinterpret_cast<uintptr_t>(buffer->data()) % 16 == 0;
  }
  run_grid(threads, [&](cuda::Thread thread) { cuda::map_elements<S, F::inputs>(thread, e, f); });
}

template <class Rule, class S>
void test_activation(Dtype dtype) {
  const Activation& cpu = find_activation(Rule::name);
  double parameters[kMaxParameters] = {};
  for (int i = 0; i < cpu.parameter_count; i++) parameters[i] = cpu.parameters[i].default_value;
  const Rule rule = cuda::make_rule<Rule>(parameters);
  constexpr int64_t w = 16 / sizeof(S);
  for (const int64_t size : {int64_t(0), int64_t(1), w - 1, w, w + 1, 5 * w, 300 * w + 1}) {
    for (const int offset : {0, 1}) {  // of all arrays but the first
      for (const int64_t threads : {1, 64}) {
        const std::string name =
            std::string(Rule::name) + ", offset " + std::to_string(offset) + ", threads " + std::to_string(threads);
        Buffer x(dtype, size, 0), dy(dtype, size, offset), y(dtype, size, offset), dx(dtype, size, offset);
        x.fill(1 + (uint64_t)size);
        dy.fill(2);
        Buffer want_y(y), want_dx(dx), in_place(x);
        activation_forward(cpu, parameters, x.view, want_y.view);
        run_body<S>(cuda::Forward<Rule>{rule}, {&x, &y}, threads);
        expect_same(name + ", forward", y, want_y);
        run_body<S>(cuda::Forward<Rule>{rule}, {&in_place, &in_place}, threads);
        expect_same(name + ", in place", in_place, want_y);
        Buffer& saved = Rule::saves_output ? y : x;
        activation_backward(cpu, parameters, dy.view, saved.view, Rule::saves_output, want_dx.view);
        run_body<S>(cuda::Backward<Rule>{rule}, {&dy, &saved, &dx}, threads);
        expect_same(name + ", backward", dx, want_dx);
        if constexpr (Rule::saves_output) {
          activation_backward(cpu, parameters, dy.view, x.view, false, want_dx.view);
          run_body<S>(cuda::BackwardFromInput<Rule>{rule}, {&dy, &x, &dx}, threads);
          expect_same(name + ", backward from input", dx, want_dx);
        }
      }
    }
  }
}

template <class... Rules>
void test_activations(cuda::List<Rules...>) {
  (test_activation<Rules, float>(Dtype::f32), ...);
  (test_activation<Rules, double>(Dtype::f64), ...);
  (test_activation<Rules, cuda::Bfloat16>(Dtype::bf16), ...);
  (test_activation<Rules, cuda::Float16>(Dtype::f16), ...);
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

template <class Rule, class T>
void step_bodies(const double* parameters, const Case& c, unsigned used, const StepScalars& scalars,
                 const std::vector<cuda::StepArray>& arrays) {
  using Step = typename Rule::template Step<T>;
  constexpr int states = cuda::StatesOf<Rule>::count, block = 32;
  const Step step(cuda::make_rule<Rule>(parameters), c.step);
  const cuda::GradientShare<T> share = {T(scalars.factor), T(scalars.l1)};
  const cuda::StepArray* next = arrays.data();
  auto rest = (int64_t)arrays.size();
  cuda::with_used<Rule>(used, [&](auto u) {
    auto batch = std::make_unique<cuda::SmallBatch>();  // the large one is the same but for its size
    while (rest > 0) {
      const int taken = cuda::fill<T>(*batch, next, rest);
      next += taken;
      rest -= taken;
      run_grid(3 * block, [&](cuda::Thread thread) {
        cuda::step_arrays<T, decltype(u)::value, states, block>(thread, step, share, *batch);
      });
    }
  });
}

template <class Rule>
void test_optimizer(const Case& c) {
  const Optimizer& cpu = find_optimizer(Rule::name);
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
  constexpr int64_t tile = cuda::kTile * 4;
  const int64_t sizes[] = {7, 0, 1, 3, 4, 5, 63, tile - 1, tile, tile + 1};
  std::vector<std::unique_ptr<Buffer>> got, want;  // of each array: the operands that are used, and the master
  std::vector<cuda::StepArray> arrays;
  for (int i = 0; i < c.arrays; i++) {
    const int64_t size = i < 20 ? sizes[i % 10] : 1 + i % 9, offset = i % 3 == 2;
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
      array.aligned &= reinterpret_cast<uintptr_t>(got.back()->data()) % 16 == 0;
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
  wide ? step_bodies<Rule, double>(parameters, c, used, scalars, arrays)
       : step_bodies<Rule, float>(parameters, c, used, scalars, arrays);
  for (size_t i = 0; i < got.size(); i++) {
    expect_same(std::string(Rule::name) + "_step, " + c.name + ", array " + std::to_string(i), *got[i], *want[i]);
  }
}

template <class... Rules>
void test_optimizers(cuda::List<Rules...>) {
  const Case cases[] = {
      {"float32", Dtype::f32, Dtype::f32, false, false, 1, 12},
      {"float32, all options", Dtype::f32, Dtype::f32, false, true, 7, 60},
      {"float32, many arrays", Dtype::f32, Dtype::f32, false, true, 2, 150},
      {"float64", Dtype::f64, Dtype::f64, false, false, 3, 60},
      {"float64, all options", Dtype::f64, Dtype::f64, false, true, 1, 12},
      {"bfloat16", Dtype::bf16, Dtype::bf16, false, true, 5, 12},
      {"float16 with float32 grads", Dtype::f16, Dtype::f32, false, false, 5, 12},
      {"bfloat16 with masters", Dtype::bf16, Dtype::bf16, true, true, 5, 60},
  };
  for (const Case& c : cases) (test_optimizer<Rules>(c), ...);
}

// Every float16 to float32 and back, and bfloat16's neighbourhood, against the CPU's conversions.
void test_storage() {
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    const double none[kMaxParameters] = {};
    Buffer all(dtype, 65536, 0), want(dtype, 65536, 0);
    for (int i = 0; i < 65536; i++) memcpy(all.data() + 2 * i, &i, 2);
    Buffer got(all);
    activation_forward(find_activation("identity"), none, all.view, want.view);
    const cuda::Forward<cuda::Identity> f{};
    if (dtype == Dtype::bf16) {
      run_body<cuda::Bfloat16>(f, {&all, &got}, 5);
    } else {
      run_body<cuda::Float16>(f, {&all, &got}, 5);
    }
    expect_same("every number of half precision", got, want);
  }
}

}  // namespace

int main() {
  if (!kernels().has_fma) {
    printf("this machine has no fused multiply-add: the bits would differ\n");
    return 77;
  }
  test_storage();
  test_activations(cuda::Activations{});
  test_optimizers(cuda::Optimizers{});
  printf("%d arrays compared, %d differ\n", compared, failures);
  return failures > 0;
}
