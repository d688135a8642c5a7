// What the bindings of the dense layer and of its loss share.
#pragma once

#include <initializer_list>
#include <optional>

#include "bindings/arrays.h"
#include "core/linear.h"

namespace innerloop {

// The argument b of a layer with n outputs, if it is not None.
std::optional<Array> optional_bias(Arguments& arguments, py::handle b, const TensorView& x, int64_t n);

// The gradients of a dense layer: fresh, or those of the caller's tuple `out`.
struct LinearGradients {
  std::optional<Array> dx;
  Array dw;
  std::optional<Array> db;

  // `without_dx` and `without_db` say why there is none; null where there is. No output may share a byte with another
  // or with an input, of which some may be null.
  LinearGradients(Arguments& arguments, py::handle out, const TensorView& x, int64_t n, const char* without_dx,
                  const char* without_db, std::initializer_list<const Array*> inputs);

  const TensorView* db_view() const { return db ? &db->view : nullptr; }
  void copy_reference(const py::tuple& gradients) const;
  py::tuple result(const Arguments& arguments) const;
};

// How a kernel of a device is told of an array: its rows, in C order of all axes but the last, lie evenly apart.
Matrix matrix_on_device(const TensorView& t);
Strided vector_on_device(const TensorView* t);  // null: none
bool is_tf32_allowed();

}  // namespace innerloop
