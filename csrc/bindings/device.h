// The one place where a call goes over to the GPU's module: the function of the same name and arguments in
// innerloop._cuda is called where an argument turned out to be an array of a CUDA device.
#pragma once

#include <stdexcept>

#include "bindings/arrays.h"

namespace innerloop {

struct OnDevice : std::runtime_error {
  using runtime_error::runtime_error;
};

// Where the call in progress has a function in innerloop._cuda, and that is built, an array of a CUDA device throws
// OnDevice. Asked of arrays that could not be read by the short ways, which pay nothing for it.
void go_over_if_on_device(py::handle value);

// While one lives, this thread's call may go over.
class MayGoOver {
 public:
  MayGoOver();
  ~MayGoOver();
  MayGoOver(const MayGoOver&) = delete;

 private:
  bool before;
};

// m.def(name, function) for what both modules have.
template <class Result, class... Arguments, class... Extra>
void def_on_any_device(py::module_& m, const char* name, Result (*function)(Arguments...), const Extra&... extra) {
  m.def(
      name,
      [name, function](Arguments... arguments) -> py::object {
        try {
          MayGoOver scope;
          return function(arguments...);
        } catch (const OnDevice&) {
        }
        return py::module_::import("innerloop._cuda").attr(name)(arguments...);
      },
      extra...);
}

}  // namespace innerloop
