// Compiles every rule as a CUDA kernel with V = Vec<float, 1> and Vec<double, 1>: the rules are written once for the
// CPU and the GPU, and this keeps them so. Nothing here is run or shipped.
#define INNERLOOP_ISA cuda
#include "rules/activations.h"
#include "simd/scalar.h"

namespace innerloop::cuda {

template <class Rule, class T>
__global__ void elementwise(Rule rule, const T* x, const T* dy, T* y, T* dx, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  using V = Vec<T, 1>;
  const V input(x[i]), output = rule.forward(input);
  y[i] = output.v;
  dx[i] = rule.backward(Rule::saves_output ? output : input, V(dy[i])).v;
}

template <class Rule, class T>
void launch(const T* x, const T* dy, T* y, T* dx, int n) {
  const double parameters[kMaxParameters] = {};
  elementwise<<<(n + 255) / 256, 256>>>(make_rule<Rule>(parameters), x, dy, y, dx, n);
}

template <class... Rules>
void launch_all(List<Rules...>, float* f, double* d, int n) {
  (launch<Rules>(f, f, f, f, n), ...);
  (launch<Rules>(d, d, d, d, n), ...);
}

void compile_activations(float* f, double* d, int n) { launch_all(Activations{}, f, d, n); }

}  // namespace innerloop::cuda
