// Python numbers and strings as arguments, with errors that name the argument.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/errors.h"

namespace innerloop {

namespace py = pybind11;

// After a conversion failed: forgets the TypeError or ValueError that a message of ours replaces, throws any other,
// such as a KeyboardInterrupt, and an overflow as the ValueError it is.
inline void forget_conversion_error(py::handle value, const char* name) {
  if (!PyErr_Occurred()) return;
  if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
    PyErr_Clear();
    throw ValueError(std::string(name) + " is too large, got " + std::string(py::repr(value)));
  }
  if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError)) {
    throw py::error_already_set();
  }
  PyErr_Clear();
}

inline double number(py::handle value, const char* name) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (!PyErr_Occurred()) return number;
  forget_conversion_error(value, name);
  throw TypeError(std::string(name) + " must be a number, got " + std::string(py::repr(value)));
}

inline int64_t integer(py::handle value, const char* name) {
  py::object index;
  if (!PyBool_Check(value.ptr())) index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    forget_conversion_error(value, name);
    throw TypeError(std::string(name) + " must be an integer, got " + std::string(py::repr(value)));
  }
  const long long number = PyLong_AsLongLong(index.ptr());
  if (!PyErr_Occurred()) return number;
  PyErr_Clear();
  throw ValueError(std::string(name) + " must fit into 64 bits, got " + std::string(py::repr(value)));
}

// An integer of 64 bits without a sign.
inline uint64_t word64(py::handle value, const char* name) {
  py::object index;
  if (!PyBool_Check(value.ptr())) index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    forget_conversion_error(value, name);
    throw TypeError(std::string(name) + " must be an integer, got " + std::string(py::repr(value)));
  }
  const unsigned long long number = PyLong_AsUnsignedLongLong(index.ptr());
  if (!PyErr_Occurred()) return number;
  PyErr_Clear();
  throw ValueError(std::string(name) + " must lie in [0, 2^64), got " + std::string(py::repr(value)));
}

// Python's and NumPy's bools, and 0 and 1.
inline bool boolean(py::handle value, const char* name) {
  if (value.ptr() == Py_True) return true;
  if (value.ptr() == Py_False) return false;
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  const long number = index ? PyLong_AsLong(index.ptr()) : -1;
  PyErr_Clear();
  if (number == 0 || number == 1) return number == 1;
  if (py::isinstance(value, py::module_::import("numpy").attr("bool_"))) return PyObject_IsTrue(value.ptr()) == 1;
  throw TypeError(std::string(name) + " must be True or False, got " + std::string(py::repr(value)));
}

inline std::string text(py::handle value, const char* name) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_Check(value.ptr()) ? PyUnicode_AsUTF8AndSize(value.ptr(), &size) : nullptr;
  if (utf8 != nullptr) return std::string(utf8, (size_t)size);
  PyErr_Clear();
  throw TypeError(std::string(name) + " must be a string, got " + std::string(py::repr(value)));
}

}  // namespace innerloop
