// Products of bfloat16 on Hopper.
#include "cuda/cutlass/hopper.h"

namespace innerloop::cuda {

int multiply_hopper_bf16(const Queue& queue, const TensorProduct& p) {
  return multiply_in<cutlass::bfloat16_t>(queue, p);
}

}  // namespace innerloop::cuda
