// The one symbol that an instruction set exports: its Kernels.
#include "kernels.h"

#include "cpu/tables.h"
#include "simd/simd.h"

#define INNERLOOP_STRING(x) #x
#define INNERLOOP_NAME(x) INNERLOOP_STRING(x)

namespace innerloop::INNERLOOP_ISA {

extern const Kernels kernels;
const Kernels kernels = {INNERLOOP_NAME(INNERLOOP_ISA),
                         kVectorBytes,
                         kHasFma,
                         &elementary,
                         &storages,
                         &activations,
                         &prelu,
                         &gated,
                         &softmaxes,
                         &linear,
                         &softmax_cross_entropy,
                         &elementwise_losses,
                         &nll_loss,
                         &cross_entropy_parts,
                         &optimizers,
                         &gradients,
                         &row_norms,
                         &batch_norm,
                         &random,
                         &probes};

}  // namespace innerloop::INNERLOOP_ISA
