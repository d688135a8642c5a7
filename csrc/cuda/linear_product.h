// A matrix product as the GPU's kernels are told of it.
#pragma once

#include "cuda/linear_epilogue.h"
#include "cuda/list.h"

namespace innerloop::INNERLOOP_ISA {

// y = act(a @ b + bias), a being m x k and b k x n. Steps are in bytes.
struct Product {
  int64_t m, n, k;
  Matrix a, b, y;
  Matrix z;     // gets a @ b + bias, or the activation of it; data may be null
  Matrix bias;  // one of its steps is 0; data may be null
  Act act;
  Drop drop;
  bool keeps_output;  // what z gets
  bool accumulate;    // y goes on from what it holds
};

// The same product with the roles of its factors swapped, which gives y transposed.
inline Matrix transposed(const Matrix& x) { return {x.data, x.column, x.row, nullptr, x.storage}; }
inline Product transposed(const Product& p) {
  Product t = p;
  t.m = p.n;
  t.n = p.m;
  t.a = transposed(p.b);
  t.b = transposed(p.a);
  t.y = transposed(p.y);
  t.z = transposed(p.z);
  t.bias = transposed(p.bias);
  t.drop.row = p.drop.column;
  t.drop.column = p.drop.row;
  return t;
}

}  // namespace innerloop::INNERLOOP_ISA
