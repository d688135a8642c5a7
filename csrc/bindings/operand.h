// One of params, grads and the lists of states: an array, or a list or tuple of arrays.
#pragma once

#include <string.h>

#include <charconv>
#include <string>
#include <vector>

#include "bindings/arrays.h"

namespace innerloop {

// Among a list of states, None is an array that is not given.
class Operand {
 public:
  Operand() = default;
  // `optional`: None may stand for the list. OnDevice where the CPU's arrays are asked for and one is of a device.
  Operand(std::string name, py::handle value, bool optional, Devices devices = Devices::cpu) : name(std::move(name)) {
    if (optional && value.is_none()) return;
    given = true;
    listed = PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
    // A tuple of our own holds each array, whatever another thread does to the caller's list meanwhile.
    arrays =
        listed ? py::tuple(py::reinterpret_steal<py::object>(PySequence_Tuple(value.ptr()))) : py::make_tuple(value);
    for (size_t i = 0; i < arrays.size() && devices == Devices::cpu; i++) {
      const py::handle item = PyTuple_GET_ITEM(arrays.ptr(), (py::ssize_t)i);
      if (optional && item.is_none()) continue;
      py::object ndarray = as_ndarray(item, label(i));
      if (!ndarray.is(item)) {
        if (converted.empty()) converted.resize(arrays.size());
        converted[i] = std::move(ndarray);
      }
    }
  }

  bool is_given() const { return given; }
  bool is_given(size_t i) const { return given && !array(i).is_none(); }
  size_t size() const { return arrays.size(); }
  // NumPy's, over the caller's memory; what the caller gave, on a device.
  py::handle array(size_t i) const {
    if (i < converted.size() && converted[i]) return converted[i];
    return PyTuple_GET_ITEM(arrays.ptr(), (py::ssize_t)i);
  }
  // params[3], or params if that is one array; good until the next call.
  const char* label(size_t i) {
    if (!listed) return name.c_str();
    buffer.resize(name.size() + 24);
    char* p = buffer.data();
    memcpy(p, name.data(), name.size());
    p += name.size();
    *p++ = '[';
    p = std::to_chars(p, p + 20, i).ptr;
    *p++ = ']';
    *p = 0;
    return buffer.data();
  }

  std::string name;

 private:
  bool given = false, listed = false;
  py::tuple arrays;
  std::vector<py::object> converted;  // what is not NumPy's own, as NumPy arrays
  std::string buffer;
};

}  // namespace innerloop
