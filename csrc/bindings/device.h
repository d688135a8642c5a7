// The one place where a call goes over to the GPU's module: the function of the same name and arguments in
// innerloop._cuda is called where an argument turned out to be a GPU's array.
#pragma once

#include "bindings/arrays.h"

namespace innerloop {

// m.def(name, function) for what both modules have. The arrays of the CPU pay nothing for it: to_numpy raises OnDevice
// in the place of a TypeError, and only where that module is built.
template <class Result, class... Arguments, class... Extra>
void def_on_any_device(py::module_& m, const char* name, Result (*function)(Arguments...), const Extra&... extra) {
  m.def(
      name,
      [name, function](Arguments... arguments) -> py::object {
        try {
          return function(arguments...);
        } catch (py::error_already_set& error) {
          if (reference_in_use() || !error.matches(py::module_::import("innerloop._arrays").attr("OnDevice"))) throw;
        }
        return py::module_::import("innerloop._cuda").attr(name)(arguments...);
      },
      extra...);
}

}  // namespace innerloop
