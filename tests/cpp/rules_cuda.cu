// Compiles every rule as a CUDA kernel with V = Vec<float, 1> and Vec<double, 1>: the rules are written once for the
// CPU and the GPU, and this keeps them so. Nothing here is run or shipped.
#define INNERLOOP_ISA cuda
#include "rules/activations.h"
#include "rules/dropout.h"
#include "rules/gated.h"
#include "rules/losses.h"
#include "rules/norms.h"
#include "rules/optimizers.h"
#include "rules/philox.h"
#include "rules/prelu.h"
#include "rules/softmax.h"
#include "rules/softmax_cross_entropy.h"
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
__global__ void gated(const T* x, T* y) {
  using V = Vec<T, 1>;
  y[0] = Rule::forward(V(x[0]), V(x[1])).v;
  y[1] = Rule::gate_backward(V(x[0]), V(x[1]), V(x[2])).v;
  y[2] = Rule::value_backward(V(x[0]), V(x[2])).v;
}

template <class T>
__global__ void prelu(const T* x, T* y) {
  using V = Vec<T, 1>;
  y[0] = Prelu::forward(V(x[0]), V(x[1])).v;
  y[1] = (Prelu::backward(V(x[0]), V(x[1]), V(x[2])) + Prelu::slope_term(V(x[0]), V(x[2]))).v;
}

template <class T>
__global__ void cross_entropy(CrossEntropy rule, const T* x, T* y) {
  using V = Vec<T, 1>;
  const V share = rule.share(V(x[0]), V(x[1])) + rule.smooth_share(V(x[0]));
  const V loss = rule.label_loss(V(x[0]), V(x[1]), V(x[2])) + rule.shared_loss(share, V(x[3]), V(x[2]));
  const V z = rule.z_value(V(x[0]), V(x[1])) + rule.z_slope(V(x[2]), V(x[3]));
  y[0] = (loss + rule.gradient(V(x[4]), V(x[5]), share) + z).v;
}

template <class Rule, class T>
__global__ void loss(Rule rule, const T* x, const T* t, T* y, T* dx, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  using V = Vec<T, 1>;
  LossAndSlope<V> both;
  if constexpr (std::is_same_v<Rule, BinaryCrossEntropyWithLogits>) {
    both = rule.both(V(x[i]), V(t[i]), V(1));
  } else {
    both = rule.both(V(x[i]), V(t[i]));
  }
  y[i] = both.loss.v;
  dx[i] = both.slope.v;
}

template <class T>
__global__ void nll(const T* x, T* y) {
  using V = Vec<T, 1>;
  y[0] = (NegativeLogLikelihood::loss(V(x[0]), V(x[1])) + NegativeLogLikelihood::slope(V(x[2]))).v;
}

template <class T>
__global__ void softmax(const T* x, T* y) {
  using V = Vec<T, 1>;
  y[0] = Softmax::backward(V(x[0]), Softmax::forward(V(x[1]), V(x[2])), V(x[3])).v;
  y[1] = LogSoftmax::backward(V(x[0]), LogSoftmax::forward(V(x[1]), V(x[2]), V(x[3])), V(x[4])).v;
}

template <class T>
__global__ void drop(Dropout rule, Philox philox, const T* x, T* y, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  Vec<uint64_t, 1> word[1][4];
  philox.blocks((uint64_t)i / 4, Vec<uint64_t, 1>(0), word);
  y[i] = rule.forward(Vec<T, 1>(x[i]), typename Vec<T, 1>::bits_type((uint32_t)word[0][i % 4].v)).v;
}

template <class Rule, class T>
__global__ void norm(const T* x, T* y) {
  using V = Vec<T, 1>;
  const V variance = Rule::variance(V(x[0]), V(x[1]), V(x[2]));
  y[0] = Rule::backward(V(x[3]), V(x[4]), V(x[5]), V(x[6])).v + reciprocal_deviation(variance, V(x[7])).v;
  const auto f = BatchNorm::forward(x[0], x[1], x[2], x[3], x[4]);
  const auto b = BatchNorm::backward(x[0], x[1], x[2], x[3], x[4]);
  y[1] = T(f.scale + f.shift + b.scale + b.slope + b.shift + BatchNorm::running(x[0], x[1], x[2]) +
           BatchNorm::dweight(x[0], x[1]));
}

template <class Step, int states, class T>
__global__ void optimizer(Step step, GradientShare<T> share, T* p, const T* g, T* memory, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  using V = Vec<T, 1>;
  V state[states];
  for (int s = 0; s < states; s++) state[s] = V(memory[s * n + i]);
  constexpr unsigned every = (1u << states) - 1;
  p[i] = step.template update<every>(V(p[i]), share.of(V(p[i]), V(g[i])), state).v;
  for (int s = 0; s < states; s++) memory[s * n + i] = state[s].v;
}

template <class Rule, class T>
void launch(const T* x, const T* dy, T* y, T* dx, int n) {
  const double parameters[kMaxParameters] = {};
  elementwise<<<(n + 255) / 256, 256>>>(make_rule<Rule>(parameters), x, dy, y, dx, n);
}

template <class Rule, class T>
void launch_step(T* p, const T* g, T* memory, int n) {
  const double parameters[kMaxParameters] = {};
  using Step = typename Rule::template Step<T>;
  constexpr int states = sizeof(Rule::states) / sizeof(Rule::states[0]);
  const GradientShare<T> share = {1, 0};
  optimizer<Step, states><<<(n + 255) / 256, 256>>>(Step(make_rule<Rule>(parameters), 1), share, p, g, memory, n);
}

template <class... Rules>
void launch_activations(List<Rules...>, float* f, double* d, int n) {
  (launch<Rules>(f, f, f, f, n), ...);
  (launch<Rules>(d, d, d, d, n), ...);
}

template <class... Rules>
void launch_losses(List<Rules...>, float* f, double* d, int n) {
  const double parameters[kMaxParameters] = {};
  (loss<<<1, 1>>>(make_rule<Rules>(parameters), f, f, f, f, n), ...);
  (loss<<<1, 1>>>(make_rule<Rules>(parameters), d, d, d, d, n), ...);
}

template <class... Rules>
void launch_gated(List<Rules...>, float* f, double* d) {
  (gated<Rules><<<1, 1>>>(f, f), ...);
  (gated<Rules><<<1, 1>>>(d, d), ...);
}

template <class... Rules>
void launch_steps(List<Rules...>, float* f, double* d, int n) {
  (launch_step<Rules>(f, f, f, n), ...);
  (launch_step<Rules>(d, d, d, n), ...);
}

void compile_all(float* f, double* d, int n) {
  launch_activations(Activations{}, f, d, n);
  launch_gated(GatedPairs{}, f, d);
  launch_losses(ElementwiseLosses{}, f, d, n);
  launch_steps(Optimizers{}, f, d, n);
  nll<<<1, 1>>>(f, f);
  nll<<<1, 1>>>(d, d);
  prelu<<<1, 1>>>(f, f);
  prelu<<<1, 1>>>(d, d);
  cross_entropy<<<1, 1>>>(CrossEntropy{1, 0}, f, f);
  cross_entropy<<<1, 1>>>(CrossEntropy{1, 0}, d, d);
  softmax<<<1, 1>>>(f, f);
  softmax<<<1, 1>>>(d, d);
  drop<<<1, 1>>>(Dropout(0.5), Philox{1, 2}, f, f, n);
  drop<<<1, 1>>>(Dropout(0.5), Philox{1, 2}, d, d, n);
  norm<LayerNorm><<<1, 1>>>(f, f);
  norm<LayerNorm><<<1, 1>>>(d, d);
  norm<RmsNorm><<<1, 1>>>(f, f);
  norm<RmsNorm><<<1, 1>>>(d, d);
}

}  // namespace innerloop::cuda
