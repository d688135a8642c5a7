// Between Python's arrays and TensorView. An Arguments belongs to one call: it reads the caller's arrays in place,
// whatever library they are of, allocates outputs, and hands results back in the caller's own library.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace innerloop {

namespace py = pybind11;

struct Array {
  py::object owner;   // a numpy.ndarray over the same memory; or a tensor, where its library lends and takes them in C
  py::object caller;  // what the caller passed, or none for a fresh array
  TensorView view;
  bool on_device = false;
};

// A numpy.ndarray over the memory of any library's array, itself if it is one; TypeError if it is no array.
py::object as_ndarray(py::handle value, const char* name);
// The view of a numpy.ndarray. `name` outlives the view.
void read_view(py::handle ndarray, const char* name, TensorView& view);

// The reference backend, python/innerloop/reference, called as innerloop.reference.<noun>.<function>.
bool reference_in_use();

class DeviceCall;

// Where a call's arrays may lie: what only the CPU has a kernel for refuses the others.
enum class Devices { cpu, any };

class Arguments {
 public:
  explicit Arguments(Devices devices = Devices::cpu);
  ~Arguments();

  // An input; TypeError if it is no array, or lies elsewhere than those before it. `name` outlives the call.
  Array in(py::handle value, const char* name);

  // The caller's `out`, checked to be writeable, of this dtype and shape; or a fresh array if it is None.
  Array out(py::handle value, const char* name, Dtype dtype, const Shape& shape);
  Array fresh(Dtype dtype, const Shape& shape);
  // The same, of the dtype and shape of an input; a fresh one of a device has its order of the axes, too.
  Array out(py::handle value, const char* name, const Array& like);

  // Null where the arrays lie on the CPU. Bindings of Devices::any ask before they call a kernel.
  DeviceCall* device() const { return on_device.get(); }

  // Refuses an output that shares memory with an input, unless both are the same view and `in_place` allows that.
  static void check_overlap(const Array& out, const Array& in, bool in_place);

  // The same for all outputs of a call, some of which may be null: none shares memory with another or with an input,
  // but the first with those of `in_place`.
  static void check_outputs(std::initializer_list<const Array*> written, std::initializer_list<const Array*> read,
                            std::initializer_list<const Array*> in_place = {});

  // The array as the call returns it: the caller's own `out`, or a fresh one in the library of the first argument.
  py::object result(const Array& array) const;
  // A 0-d scalar of what this dtype computes in: a NumPy scalar, or the library's 0-d array.
  py::object scalar(Dtype dtype, double value);

 private:
  py::object like;                          // the first argument that is not NumPy's
  const bool direct = !reference_in_use();  // tensors stay tensors: what the reference gets are NumPy's arrays
  bool may_go_over;                         // until the first array of the CPU
  std::unique_ptr<DeviceCall> on_device;
};

// What an array that may be absent is to those who take pointers, and to Python.
inline const Array* array_or_null(const std::optional<Array>& a) { return a ? &*a : nullptr; }
inline const TensorView* view_or_null(const std::optional<Array>& a) { return a ? &a->view : nullptr; }
inline py::object owner_or_none(const std::optional<Array>& a) { return a ? py::object(a->owner) : py::none(); }

// The outputs that a caller gave as a tuple, or None for each. `names` is for the message, such as (dx, dw, db).
py::tuple given_outputs(py::handle out, size_t count, const char* names);

// Values for the numbers that a rule takes, from a dict of keyword arguments; the others take their defaults.
struct ParameterValues {
  double value[kMaxParameters];
};
ParameterValues parameter_values(const char* owner, const Parameter* parameters, int count, const py::dict& given);

py::object reference(const char* noun);
void copy_into(const Array& out, py::handle values);  // numpy.copyto: what the reference returned, into the output

void bind_backend(py::module_& m);

}  // namespace innerloop
