// Runs every kernel of the list on every instruction set at hand and prints a hash of each result's bits. Instruction
// sets with FMA, and any number of threads, must agree; tests/test_cpp.py holds one machine's lines against another's.
#include <stdio.h>

#include <map>
#include <string>

#include "core/activations.h"
#include "core/dispatch.h"
#include "core/pool.h"
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

void test_elementary(Dtype dtype) {
  for (const Elementary& e : *kernels().elementary) {
    Tensor x(dtype, {10007}), y(dtype, {10007});
    x.fill(3);
    if (dtype == Dtype::f64) {
      e.f64((const double*)x.view.data, (double*)y.view.data, 10007);
    } else {
      e.f32((const float*)x.view.data, (float*)y.view.data, 10007);
    }
    if (std::string(e.name) != "log") record(e.name, dtype, y);  // the sign of log(-1), a NaN, is the processor's own
  }
}

}  // namespace

int main() {
  check_cpu();
  for (const std::string& isa : isas()) {
    use_isa(isa);
    if (!kernels().has_fma) continue;
    for (int threads : {1, 3}) {
      pool::set_threads(threads);
      for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
        test_elementary(dtype);
        test_activations(dtype);
      }
    }
  }
  return failures != 0;
}
