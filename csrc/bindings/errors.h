// Exceptions of core/errors.h, as Python's of the same names: registered by each module.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>

#include "core/errors.h"

namespace innerloop {

inline void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const TypeError& e) {
    PyErr_SetString(PyExc_TypeError, e.what());
  } catch (const ValueError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const IndexError& e) {
    PyErr_SetString(PyExc_IndexError, e.what());
  }
}

}  // namespace innerloop
