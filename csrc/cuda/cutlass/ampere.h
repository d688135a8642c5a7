// Products by the tensor cores' instructions of Ampere, which later devices have, too.
#pragma once

#include <cutlass/gemm/device/gemm_universal_with_broadcast.h>

#include "cuda/cutlass/epilogue.h"
#include "cuda/cutlass/product.h"

namespace innerloop::cuda {
namespace {

template <class Element>
struct Shape;
template <>
struct Shape<float> {
  using Tile = cutlass::gemm::GemmShape<128, 128, 16>;
  using Warp = cutlass::gemm::GemmShape<64, 64, 16>;
  using Instruction = cutlass::gemm::GemmShape<16, 8, 8>;
};
struct HalfShape {
  using Tile = cutlass::gemm::GemmShape<128, 128, 32>;
  using Warp = cutlass::gemm::GemmShape<64, 64, 32>;
  using Instruction = cutlass::gemm::GemmShape<16, 8, 16>;
};
template <>
struct Shape<cutlass::bfloat16_t> : HalfShape {};
template <>
struct Shape<cutlass::half_t> : HalfShape {};

template <class Element, class OrderA, class OrderB>
int multiply_as(const Queue& queue, const TensorProduct& p) {
  constexpr int kPiece = 16 / sizeof(Element);
  using Of = Shape<Element>;
  using Gemm = cutlass::gemm::device::GemmUniversalWithBroadcast<
      Element, OrderA, Element, OrderB, Element, Rows, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
      typename Of::Tile, typename Of::Warp, typename Of::Instruction, Finish<Element, kPiece>,
      cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, 4, kPiece, kPiece, cutlass::arch::OpMultiplyAdd>;
  const typename Gemm::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm, {p.m, p.n, p.k}, 1,
                                           {p.act, p.accumulate}, p.a, p.b, p.y, p.y, const_cast<void*>(p.bias), p.z, 0,
                                           0, 0, 0, 0, 0, p.a_step, p.b_step, p.y_step, p.y_step, 0, p.z_step);
  if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess) return kNotServed;
  return run<Gemm>(queue, arguments);
}

template <class Element>
int multiply_in(const Queue& queue, const TensorProduct& p) {
  return in_orders(p, [&](auto a, auto b) { return multiply_as<Element, decltype(a), decltype(b)>(queue, p); });
}

}  // namespace
}  // namespace innerloop::cuda
