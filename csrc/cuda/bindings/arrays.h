// Between Python's arrays on CUDA devices and TensorView. An Arguments belongs to one call, whose arrays all lie on one
// device and are used on one stream: that of their library, now.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "core/tensor.h"
#include "cuda/list.h"

namespace innerloop::cuda {

namespace py = pybind11;

struct Array {
  py::object owner;  // keeps the memory
  py::object caller;
  TensorView view;
};

class Arguments {
 public:
  // TypeError for what is no array, or of the CPU; ValueError for an array of another device or stream than the first
  // one's. `name` outlives the view.
  Array in(py::handle value, const char* name);

  // The caller's `out`, checked to be writeable and as `like` is; or a fresh array of the same library if it is None.
  Array out(py::handle value, const char* name, const Array& like);

  // Ready to launch on the arrays' stream: makes their device the current one, until the call ends.
  Queue queue();

  Arguments() = default;
  Arguments(const Arguments&) = delete;
  ~Arguments();

 private:
  void place(const TensorView& view, int device, std::optional<uintptr_t> stream);

  std::string first;  // the name of the first array
  int device = -1, device_before = -1;
  std::optional<uintptr_t> stream;
  std::string streamed;  // the name of the array that it is of
};

// What the kernels ask of every array: elements in some order of the axes without gaps, each at a multiple of its size;
// and that the others' lie in the same order.
void check_dense(const TensorView& t);
void check_same_order(const TensorView& t, const TensorView& like);
// Refuses an output that shares memory with an input without being it.
void check_overlap(const Array& out, const Array& in);

bool is_aligned(const TensorView& t);
void check(int error);  // a cudaError_t; RuntimeError unless it is none

void bind_activations(py::module_& m);
void bind_optimizers(py::module_& m);

}  // namespace innerloop::cuda
