// Python's networks: converts, checks, releases the GIL, calls core/mlp.h.
#include "core/mlp.h"

#include <limits.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>

#include "bindings/arrays.h"
#include "bindings/linear.h"
#include "bindings/losses.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "bindings/optimizers.h"
#include "core/checks.h"
#include "core/dispatch.h"
#include "core/elementwise_losses.h"
#include "core/pool.h"

namespace innerloop {
namespace {

constexpr auto kAsks = std::chrono::milliseconds(20);  // how often training asks whether somebody pressed Ctrl-C

// The weights of a network, which belong to Python, and what is done with them.
class Network {
 public:
  // `layers` holds (w, b, activation, {parameter: number}, dropout) of each, contiguous and of one dtype; `objective`
  // is a dict as reference/mlp.py has it.
  Network(const py::list& layers, const py::dict& objective, py::handle seed) {
    network.seed = word64(seed, "seed");
    for (const py::handle item : layers) {
      const py::tuple given = py::reinterpret_borrow<py::tuple>(item);
      held.push_back(arguments.in(given[0], "w"));
      const TensorView w = held.back().view;
      held.push_back(arguments.in(given[1], "b"));
      const std::string name = text(given[2], "activation");
      const Activation& activation = find_activation(name);
      const ParameterValues values =
          parameter_values(activation.name, activation.parameters, activation.parameter_count, given[3]);
      const TensorView b = held.back().view;
      if (network.layers.empty()) network.dtype = w.dtype;
      check_layer(w, b);
      MlpLayer layer = {w, b, name, {}, number(given[4], "dropout")};
      memcpy(layer.parameters, values.value, sizeof layer.parameters);
      network.layers.push_back(layer);
    }
    if (network.layers.empty()) throw ValueError("a network must have a layer, got none");
    MlpObjective& o = network.objective;
    o.loss = text(objective["loss"], "loss");
    const py::dict parameters = objective["parameters"];
    if (o.loss == "softmax_cross_entropy") {
      if (parameters.contains("label_smoothing")) o.label_smoothing = number(parameters["label_smoothing"], "");
      if (parameters.contains("z_loss")) o.z_loss = number(parameters["z_loss"], "");
    } else {
      const ElementwiseLoss& loss = find_elementwise_loss(o.loss);
      const ParameterValues values = parameter_values(loss.name, loss.parameters, loss.parameter_count, parameters);
      memcpy(o.parameters, values.value, sizeof o.parameters);
    }
    o.value_scale = number(objective["value_scale"], "value_scale");
    o.gradient_scale = number(objective["gradient_scale"], "gradient_scale");
    o.l1 = number(objective["l1"], "l1");
    o.l2 = number(objective["l2"], "l2");
    o.penalty_over_weights = boolean(objective["penalty_over_weights"], "penalty_over_weights");
  }

  // `threads`: that it may use, or 0 for all; so below.
  py::object forward(py::handle x, int threads) const {
    check_held();
    Arguments call;
    const Array ax = call.in(x, "X");
    check_rows(ax.view);
    const Array y = call.fresh(network.dtype, {ax.view.shape[0], network.outputs()});
    {
      py::gil_scoped_release release;
      const pool::Limit limit(threads > 0 ? threads : pool::threads());
      mlp_forward(network, ax.view, y.view);
    }
    return y.owner;
  }

  // The loss; its gradients into `grads`, a list of dw, db, dw, ..., unless that is None.
  double loss(py::handle x, py::handle target, py::handle sample_weight, py::handle grads, py::handle dropout_offset,
              int threads) const {
    check_held();
    const Learns learns(*this, x, target, sample_weight);
    const Gradients gradients(*this, grads);
    uint64_t offset = 0;
    if (!dropout_offset.is_none()) offset = word64(dropout_offset, "dropout_offset");
    const bool drops = !dropout_offset.is_none();
    py::gil_scoped_release release;
    const pool::Limit limit(threads > 0 ? threads : pool::threads());
    return mlp_loss(network, learns.rows, gradients.all.empty() ? nullptr : gradients.all.data(),
                    drops ? &offset : nullptr);
  }

  // Throws IndexError for a label out of range, as training does.
  void check_labels(py::handle target) const {
    Arguments call;
    innerloop::check_labels(call.in(target, "y").view, network.outputs(), {});
  }

  // Trains on the rows of `order`, or on all as they come where it is None. `step` holds BoundStep's arguments, for the
  // first step; `numbers` what read_steps takes, of later ones nothing where all agree: where a step uses other states
  // than the first, training ends before it. `threads` holds MlpEpoch's threads,
  // judges and seconds. Appends (sum of loss * rows, rows, steps, norm of the last gradients, threads, seconds) to
  // `report`, whatever is thrown once there has been a step: so nobody, and no signal either, comes in between.
  void epoch(py::handle x, py::handle target, py::handle sample_weight, py::handle order, py::handle batch,
             py::handle grads, const py::tuple& step, const py::tuple& numbers, py::handle dropout_offset,
             const py::tuple& threads, py::list report) const {
    check_held();
    const Learns learns(*this, x, target, sample_weight);
    const Gradients gradients(*this, grads);
    if (gradients.all.empty()) throw ValueError("grads must hold an array for each parameter, got None");
    MlpEpoch e;
    e.count = learns.rows.x.shape[0];
    Arguments call;
    std::optional<Array> aorder;
    if (!order.is_none()) {
      aorder = call.in(order, "order");
      e.count = check_order(aorder->view, e.count);
      e.order = reinterpret_cast<const int64_t*>(aorder->view.data);
    }
    e.batch = integer(batch, "batch_size");
    if (e.batch < 1) throw ValueError("batch_size must be at least 1, got " + std::to_string(e.batch));
    e.dropout_offset = word64(dropout_offset, "dropout_offset");
    e.threads = (int)std::min<int64_t>(integer(threads[0], "n_threads"), INT_MAX);
    e.judges = boolean(threads[1], "judges");
    for (size_t i = 0; i < 2; i++) e.seconds[i] = number(threads[2].cast<py::tuple>()[i], "seconds");

    BoundStep bound(step[0].cast<std::string>(), step[1], step[2], step[3], step[4], step[5], step[6], step[7], step[8],
                    step[9]);
    e.step = bound.work.get();
    const int64_t first_step = step[4].cast<py::list>()[0].cast<py::tuple>()[1].cast<int64_t>();
    const std::vector<StepNumbers> renewals = read_steps(bound.optimizer, numbers[0], numbers[1]);
    e.prepare = [&](int64_t k) {
      const size_t i = (size_t)k < renewals.size() ? (size_t)k : renewals.size() - 1;
      if (k > 0) bound.renew(renewals[i], first_step + k);
    };

    std::exception_ptr error;
    MlpProgress progress;
    bool interrupted = false;
    {
      py::gil_scoped_release release;
      auto asked = std::chrono::steady_clock::now();
      e.stop = [&] {
        // The next step's numbers may use other states: a call of its own.
        const auto next = (size_t)progress.steps;
        if (renewals.size() > 1 && next < renewals.size() && !bound.renews_with(renewals[next])) return true;
        const auto now = std::chrono::steady_clock::now();
        if (now - asked < kAsks) return false;
        asked = now;
        py::gil_scoped_acquire acquire;
        return interrupted = PyErr_CheckSignals() != 0;
      };
      try {
        mlp_epoch(network, learns.rows, gradients.all.data(), e, progress);
      } catch (...) {
        error = std::current_exception();
      }
    }
    if (progress.steps > 0) {
      const auto signal = interrupted ? std::make_unique<py::error_already_set>() : nullptr;  // takes it meanwhile
      report.append(py::make_tuple(progress.loss, progress.rows, progress.steps, norm_of(bound, progress),
                                   progress.threads, py::make_tuple(progress.seconds[0], progress.seconds[1])));
      if (signal) throw *signal;
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  MlpNetwork network;
  Arguments arguments;
  std::vector<Array> held;  // w, b, w, ...

  // Whatever was done to the arrays since a copy of the network was made from them.
  void check_layer(const TensorView& w, const TensorView& b) const {
    check_full_precision(w);
    check_dtype(w, network.dtype, "that of the first layer");
    check_dtype(b, network.dtype, "that of the first layer");
    const bool fits = w.ndim == 2 && w.size() > 0 && b.ndim == 1 && b.shape[0] == w.shape[1] &&
                      (network.layers.empty() || w.shape[0] == network.outputs());
    if (!fits || !is_contiguous(w) || !is_contiguous(b)) {
      throw ValueError("weights and biases must be contiguous and fit together, got " + describe(w) + " beside " +
                       describe(b));
    }
  }

  // The weights lie where they lay: ndarray.resize may have moved them.
  void check_held() const {
    for (const Array& array : held) {
      TensorView now;
      read_view(array.owner, array.view.name, now);
      if (now.data != array.view.data || now.size() != array.view.size() || now.dtype != array.view.dtype) {
        throw ValueError("weights and biases must be written in place, got " + describe(now) + " for " +
                         array.view.name + ", " + describe(array.view));
      }
    }
  }

  static py::object norm_of(const BoundStep& bound, const MlpProgress& progress) {
    return bound.options.clip ? py::object(py::float_(progress.norm)) : py::none();
  }

  void check_rows(const TensorView& x) const {
    check_dtype(x, network.dtype, "that of the weights");
    if (x.ndim != 2 || x.shape[1] != network.inputs()) {
      throw ValueError(std::string(x.name) + " must have the shape (n, " + std::to_string(network.inputs()) +
                       "), got " + describe(x));
    }
  }

  static int64_t check_order(const TensorView& order, int64_t rows) {
    check_dtype(order, Dtype::i64, "indices of rows");
    if (order.ndim != 1 || !is_contiguous(order)) {
      throw ValueError("order must be contiguous and have one axis, got " + describe(order));
    }
    const auto* index = reinterpret_cast<const int64_t*>(order.data);
    for (int64_t i = 0; i < order.shape[0]; i++) {
      if (index[i] >= 0 && index[i] < rows) continue;
      throw IndexError("order must hold indices of the " + std::to_string(rows) + " rows of X, got " +
                       std::to_string(index[i]) + " at " + shape_text({i}));
    }
    return order.shape[0];
  }

  // What a call learns from.
  struct Learns {
    Arguments call;
    MlpRows rows;
    std::optional<Array> weight;
    std::vector<Array> owners;

    Learns(const Network& of, py::handle x, py::handle target, py::handle sample_weight) {
      owners.push_back(call.in(x, "X"));
      rows.x = owners.back().view;
      of.check_rows(rows.x);
      owners.push_back(call.in(target, "y"));
      rows.target = owners.back().view;
      const int64_t n = rows.x.shape[0];
      const bool labels = is_integer(rows.target.dtype);
      if (labels && of.network.objective.loss != "softmax_cross_entropy") {
        check_dtype(rows.target, of.network.dtype, "that of the weights");
      }
      if (labels) {
        check_shape(rows.target, Shape{n}, "a label for each row of X");
      } else {
        check_dtype(rows.target, of.network.dtype, "that of the weights");
        check_shape(rows.target, Shape{n, of.network.outputs()}, "an output of the network for each row of X");
      }
      rows.sample_weight = nullptr;
      if (sample_weight.is_none()) return;
      weight = call.in(sample_weight, "sample_weight");
      check_dtype(weight->view, of.network.dtype, "that of the weights");
      check_shape(weight->view, Shape{n}, "a weight for each row of X");
      rows.sample_weight = &weight->view;
    }
  };

  struct Gradients {
    Arguments call;
    std::vector<Array> owners;
    std::vector<MlpGradients> all;

    Gradients(const Network& of, py::handle grads) {
      if (grads.is_none()) return;
      const py::list given = py::reinterpret_borrow<py::list>(grads);
      if (given.size() != of.held.size()) throw ValueError("grads must hold an array for each parameter");
      for (size_t i = 0; i < given.size(); i++) {
        owners.push_back(call.in(given[i], "grads"));
        const TensorView& g = owners.back().view;
        check_dtype(g, of.network.dtype, "that of the weights");
        check_shape(g, of.held[i].view);
        check_output(g);
        if (!is_contiguous(g)) throw ValueError("grads must be contiguous, got strides");
        if (i % 2 == 1) all.push_back({owners[i - 1].view, g});
      }
    }
  };
};

}  // namespace

void bind_mlp(py::module_& m) {
  py::class_<Network>(m, "Network")
      .def(py::init<const py::list&, const py::dict&, py::handle>())
      .def("forward", &Network::forward)
      .def("loss", &Network::loss)
      .def("check_labels", &Network::check_labels)
      .def("epoch", &Network::epoch);
}

}  // namespace innerloop
