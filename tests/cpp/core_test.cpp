// Runs every kernel of the list on every instruction set at hand and prints a hash of each result's bits. Instruction
// sets with FMA, and any number of threads, must agree; tests/test_cpp.py holds one machine's lines against another's.
#include <stdio.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "core/activations.h"
#include "core/buffers.h"
#include "core/dispatch.h"
#include "core/dropout.h"
#include "core/elementwise_losses.h"
#include "core/gated.h"
#include "core/half.h"
#include "core/linear.h"
#include "core/linear_cross_entropy.h"
#include "core/nll_loss.h"
#include "core/norms.h"
#include "core/optimizers.h"
#include "core/pool.h"
#include "core/prelu.h"
#include "core/softmax.h"
#include "core/softmax_cross_entropy.h"
#include "support.h"

using namespace innerloop;

namespace {

std::map<std::string, uint64_t> first_seen;
int failures = 0;

void record(const std::string& what, Dtype dtype, const Tensor& result) {
  const std::string key = what + " " + dtype_name(dtype);
  const auto [entry, fresh] = first_seen.emplace(key, result.hash());
  if (fresh) {
    printf("%s %016llx\n", key.c_str(), (unsigned long long)result.hash());
  } else if (entry->second != result.hash()) {
    printf("DIFFERS: %s on %s with %d threads\n", key.c_str(), kernels().isa, pool::threads());
    failures++;
  }
}

void test_activations(Dtype dtype) {
  const Shape shape = {7, 9001};  // several tasks, and a tail for every vector width
  for (const Activation& a : *kernels().activations) {
    double parameters[kMaxParameters] = {};
    for (int i = 0; i < a.parameter_count; i++) parameters[i] = a.parameters[i].default_value;
    Tensor x(dtype, shape), y(dtype, shape), dy(dtype, shape), dx(dtype, shape);
    x.fill(1);
    dy.fill(2);
    activation_forward(a, parameters, x.view, y.view);
    record(a.name, dtype, y);
    activation_backward(a, parameters, dy.view, a.saves_output ? y.view : x.view, a.saves_output, dx.view);
    record(std::string(a.name) + "_backward", dtype, dx);
  }
}

void test_prelu(Dtype dtype) {
  // Channels side by side and far apart, fewer and more than are summed at once; blocks with a tail.
  const Shape shapes[] = {{2500, 19}, {3, 5, 1801}};
  for (const Shape& shape : shapes) {
    for (int64_t slopes : {int64_t(1), shape[1]}) {
      Tensor x(dtype, shape), dy(dtype, shape), y(dtype, shape), weight(dtype, {slopes}), dweight(dtype, {slopes});
      x.fill(1);
      dy.fill(2);
      weight.fill(3);
      const std::string at = " " + shape_text(shape) + " " + std::to_string(slopes);
      prelu_forward(x.view, weight.view, y.view);
      record("prelu" + at, dtype, y);
      prelu_backward(dy.view, x.view, weight.view, y.view, dweight.view);
      record("prelu_backward dx" + at, dtype, y);
      record("prelu_backward dweight" + at, dtype, dweight);
    }
  }
}

void test_gated(Dtype dtype) {
  for (const GatedPair& pair : *kernels().gated) {
    for (int axis : {0, 1}) {
      const Shape shape = {46, 1002}, half = {axis ? 46 : 23, axis ? 501 : 1002};
      Tensor x(dtype, shape), dx(dtype, shape), y(dtype, half), dy(dtype, half);
      x.fill(1);
      dy.fill(2);
      const std::string at = " " + std::to_string(axis);
      gated_forward(pair, x.view, axis, y.view);
      record(pair.name + at, dtype, y);
      gated_backward(pair, dy.view, x.view, axis, dx.view);
      record(std::string(pair.name) + "_backward" + at, dtype, dx);
    }
  }
}

void test_elementary(Dtype dtype) {
  for (const Elementary& e : *kernels().elementary) {
    Tensor x(dtype, {10007}), y(dtype, {10007});
    x.fill(3);
    if (dtype == Dtype::f64) {
      e.f64((const double*)x.view.data, (double*)y.view.data, 10007);
    } else {
      e.f32((const float*)x.view.data, (float*)y.view.data, 10007);
    }
    // The sign of log(-1), a NaN, is the processor's own.
    if (std::string(e.name).find("log") != 0) record(e.name, dtype, y);
  }
}

void test_linear(Dtype dtype) {
  // Tile edges in every direction, the paths for few rows, and a k that is split into blocks.
  const int64_t sizes[][3] = {{1, 70, 33}, {5, 67, 65}, {23, 300, 17}, {61, 1100, 130}, {200, 47, 81}};
  for (const auto& [m, k, n] : sizes) {
    for (const char* name : {"identity", "relu", "gelu"}) {
      const Activation& act = find_activation(name);
      Tensor x(dtype, {m, k}), stored(dtype, {n, k}), b(dtype, {n}), y(dtype, {m, n}), z(dtype, {m, n});
      Tensor dy(dtype, {m, n}), dx(dtype, {m, k}), dw(dtype, {k, n}), db(dtype, {n});
      x.fill(1);
      stored.fill(2);
      b.fill(3);
      dy.fill(4);
      Weight w;  // kept as (N, K), read as (K, N)
      w.view = stored.view;
      std::swap(w.view.shape[0], w.view.shape[1]);
      std::swap(w.view.strides[0], w.view.strides[1]);
      linear_forward(act, nullptr, x.view, w, &b.view, y.view, &z.view);
      const std::string at = " " + shape_text({m, k, n}) + " " + name;
      record("linear" + at, dtype, y);
      const PackedWeight packed(w.view);
      Weight laid_out;
      laid_out.packed = &packed;
      linear_forward(act, nullptr, x.view, laid_out, &b.view, y.view, &z.view);
      record("linear" + at, dtype, y);
      linear_backward(act, nullptr, dy.view, x.view, w, act.saves_output ? &y.view : &z.view, &dx.view, dw.view,
                      &db.view);
      record("linear_backward dx" + at, dtype, dx);
      record("linear_backward dw" + at, dtype, dw);
      record("linear_backward db" + at, dtype, db);
    }
  }
}

// The values of a tensor in half precision.
void round_to(const Tensor& from, Tensor& to) {
  const int64_t n = from.view.size();
  storage_of(to.view.dtype).narrow((const float*)from.view.data, walk_rows(to.view, to.view.ndim - 1), 0, n);
}

void test_linear_half(Dtype dtype) {
  const Activation& act = find_activation("gelu");
  const int64_t sizes[][3] = {{5, 67, 65}, {70, 1100, 33}};
  for (const auto& [m, k, n] : sizes) {
    const Shape shapes[] = {{m, k}, {k, n}, {n}, {m, n}};
    Tensor x(dtype, shapes[0]), w(dtype, shapes[1]), b(dtype, shapes[2]), dy(dtype, shapes[3]);
    Tensor* tensors[] = {&x, &w, &b, &dy};
    for (int i = 0; i < 4; i++) round_to(Tensor(Dtype::f32, shapes[i]).fill(i + 1), *tensors[i]);
    Tensor y(dtype, shapes[3]), z(dtype, shapes[3]), dx(dtype, shapes[0]), dw(dtype, shapes[1]), db(dtype, shapes[2]);
    Weight weight;
    weight.view = w.view;
    linear_forward(act, nullptr, x.view, weight, &b.view, y.view, &z.view);
    linear_backward(act, nullptr, dy.view, x.view, weight, &z.view, &dx.view, dw.view, &db.view);
    const std::string at = " " + shape_text({m, k, n});
    record("linear" + at, dtype, y);
    record("linear_backward dx" + at, dtype, dx);
    record("linear_backward dw" + at, dtype, dw);
    record("linear_backward db" + at, dtype, db);
  }
}

void test_linear_cross_entropy(Dtype dtype) {
  const int64_t rows = 37, k = 45, classes = 5003;
  Tensor x(dtype, {rows, k}), w(dtype, {k, classes}), b(dtype, {classes}), labels(Dtype::i64, {rows});
  Tensor losses(dtype, {rows}), dx(dtype, {rows, k}), dw(dtype, {k, classes}), db(dtype, {classes});
  x.fill(1);
  w.fill(2);
  b.fill(3);
  for (int64_t i = 0; i < rows; i++) reinterpret_cast<int64_t*>(labels.view.data)[i] = i * 7 % classes;
  const LinearCrossEntropy call = {x.view, w.view, &b.view, {&labels.view}, &losses.view, &dx.view, &dw.view, &db.view};
  const CrossEntropyOptions options = {14, 0.1, 0.01, Reduction::none, 1, 0.5};
  for (size_t limit : {0, 100000, 1000}) {  // all rows at once, some, and some classes of one
    set_logits_limit(limit);
    linear_cross_entropy(call, options);
    const std::string what = limit == 1000 ? "linear_cross_entropy by parts" : "linear_cross_entropy";
    record(what, dtype, losses);
    record(what + " dx", dtype, dx);
    record(what + " dw", dtype, dw);
    record(what + " db", dtype, db);
  }
  set_logits_limit(0);
}

void test_softmax_and_losses(Dtype dtype) {
  for (int64_t classes : {10, 77, 5003}) {
    const int64_t rows = 37;
    Tensor z(dtype, {rows, classes}), y(dtype, {rows, classes}), dy(dtype, {rows, classes}), dz(dtype, {rows, classes});
    z.fill(5);
    dy.fill(6);
    const std::string at = " " + std::to_string(classes);
    for (const char* name : {"softmax", "log_softmax"}) {
      softmax_forward(find_softmax(name), z.view, 1, y.view);
      record(name + at, dtype, y);
      softmax_backward(find_softmax(name), dy.view, y.view, 1, dz.view);
      record(std::string(name) + "_backward" + at, dtype, dz);
    }
    softmax_forward(find_softmax("softmax"), dy.view, 1, y.view);  // probabilities
    Tensor labels(Dtype::i64, {rows}), losses(dtype, {rows}), weight(dtype, {classes});
    for (int64_t i = 0; i < rows; i++) reinterpret_cast<int64_t*>(labels.view.data)[i] = i * 7 % classes;
    softmax_forward(find_softmax("softmax"), weight.fill(7).view, 0, weight.view);
    Tensor sample_weight(dtype, {rows});
    sample_weight.fill(10);
    for (double smoothing : {0.0, 0.1}) {
      CrossEntropyOptions options = {14, smoothing, 0, Reduction::none, 1, 0.5};
      const std::string what = "softmax_cross_entropy" + at + " " + std::to_string(smoothing);
      softmax_cross_entropy(z.view, {&labels.view, &weight.view}, options, &losses.view, &dz.view);
      record(what + " labels", dtype, losses);
      record(what + " labels, gradient", dtype, dz);
      softmax_cross_entropy(z.view, {&y.view}, options, &losses.view, &dz.view);
      record(what + " probabilities", dtype, losses);
      record(what + " probabilities, gradient", dtype, dz);
      options.z_loss = 0.01;
      softmax_cross_entropy(z.view, {&labels.view, &weight.view, &sample_weight.view}, options, &losses.view, &dz.view);
      record(what + " weighted rows with z_loss", dtype, losses);
      record(what + " weighted rows with z_loss, gradient", dtype, dz);
    }
  }
}

// A result of one number, to be recorded.
Tensor& fill_with(Tensor& one, double value) {
  if (one.view.dtype == Dtype::f64) {
    memcpy(one.view.data, &value, sizeof value);
  } else {
    const float narrow = (float)value;
    memcpy(one.view.data, &narrow, sizeof narrow);
  }
  return one;
}

void test_elementwise_losses(Dtype dtype) {
  const Shape shape = {7, 9001};
  Tensor pred(dtype, shape), target(dtype, shape), weight(dtype, shape), gradient(dtype, shape), value(dtype, {1});
  for (Tensor* t : {&pred, &target}) {
    t->fill(t == &pred ? 11 : 12);
    activation_forward(find_activation("sigmoid"), nullptr, t->view, t->view);  // probabilities, which all take
  }
  weight.fill(13);
  for (const ElementwiseLoss& loss : *kernels().elementwise_losses) {
    double parameters[kMaxParameters] = {};
    for (int i = 0; i < loss.parameter_count; i++) parameters[i] = 0.5 * loss.parameters[i].default_value;
    const ElementwiseLossInputs plain = {&pred.view, &target.view, nullptr, nullptr};
    double mean = elementwise_loss(loss, parameters, plain, Reduction::mean, 1, nullptr, nullptr);
    record(loss.name, dtype, fill_with(value, mean));
    const TensorView* array = loss.array ? &weight.view : nullptr;
    const ElementwiseLossInputs all = {&pred.view, &target.view, &weight.view, array};
    mean = elementwise_loss(loss, parameters, all, Reduction::mean, 3, nullptr, &gradient.view);
    record(std::string(loss.name) + " weighted", dtype, fill_with(value, mean));
    record(std::string(loss.name) + " weighted, gradient", dtype, gradient);
  }
}

void test_nll_loss(Dtype dtype) {
  const int64_t rows = 5003, classes = 10;
  Tensor x(dtype, {rows, classes}), labels(Dtype::i64, {rows}), weight(dtype, {classes}),
      gradient(dtype, {rows, classes});
  Tensor sample_weight(dtype, {rows}), value(dtype, {1});
  for (int64_t i = 0; i < rows; i++) reinterpret_cast<int64_t*>(labels.view.data)[i] = i * 7 % classes;
  weight.fill(15);
  sample_weight.fill(16);
  const double mean =
      nll_loss(x.fill(14).view, labels.view, &weight.view, &sample_weight.view, {3}, nullptr, &gradient.view);
  record("nll_loss", dtype, fill_with(value, mean));
  record("nll_loss gradient", dtype, gradient);
}

void test_optimizers(Dtype dtype) {
  for (const Optimizer& optimizer : *kernels().optimizers) {
    double numbers[kMaxParameters] = {};
    for (int i = 0; i < optimizer.parameter_count; i++) numbers[i] = optimizer.parameters[i].default_value;
    for (int i = 0; i < optimizer.parameter_count; i++) {
      for (int s = 0; s < optimizer.state_count; s++) {
        const char* needed_by = optimizer.states[s].needed_by;
        if (needed_by && std::string(needed_by) == optimizer.parameters[i].name) {
          numbers[i] = optimizer.parameters[i].is_flag ? 1 : 0.9;  // every state is used
        }
      }
    }
    const int64_t n = 70001;  // more than one piece
    Tensor param(dtype, {n}), grad(dtype, {n}),
        states[kMaxStates] = {{dtype, {n}}, {dtype, {n}}, {dtype, {n}}, {dtype, {n}}};
    param.fill(8);
    grad.fill(9);
    TensorView views[2 + kMaxStates] = {param.view, grad.view};
    unsigned given = 0;
    for (int s = 0; s < optimizer.state_count; s++) {
      memset(states[s].view.data, 0, states[s].bytes.size());
      views[2 + s] = states[s].view;
      given |= 1u << s;
    }
    StepOptions options;
    for (int step = 1; step <= 4; step++) {
      options.clip = step == 4;
      options.max_norm = 0.5;
      OptimizerStep work(optimizer, options, 1);
      work.begin_group(numbers, false, step == 4 ? 0.01 : 0, step);
      work.add(views, given);
      work.run();
    }
    record(std::string(optimizer.name) + "_step", dtype, param);
  }
}

void test_dropout(Dtype dtype) {
  Tensor x(dtype, {7, 9001}), y(dtype, {7, 9001});
  x.fill(10);
  const DropoutWork work = {123456789012345, 6789, 0.3};
  dropout(work, x.view, y.view);
  record("dropout", dtype, y);
  Tensor w(dtype, {9001, 37}), z(dtype, {7, 37});
  Weight weight;
  weight.view = w.fill(21).view;
  linear_forward(find_activation("relu"), nullptr, x.view, weight, nullptr, z.view, nullptr, &work);
  record("linear with dropout", dtype, z);
}

void test_norms(Dtype dtype) {
  for (int64_t length : {3, 77, 5003}) {
    const int64_t rows = 301;
    Tensor x(dtype, {rows, length}), y(dtype, {rows, length}), dy(dtype, {rows, length}), dx(dtype, {rows, length});
    Tensor w(dtype, {length}), b(dtype, {length}), dw(dtype, {length}), db(dtype, {length});
    x.fill(11);
    dy.fill(12);
    w.fill(13);
    b.fill(14);
    for (const RowNormFunction& norm : *kernels().row_norms) {
      Tensor saved(dtype, norm.has_mean ? Shape{2, rows} : Shape{rows});
      const std::string what = norm.name + (" " + std::to_string(length));
      row_norm_forward(norm, x.view, &w.view, &b.view, 1e-5, y.view, &saved.view);
      record(what, dtype, y);
      row_norm_backward(norm, dy.view, x.view, saved.view, &w.view, dx.view, &dw.view, &db.view);
      record(what + " dx", dtype, dx);
      record(what + " dweight", dtype, dw);
      record(what + " dbias", dtype, db);
    }
  }
  for (const Shape& shape : {Shape{301, 77}, Shape{41, 7, 3}, Shape{41, 7, 5, 29}}) {
    const int64_t channels = shape[1];
    Tensor x(dtype, shape), y(dtype, shape), dy(dtype, shape), dx(dtype, shape), saved(dtype, {2, channels});
    Tensor w(dtype, {channels}), b(dtype, {channels}), dw(dtype, {channels}), db(dtype, {channels});
    Tensor mean(dtype, {channels}), var(dtype, {channels});
    x.fill(15);
    dy.fill(16);
    w.fill(17);
    b.fill(18);
    mean.fill(19);
    var.fill(20);
    for (bool training : {true, false}) {
      const std::string what = "batch_norm " + shape_text(shape) + (training ? " training" : "");
      batch_norm_forward({training, 0.1, 5}, x.view, &mean.view, &var.view, &w.view, &b.view, y.view, &saved.view);
      record(what, dtype, y);
      record(what + " running_mean", dtype, mean);
      record(what + " running_var", dtype, var);
      batch_norm_backward(training, dy.view, x.view, saved.view, &w.view, dx.view, &dw.view, &db.view);
      record(what + " dx", dtype, dx);
      record(what + " dweight", dtype, dw);
      record(what + " dbias", dtype, db);
    }
  }
}

void test_clipping(Dtype dtype) {
  Tensor grad(dtype, {70001});
  GradientNorm gradients(1);
  gradients.add(grad.fill(10).view);
  Call call;
  const double norm = gradients.norm(call);
  gradients.multiply(call, clip_coefficient(norm, 1.0));
  record("clip_grad_norm", dtype, grad);
}

}  // namespace

// A process three folders down, of which two have limits; then one whose own folder is not there to be seen.
void test_memory_limits() {
  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("innerloop_core_test_" + std::to_string(getpid()));
  auto write = [&](const char* name, const char* text) {
    fs::create_directories((root / name).parent_path());
    std::ofstream(root / name) << text << "\n";
  };
  auto expect = [&](size_t bytes, const char* membership) {
    write("cgroup", membership);
    const size_t found = buffers::cgroup_memory((root / "cgroup").c_str(), root);
    if (found == bytes) return;
    printf("WRONG: a limit of %zu for %s\n", found, membership);
    failures++;
  };
  expect(SIZE_MAX, "0::/a/b/c");
  write("memory.max", "max");
  write("a/memory.max", "3000000");
  write("a/b/memory.max", "5000000");
  write("a/b/c/memory.max", "max");
  write("memory/memory.limit_in_bytes", "9223372036854771712");
  write("memory/d/memory.limit_in_bytes", "4000000");
  write("memory/d/e/memory.limit_in_bytes", "7000000");
  expect(3000000, "0::/a/b/c");
  expect(3000000, "0::/a");
  expect(9223372036854771712u, "0::/");
  expect(9223372036854771712u, "0::/elsewhere/b");
  expect(4000000, "5:cpu,cpuacct:/a\n4:cpu,memory:/d/e\n0::/");
  expect(9223372036854771712u, "4:memoryless:/d/e");
  write("memory.max", "2000000");
  expect(2000000, "4:memory:/d/e\n0::/a/b/c");
  fs::remove_all(root);
}

int main() {
  check_cpu();
  test_memory_limits();
  for (const std::string& isa : isas()) {
    use_isa(isa);
    if (!kernels().has_fma) continue;
    for (int threads : {1, 3}) {
      pool::set_threads(threads);
      for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
        test_elementary(dtype);
        test_activations(dtype);
        test_prelu(dtype);
        test_gated(dtype);
        test_linear(dtype);
        test_softmax_and_losses(dtype);
        test_elementwise_losses(dtype);
        test_nll_loss(dtype);
        test_linear_cross_entropy(dtype);
        test_optimizers(dtype);
        test_dropout(dtype);
        test_norms(dtype);
        test_clipping(dtype);
      }
      for (Dtype dtype : {Dtype::bf16, Dtype::f16}) test_linear_half(dtype);
    }
  }
  return failures != 0;
}
