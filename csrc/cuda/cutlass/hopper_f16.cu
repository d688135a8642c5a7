// Products of float16 on Hopper.
#include "cuda/cutlass/hopper.h"

namespace innerloop::cuda {

int multiply_hopper_f16(const Queue& queue, const TensorProduct& p) { return multiply_in<cutlass::half_t>(queue, p); }

}  // namespace innerloop::cuda
