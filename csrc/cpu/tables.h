// The constant tables of one instruction set: each noun's file defines its own, kernels.cpp gathers them.
#pragma once

#include "kernels.h"

namespace innerloop::INNERLOOP_ISA {

extern const Span<Elementary> elementary;
extern const Storages storages;
extern const Span<Activation> activations;
extern const ByDtype<PreluKernels> prelu;
extern const Span<GatedPair> gated;
extern const Span<Optimizer> optimizers;
extern const ByDtype<GradientKernels> gradients;
extern const Span<SoftmaxFunction> softmaxes;
extern const ByDtype<CrossEntropyKernel> softmax_cross_entropy;
extern const Span<ElementwiseLoss> elementwise_losses;
extern const ByDtype<NllKernels> nll_loss;
extern const Span<RowNormFunction> row_norms;
extern const ByDtype<BatchNormKernels> batch_norm;
extern const Random random;
extern const ByDtype<CrossEntropyParts> cross_entropy_parts;
extern const Probes probes;
extern const ByDtype<LinearKernels> linear;

}  // namespace innerloop::INNERLOOP_ISA
