// What each noun's file adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace innerloop {

void bind_activations(pybind11::module_& m);
void bind_gated(pybind11::module_& m);
void bind_prelu(pybind11::module_& m);
void bind_optimizers(pybind11::module_& m);
void bind_softmax(pybind11::module_& m);
void bind_softmax_cross_entropy(pybind11::module_& m);
void bind_elementwise_losses(pybind11::module_& m);
void bind_nll_loss(pybind11::module_& m);
void bind_probe(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_storage(pybind11::module_& m);
void bind_linear_cross_entropy(pybind11::module_& m);
void bind_norms(pybind11::module_& m);
void bind_dropout(pybind11::module_& m);
void bind_mlp(pybind11::module_& m);

}  // namespace innerloop
