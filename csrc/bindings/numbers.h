// Python numbers and strings as arguments, with errors that name the argument.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/errors.h"

namespace innerloop {

namespace py = pybind11;

inline double number(py::handle value, const char* name) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (!PyErr_Occurred()) return number;
  PyErr_Clear();
  throw TypeError(std::string(name) + " must be a number, got " + std::string(py::repr(value)));
}

inline int64_t integer(py::handle value, const char* name) {
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    PyErr_Clear();
    throw TypeError(std::string(name) + " must be an integer, got " + std::string(py::repr(value)));
  }
  const long long number = PyLong_AsLongLong(index.ptr());
  if (!PyErr_Occurred()) return number;
  PyErr_Clear();
  throw ValueError(std::string(name) + " must fit into 64 bits, got " + std::string(py::repr(value)));
}

inline bool boolean(py::handle value, const char* name) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth >= 0) return truth != 0;
  PyErr_Clear();
  throw TypeError(std::string(name) + " must be True or False, got " + std::string(py::repr(value)));
}

inline std::string text(py::handle value, const char* name) {
  if (PyUnicode_Check(value.ptr())) return value.cast<std::string>();
  throw TypeError(std::string(name) + " must be a string, got " + std::string(py::repr(value)));
}

}  // namespace innerloop
