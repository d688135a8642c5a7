// Products of half precision, where they have no kernels of the device's own.
#include "cuda/cutlass/ampere.h"

namespace innerloop::cuda {

int multiply_half(const Queue& queue, Dtype dtype, const TensorProduct& p) {
  return dtype == Dtype::bf16 ? multiply_in<cutlass::bfloat16_t>(queue, p) : multiply_in<cutlass::half_t>(queue, p);
}

}  // namespace innerloop::cuda
