// The dense layer on a GPU: its products, and what stands around them.
#include "cuda/launch.h"
#include "cuda/linear_derivative.h"
#include "cuda/linear_simt.h"
#include "cuda/linear_tensor.h"

namespace innerloop::cuda {
namespace {

template <class Body>
int launch_tiles(const Queue& queue, const Body& body, int64_t tiles) {
  return launch<Body::threads>(queue, tiles < INT32_MAX ? tiles : INT32_MAX, body, Body::shared_bytes);
}

// Large tiles where they fill the device: they take half the shared memory's accesses for a product.
template <class S>
int multiply_simt(const Queue& queue, const Product& p) {
  if constexpr (sizeof(S) == 4) {
    const SimtProduct<S, 8> large(p);
    if (large.tiles() >= queue.processors) return launch_tiles(queue, large, large.tiles());
  }
  const SimtProduct<S, 4> small(p);
  return launch_tiles(queue, small, small.tiles());
}

#ifdef INNERLOOP_CUTLASS
constexpr bool kHasTensorCores = true;
#else
constexpr bool kHasTensorCores = false;
#endif

#ifdef INNERLOOP_CUTLASS_HOPPER
bool is_hopper() {
  int device, major;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9;
}
#else
constexpr bool is_hopper() { return false; }
#endif

template <class S>
int multiply_tensor(const Queue& queue, Dtype dtype, bool hopper, const TensorProduct& p) {
  (void)queue, (void)dtype, (void)hopper, (void)p;
#ifdef INNERLOOP_CUTLASS
  if constexpr (sizeof(S) == 4) return multiply_tf32(queue, p);
#endif
#ifdef INNERLOOP_CUTLASS_HOPPER
  if (hopper) return (dtype == Dtype::bf16 ? multiply_hopper_bf16 : multiply_hopper_f16)(queue, p);
#endif
#ifdef INNERLOOP_CUTLASS_HALF
  return multiply_half(queue, dtype, p);
#endif
  return kNotServed;
}

// By tensor cores, where they can; dropout, and on Hopper the activation, is another pass over what they left.
template <class S>
int multiply_fast(const Queue& queue, Dtype dtype, const Product& p) {
  const bool hopper = sizeof(S) == 2 && is_hopper(), kept = p.z.data != nullptr, sums_kept = kept && !p.keeps_output;
  const bool pass = p.drop.wanted || (hopper && (kept || !is_identity(p.act)));
  Product sums = p;
  if (pass) {
    sums.act = identity();
    sums.drop = {};
    sums.y = sums_kept ? p.z : p.y;
    sums.z = {};
  }
  TensorProduct t;
  if ((pass && p.accumulate) || !fits_tensor_cores(sums, sizeof(S), t)) return kNotServed;
  const int error = multiply_tensor<S>(queue, dtype, hopper, t);
  if (error != cudaSuccess || !pass) return error;
  const FinishPass<S> rest(p.m, p.n, sums.y, p.y, sums_kept ? Matrix{} : p.z, p.act, p.drop);
  return launch_tiles(queue, rest, rest.tasks());
}

template <class S>
int multiply(const Queue& queue, Dtype dtype, bool tf32, const Product& given) {
  // What is written side by side along columns is written as rows of the transposed.
  const Product p = given.y.row == sizeof(S) && given.y.column != sizeof(S) ? transposed(given) : given;
  if constexpr (sizeof(S) < 8) {
    if (kHasTensorCores && (sizeof(S) == 2 || tf32)) {
      const int served = multiply_fast<S>(queue, dtype, p);
      if (served != kNotServed) return served;
    }
  }
  return multiply_simt<S>(queue, p);
}

}  // namespace

const bool has_tensor_cores = kHasTensorCores;

int linear_forward(const Queue& queue, Dtype dtype, bool tf32, const Linear& l) {
  Product p = {};
  p.m = l.m;
  p.n = l.n;
  p.k = l.k;
  p.a = l.x;
  p.b = l.w;
  p.y = l.y;
  p.z = l.z;
  p.bias = {l.bias.data, 0, l.bias.stride, nullptr, l.bias.storage};
  p.act = make_act(l.activation, l.parameters);
  p.drop = make_drop(l.dropout, l.n, 1);
  p.keeps_output = l.keeps_output;
  return with_storage(dtype, [&](auto s) { return multiply<decltype(s)>(queue, dtype, tf32, p); });
}

int linear_backward(const Queue& queue, Dtype dtype, bool tf32, const LinearBackward& l, const DropoutWork* dropout) {
  const bool bias = l.db.data != nullptr && !l.without_dw, made = l.saved.data != nullptr || dropout != nullptr;
  return with_storage(dtype, [&](auto s) {
    using S = decltype(s);
    using T = typename ComputedAs<S>::type::scalar;
    Matrix dz = l.dy;
    const Scratch of_dz(queue, made ? (size_t)(l.m * l.n) * sizeof(S) : 0);
    if (of_dz.error != cudaSuccess) return of_dz.error;
    if (made) dz = {static_cast<char*>(of_dz.data), l.n * (ptrdiff_t)sizeof(S), sizeof(S), nullptr, l.dy.storage};
    Derivative<S> derivative(l.m, l.n, l.dy, l.saved, made ? dz : Matrix{}, make_act(l.activation, l.parameters),
                             make_drop(dropout, l.n, 1));
    const Scratch sums(queue, bias ? (size_t)(derivative.chunks() * l.n) * sizeof(T) : 0);
    if (sums.error != cudaSuccess) return sums.error;
    derivative.sums = sums.data;
    int error = cudaSuccess;
    if (made || bias) error = launch_tiles(queue, derivative, derivative.chunks() * derivative.strips());
    if (error == cudaSuccess && bias) {
      const ColumnSums<S> add_up = {derivative.chunks(), l.n, sums.data, l.db, l.accumulate_dw};
      error = launch<kBlock>(queue, blocks_for(queue, l.n), add_up);
    }
    Product p = {};
    p.act = identity();
    if (error == cudaSuccess && !l.without_dw) {
      p.m = l.k;
      p.n = l.n;
      p.k = l.m;
      p.a = transposed(l.x);
      p.b = dz;
      p.y = l.dw;
      p.accumulate = l.accumulate_dw;
      error = multiply<S>(queue, dtype, tf32, p);
    }
    if (error == cudaSuccess && !l.without_dx) {
      p.m = l.m;
      p.n = l.k;
      p.k = l.n;
      p.a = dz;
      p.b = transposed(l.w);
      p.y = l.dx;
      p.accumulate = l.accumulate_dx;
      error = multiply<S>(queue, dtype, tf32, p);
    }
    return error;
  });
}

}  // namespace innerloop::cuda
