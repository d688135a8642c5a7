// DLPack, the protocol by which array libraries lend each other memory: https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <pybind11/numpy.h>

namespace innerloop {

namespace py = pybind11;

// A numpy.ndarray over the memory of an object with __dlpack__, read-only unless the producer allows writing. bfloat16
// arrives in `bfloat16`, a dtype of two bytes. TypeError for another device than the CPU, for a dtype that NumPy has no
// name for, and for a capsule that contradicts itself.
py::array from_dlpack(py::handle value, const py::dtype& bfloat16);

// Whether its type lends tensors by a C function, without a call into Python.
bool has_exchange(py::handle value);

void bind_dlpack(py::module_& m);

}  // namespace innerloop
