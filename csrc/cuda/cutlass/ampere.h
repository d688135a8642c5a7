// Products by the tensor cores' instructions of Ampere, which later devices have, too.
#pragma once

#include <cutlass/gemm/device/gemm_universal_with_broadcast.h>

#include "cuda/cutlass/epilogue.h"
#include "cuda/linear_tensor.h"

namespace innerloop::cuda {
namespace {

using Rows = cutlass::layout::RowMajor;
using Columns = cutlass::layout::ColumnMajor;

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
  Gemm gemm;
  if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess) return kNotServed;
  const auto stream = static_cast<cudaStream_t>(queue.stream);
  if (gemm.initialize(arguments, nullptr, stream) != cutlass::Status::kSuccess ||
      gemm.run(stream) != cutlass::Status::kSuccess) {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? cudaErrorUnknown : error;
  }
  return cudaSuccess;
}

template <class Element>
int multiply_in(const Queue& queue, const TensorProduct& p) {
  if (p.a_by_columns) return p.b_by_columns ? kNotServed : multiply_as<Element, Columns, Rows>(queue, p);
  if (p.b_by_columns) return multiply_as<Element, Rows, Columns>(queue, p);
  return multiply_as<Element, Rows, Rows>(queue, p);
}

}  // namespace
}  // namespace innerloop::cuda
