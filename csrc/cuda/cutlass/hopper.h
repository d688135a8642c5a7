// Products of half precision on Hopper: persistent kernels whose warps are specialised, fed by TMA.
#pragma once

#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "cuda/cutlass/product.h"

namespace innerloop::cuda {
namespace {

using cute::_1;
using cute::_128;
using cute::_2;
using cute::_256;
using cute::_64;

// The epilogue adds a bias, no more: what follows the product is another pass. Our rules would fit, too, as the
// function of LinCombPerColBiasEltActAux: a call by their number does not make ptxas put wgmma instructions one after
// the other, as an assert does. That takes nvcc more than twice as long, and nobody has measured yet what it gains.
template <class Element, class OrderA, class OrderB>
struct Hopper {
  using Tile = cute::Shape<_128, _256, _64>;
  using Cluster = cute::Shape<_2, _1, _1>;  // which read one tile of b together
  static constexpr int kPiece = 16 / sizeof(Element);
  using Fusion = cutlass::epilogue::fusion::LinCombPerColBias<Element, float, Element, Element>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element, Rows, kPiece, Element, Rows, kPiece,
      cutlass::epilogue::TmaWarpSpecializedCooperative, Fusion>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, OrderA, kPiece, Element, OrderB, kPiece, float,
      Tile, Cluster, cutlass::gemm::collective::StageCountAutoCarveout<(int)sizeof(typename Epilogue::SharedStorage)>,
      cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

// Steps are a number and two that are known; which of the first two is the number depends on the order.
template <class Stride>
Stride steps(int64_t step) {
  Stride stride = {};
  if constexpr (cute::is_static<decltype(cute::get<0>(stride))>::value) {
    cute::get<1>(stride) = step;
  } else {
    cute::get<0>(stride) = step;
  }
  return stride;
}

template <class Element, class OrderA, class OrderB>
int multiply_as(const Queue& queue, const TensorProduct& p) {
  using Gemm = typename Hopper<Element, OrderA, OrderB>::Gemm;
  using Kernel = typename Gemm::GemmKernel;
  typename Gemm::Arguments arguments = {cutlass::gemm::GemmUniversalMode::kGemm, {p.m, p.n, p.k, 1}};
  arguments.mainloop.ptr_A = static_cast<const Element*>(p.a);
  arguments.mainloop.dA = steps<typename Kernel::StrideA>(p.a_step);
  arguments.mainloop.ptr_B = static_cast<const Element*>(p.b);
  arguments.mainloop.dB = steps<typename Kernel::StrideB>(p.b_step);
  arguments.epilogue.ptr_C = static_cast<const Element*>(p.y);
  arguments.epilogue.dC = steps<typename Kernel::StrideC>(p.y_step);
  arguments.epilogue.ptr_D = static_cast<Element*>(p.y);
  arguments.epilogue.dD = steps<typename Kernel::StrideD>(p.y_step);
  auto& fused = arguments.epilogue.thread;
  fused.beta = p.accumulate ? 1.0f : 0.0f;
  fused.bias_ptr = static_cast<const Element*>(p.bias);
  const cudaError_t current = cudaGetDevice(&arguments.hw_info.device_id);
  if (current != cudaSuccess) return current;
  arguments.hw_info.sm_count = queue.processors;
  if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess || Gemm::get_workspace_size(arguments) != 0) {
    return kNotServed;
  }
  return run<Gemm>(queue, arguments);
}

template <class Element>
int multiply_in(const Queue& queue, const TensorProduct& p) {
  return in_orders(p, [&](auto a, auto b) { return multiply_as<Element, decltype(a), decltype(b)>(queue, p); });
}

}  // namespace
}  // namespace innerloop::cuda
