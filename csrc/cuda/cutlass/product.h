// What the products of either kind of tensor core share: the orders of their factors, and the launch.
#pragma once

#include <cuda_runtime_api.h>
#include <cutlass/cutlass.h>
#include <cutlass/layout/matrix.h>

#include "cuda/linear_tensor.h"

namespace innerloop::cuda {
namespace {

using Rows = cutlass::layout::RowMajor;
using Columns = cutlass::layout::ColumnMajor;

// multiply(order of a, order of b), as the product has them.
template <class Multiply>
int in_orders(const TensorProduct& p, const Multiply& multiply) {
  if (p.a_by_columns) return p.b_by_columns ? kNotServed : multiply(Columns(), Rows());
  return p.b_by_columns ? multiply(Rows(), Columns()) : multiply(Rows(), Rows());
}

// Queues a product that can be implemented and needs no workspace.
template <class Gemm>
int run(const Queue& queue, const typename Gemm::Arguments& arguments) {
  Gemm gemm;
  const auto stream = static_cast<cudaStream_t>(queue.stream);
  if (gemm.initialize(arguments, nullptr, stream) != cutlass::Status::kSuccess ||
      gemm.run(stream) != cutlass::Status::kSuccess) {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? cudaErrorUnknown : error;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace innerloop::cuda
