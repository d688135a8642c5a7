// Every activation's arithmetic, forward beside derivative, over any V (simd/vector.h).
// To add one: write its struct here, put it in `Activations` below, and write its NumPy reference in
// python/innerloop/reference/activations.py. Nothing else needs to know.
//
// A rule has
//   name            as in the public function
//   parameters[]    optional: name and default of each number it takes, which its constructor is given in order, and
//                   the range it must lie in; NaN is refused everywhere
//   saves_output    whether `backward` reads the output y or the input x: a layer keeps just that one
//   forward(x)      y
//   backward(s, dy) dx, where s is y if saves_output, else x
#pragma once

#include "kernels.h"
#include "rules/list.h"
#include "rules/prelu.h"
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
    return Prelu::forward(x, V(negative_slope));
  }
  template <class V>
  HD V backward(V x, V dy) const {
    return Prelu::backward(x, V(negative_slope), dy);
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
    return Normal<V>(x).x_cdf();
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const Normal<V> n(x);
    return dy * fma(x, n.pdf(), n.cdf());
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

// A number that is divided by: positive, and normal in float32.
constexpr Parameter positive(const char* name, double default_value) {
  return {name, default_value, 1.1754943508222875e-38, 3.4028234663852886e+38};
}

// y = x > 0 ? x : alpha (e^x - 1); dy/dx = alpha e^x at 0 and below (Clevert, Unterthiner & Hochreiter 2015).
struct Elu {
  static constexpr const char* name = "elu";
  static constexpr Parameter parameters[] = {{"alpha", 1.0}};
  static constexpr bool saves_output = false;  // a negative alpha would hide the sign of x
  double alpha;
  template <class V>
  HD V forward(V x) const {
    return select(x > V(0), x, V(alpha) * expm1(x));
  }
  template <class V>
  HD V backward(V x, V dy) const {
    return select(x <= V(0), dy * (V(alpha) * exp(x)), dy);
  }
};

// y = scale (x > 0 ? x : alpha (e^x - 1)); dy/dx = y + scale alpha at 0 and below. Klambauer et al. 2017 give both
// constants to these digits, section 2.
struct Selu {
  static constexpr const char* name = "selu";
  static constexpr bool saves_output = true;
  static constexpr double scale = 1.0507009873554804934193349852946;
  static constexpr double scale_alpha = 1.7580993408473768599402175208123;  // alpha = 1.6732632423543772848170429916717
  template <class V>
  HD V forward(V x) const {
    return select(x > V(0), V(scale) * x, V(scale_alpha) * expm1(x));
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return dy * select(y <= V(0), y + V(scale_alpha), V(scale));
  }
};

// y = x > 0 ? x : alpha (e^(x / alpha) - 1); dy/dx = 1 + y / alpha at 0 and below (Barron 2017).
struct Celu {
  static constexpr const char* name = "celu";
  static constexpr Parameter parameters[] = {positive("alpha", 1.0)};
  static constexpr bool saves_output = true;
  double alpha;
  template <class V>
  HD V forward(V x) const {
    return select(x > V(0), x, V(alpha) * expm1(x * V(1 / alpha)));
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return select(y <= V(0), dy * fma(y, V(1 / alpha), V(1)), dy);
  }
};

// y = x t, t = tanh(ln(1 + e^x)) (Misra 2019). Where w = e^x and n = w (w + 2): t = n / (n + 2), q = 1 - t = 2 / (n +
// 2), dy/dx = t + x w (w + 1) q^2. For few roundings y is x - x q where x > -0.3, and elsewhere x w (1 - r), where r =
// w (w + 1) / (n + 2). At infinity both have their limits.
struct Mish {
  static constexpr const char* name = "mish";
  static constexpr bool saves_output = false;
  template <class V>
  HD V forward(V x) const {
    const V bounded = within_limits(x);
    const Exponential<V> e = exponential(bounded);
    const V mantissa = V(1) + e.s, w = e.scale(mantissa);
    const auto above = x > V(-0.3);
    const V part = select(above, V(2), fma(w, w, w)) / (fma(w, w, w + w) + V(2));  // q or r
    const V less_1 = fma(-part, mantissa, e.s);                                    // w (1 - r) is 1 + less_1, scaled
    return select(above, fma(-bounded, part, x), e.scale(fma(bounded, less_1, bounded)));
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V bounded = within_limits(x), w = exp(bounded), n = fma(w, w, w + w);
    const V q = V(2) / (n + V(2));
    const V t = select(x > V(0), V(1) - q, V(0.5) * n * q);
    return dy * fma(bounded * w, (w + V(1)) * (q * q), t);
  }

 private:
  template <class V>
  static HD V within_limits(V x) {  // beyond, y is x or 0
    using F = Format<typename V::scalar>;
    return at_least(at_most(x, V(2 * F::tanh_is_one)), V(F::exp_min - 8));
  }
};

// y = ln(1 + e^(beta x)) / beta, or x itself where beta x > threshold; dy/dx = sigmoid(beta x), or 1 there (Dugas et
// al. 2001). Written as max(u, 0) + ln(1 + e^-|u|), u = beta x, which overflows for no threshold.
struct Softplus {
  static constexpr const char* name = "softplus";
  static constexpr Parameter parameters[] = {positive("beta", 1.0), {"threshold", 20.0}};
  static constexpr bool saves_output = false;
  double beta, threshold;
  template <class V>
  HD V forward(V x) const {
    const V u = x * V(beta);
    const V y = (at_least(u, V(0)) + log1p(exp(-abs(u)))) * V(1 / beta);
    return select(u > V(threshold), x, y);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V u = x * V(beta);
    return select(u > V(threshold), dy, dy * sigmoid(u));
  }
};

// y = x / (1 + |x|); dy/dx = 1 / (1 + |x|)^2 (Bergstra et al. 2009).
struct Softsign {
  static constexpr const char* name = "softsign";
  static constexpr bool saves_output = false;  // 1 - |y| has no digits left for a large x
  template <class V>
  HD V forward(V x) const {
    return x / (V(1) + abs(x));
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V inverse = V(1) / (V(1) + abs(x));
    return dy * (inverse * inverse);
  }
};

// y = clip(x + 3, 0, 6) / 6; dy/dx = 1 / 6 within, 0 at the knots and for NaN (Courbariaux et al. 2015; Howard et al.
// 2019).
struct Hardsigmoid {
  static constexpr const char* name = "hardsigmoid";
  static constexpr bool saves_output = false;  // y is 1 from a rounding error below 3 on
  template <class V>
  HD V forward(V x) const {
    return gate(x);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    return select(abs(x) < V(3), dy * V(1.0 / 6), V(0));
  }
  template <class V>
  static HD V gate(V x) {
    return at_most(at_least(x + V(3), V(0)), V(6)) / V(6);
  }
};

// y = x hardsigmoid(x); dy/dx = x / 3 + 1 / 2 within (-3, 3), 0 below, 1 above (Howard et al. 2019, section 5.2).
struct Hardswish {
  static constexpr const char* name = "hardswish";
  static constexpr bool saves_output = false;
  template <class V>
  HD V forward(V x) const {
    return x * Hardsigmoid::gate(x);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    const V within = dy * fma(x, V(1.0 / 3), V(0.5));
    return select(x <= V(-3), V(0), select(x < V(3), within, dy));
  }
};

// y = min(max(x, 0), 6); the derivative at both knots is 0 (Krizhevsky 2010).
struct Relu6 {
  static constexpr const char* name = "relu6";
  static constexpr bool saves_output = true;
  template <class V>
  HD V forward(V x) const {
    return select(x <= V(0), V(0), at_most(x, V(6)));
  }
  template <class V>
  HD V backward(V y, V dy) const {
    return select((y <= V(0)) | (y >= V(6)), V(0), dy);
  }
};

using Activations = List<Identity, Relu, LeakyRelu, Sigmoid, Tanh, Gelu, GeluTanh, Silu, Elu, Selu, Celu, Mish,
                         Softplus, Softsign, Hardsigmoid, Hardswish, Relu6>;

}  // namespace innerloop::INNERLOOP_ISA
