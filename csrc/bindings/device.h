// A call whose arrays lie on a CUDA device: they are read here, and their work is queued on the kernels of
// innerloop._cuda. All arrays of a call lie on one device and are used on one stream: that of their library, now.
#pragma once

#include <string.h>

#include <memory>
#include <optional>

#include "bindings/arrays.h"
#include "core/errors.h"
#include "cuda/list.h"

namespace innerloop {

// A list of arrays holds one of a CUDA device: those who can serve it catch this.
struct OnDevice : TypeError {
  using TypeError::TypeError;
};

// Whether innerloop._cuda is built and this is an array of a CUDA device.
bool is_on_device(py::handle value);

// Whether a call waits for what it queued, to raise what the kernels found itself: INNERLOOP_CUDA_CHECKED, or set.
bool is_checked();

class DeviceCall {
 public:
  // TypeError for what is no array, or of the CPU; ValueError for an array of another device or stream than the first
  // one's. `name` outlives the view.
  Array in(py::handle value, const char* name);

  // A fresh array of the library and on the device of `like`, in C order; or in the order of its axes.
  Array fresh(py::handle like, Dtype dtype, const Shape& shape);
  Array fresh_like(py::handle like);

  // Queues work(kernels, queue), which returns a cudaError_t, on the arrays' stream, without the GIL. Throws IndexError
  // for a label that a call before this found to be no class; in checked mode, for one that this finds.
  template <class Work>
  void launch(const Work& work) {
    const Current current(*this);
    int error;
    cuda::Fault earlier, fault = {};
    {
      py::gil_scoped_release release;
      error = kernels.take_fault(current.queue, false, &earlier);
      if (error == 0 && earlier.none()) {
        error = work(kernels, current.queue);
        if (error == 0 && is_checked()) error = kernels.take_fault(current.queue, true, &fault);
      }
    }
    check(error);
    refuse(earlier, "an earlier call");
    refuse(fault, "this call");
  }

  DeviceCall();
  DeviceCall(const DeviceCall&) = delete;

 private:
  // Makes the arrays' device the current one for as long as it lives.
  struct Current {
    explicit Current(const DeviceCall& call);
    ~Current();
    const DeviceCall& call;
    int before = -1;
    cuda::Queue queue;
  };

  cuda::Queue limits() const;   // of the device
  void check(int error) const;  // a cudaError_t; RuntimeError unless it is none
  static void refuse(const cuda::Fault& fault, const char* call);
  void read_interface(const py::tuple& fields, TensorView& view, int& on) const;
  void place(const TensorView& view, int on, std::optional<uintptr_t> used_on);

  const cuda::Kernels& kernels;
  std::string first;  // the name of the first array
  int device = -1;
  std::optional<uintptr_t> stream;
  std::string streamed;  // the name of the array that it is of
};

// What the kernels ask of arrays. Dense: elements in some order of the axes without gaps, each at a multiple of its
// size. Of the same order: axis by axis as another. Contiguous: dense in C order.
void check_dense(const TensorView& t);
void check_same_order(const TensorView& t, const TensorView& like);
void check_contiguous(const TensorView& t);
inline bool is_aligned(const TensorView& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

// The entry of the CPU's name in one of the kernels' lists, which are of the same rules.
template <class Entry>
const Entry& find_kernel(const Span<Entry>& list, const char* name) {
  const Entry* entry = list.begin();
  while (strcmp(entry->name, name) != 0) entry++;
  return *entry;
}

// Arrays of one shape, dtype and order, as elementwise kernels take them.
template <size_t n>
cuda::Elements<(int)n> dense_elements(const Array* const (&arrays)[n]) {
  cuda::Elements<(int)n> e;
  e.size = arrays[0]->view.size();
  e.aligned = true;
  for (size_t i = 0; i < n; i++) {
    check_same_order(arrays[i]->view, arrays[0]->view);
    e.data[i] = arrays[i]->view.data;
    e.aligned &= is_aligned(arrays[i]->view);
  }
  return e;
}

// The rows along an axis of a dense array, whatever the order of its axes; and its other axes as `rows`, of no memory,
// which arrays of one element a row are to be in the order of.
cuda::RowShape row_shape(const TensorView& t, int axis, TensorView* rows = nullptr);

inline Storage stored_as(Dtype d) {
  return d == Dtype::bf16 ? Storage::bfloat16 : d == Dtype::f16 ? Storage::float16 : Storage::full;
}

// How values that go with an array lie in memory, for check_weight_dtype has seen them.
inline cuda::Weights weights_of(const std::optional<Array>& values) {
  if (!values) return {nullptr, Storage::full};
  return {values->view.data, stored_as(values->view.dtype)};
}

void bind_device(py::module_& m);

}  // namespace innerloop
