// Every activation's arithmetic, forward beside derivative, over any V (simd/vector.h).
// To add one: write its struct here, put it in `Activations` below, and write its NumPy reference in
// python/innerloop/reference/activations.py. Nothing else needs to know.
//
// A rule has
//   name            as in the public function
//   parameters[]    optional: name and default of each number it takes, which its constructor is given in order
//   saves_output    whether `backward` reads the output y or the input x: a layer keeps just that one
//   forward(x)      y
//   backward(s, dy) dx, where s is y if saves_output, else x
#pragma once

#include "kernels.h"
#include "rules/list.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

// y = x
struct Identity {
  static constexpr const char* name = "identity";
  static constexpr bool saves_output = false;
  template <class V>
  HD V forward(V x) const {
    return x;
  }
  template <class V>
  HD V backward(V, V dy) const {
    return dy;
  }
};

// y = max(x, 0); the derivative at 0 is 0. NaN passes through, as select takes x where x <= 0 is false.
struct Relu {
  static constexpr const char* name = "relu";
  static constexpr bool saves_output = true;
  template <class V>
  HD V forward(V x) const {
    return select(x <= V(0), V(0), x);
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return select(y <= V(0), V(0), dy);
  }
};

// y = x > 0 ? x : negative_slope * x; the derivative at 0 is the slope (Maas, Hannun & Ng 2013).
struct LeakyRelu {
  static constexpr const char* name = "leaky_relu";
  static constexpr Parameter parameters[] = {{"negative_slope", 0.01}};
  static constexpr bool saves_output = false;  // a negative slope would hide the sign of x
  double negative_slope;
  template <class V>
  HD V forward(V x) const {
    return select(x > V(0), x, x * V(negative_slope));
  }
  template <class V>
  HD V backward(V x, V dy) const {
    return select(x > V(0), dy, dy * V(negative_slope));
  }
};

// y = 1 / (1 + exp(-x)); dy/dx = y (1 - y)
struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static constexpr bool saves_output = true;
  template <class V>
  HD V forward(V x) const {
    return sigmoid(x);
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return dy * (y * (V(1) - y));
  }
};

// dy/dx = 1 - y^2
struct Tanh {
  static constexpr const char* name = "tanh";
  static constexpr bool saves_output = true;
  template <class V>
  HD V forward(V x) const {
    return tanh(x);
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return dy * fma(-y, y, V(1));
  }
};

// y = x Phi(x), Phi the normal distribution; dy/dx = Phi(x) + x phi(x) (Hendrycks & Gimpel 2016).
struct Gelu {
  static constexpr const char* name = "gelu";
  static constexpr bool saves_output = false;
  template <class V>
  HD V forward(V x) const {
    return x * normal(x).cdf;
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const Normal<V> n = normal(x);
    return dy * fma(x, n.pdf, n.cdf);
  }
};

// y = x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): the sigmoid keeps its relative accuracy
// where 1 + tanh u cancels. dy/dx = s + x s (1 - s) 2u' (Hendrycks & Gimpel 2016, section 2).
struct GeluTanh {
  static constexpr const char* name = "gelu_tanh";
  static constexpr bool saves_output = false;
  static constexpr double twice_root_2_over_pi = 1.5957691216057308;
  static constexpr double cubic = 0.044715;
  template <class V>
  HD V forward(V x) const {
    return x * gate(x);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V s = gate(x);
    const V slope = V(twice_root_2_over_pi) * fma(V(3 * cubic) * x, x, V(1));
    return dy * fma(x * (s * (V(1) - s)), slope, s);  // in this order: x * slope overflows from 1e13 on
  }

 private:
  template <class V>
  static HD V gate(V x) {
    return sigmoid(V(twice_root_2_over_pi) * x * fma(V(cubic) * x, x, V(1)));
  }
};

// y = x s, s = sigmoid(x); dy/dx = s (1 + x (1 - s)) (Elfwing, Uchibe & Doya 2017).
struct Silu {
  static constexpr const char* name = "silu";
  static constexpr bool saves_output = false;
  template <class V>
  HD V forward(V x) const {
    return x * sigmoid(x);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V s = sigmoid(x);
    return dy * (s * fma(x, V(1) - s, V(1)));
  }
};

using Activations = List<Identity, Relu, LeakyRelu, Sigmoid, Tanh, Gelu, GeluTanh, Silu>;

}  // namespace innerloop::INNERLOOP_ISA
