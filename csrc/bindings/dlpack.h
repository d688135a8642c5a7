// DLPack, the protocol by which array libraries lend each other memory: https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <pybind11/numpy.h>

#include "core/tensor.h"

namespace innerloop {

namespace py = pybind11;

// A numpy.ndarray over the memory of an object with __dlpack__, read-only unless the producer allows writing. bfloat16
// arrives in `bfloat16`, a dtype of two bytes. TypeError for another device than the CPU, for a dtype that NumPy has no
// name for, and for a capsule that contradicts itself.
py::array from_dlpack(py::handle value, const py::dtype& bfloat16);

// Whether its type lends tensors by a C function, without a call into Python, no autograd takes down what is done with
// this one now, and its memory holds the numbers as they are.
bool lends_plainly(py::handle value);

// For such a tensor, its view, which is good for as long as the tensor is: nothing is made. False for any other array,
// or of a dtype that no kernel takes; TypeError, or the library's own exception, where it has no memory to read.
bool borrow_view(py::handle value, TensorView& view);

// A fresh tensor of the library of `like`, with memory of ours of so many bytes, and its view; null where that library
// takes none in C. Of a floating dtype.
py::object fresh_tensor(py::handle like, Dtype dtype, const Shape& shape, size_t bytes, TensorView& view);

void bind_dlpack(py::module_& m);

}  // namespace innerloop
