// Python's linear_cross_entropy: converts, checks, releases the GIL, calls the core.
#include "core/linear_cross_entropy.h"

#include "bindings/linear.h"
#include "bindings/losses.h"
#include "bindings/nouns.h"
#include "bindings/numbers.h"
#include "core/checks.h"

namespace innerloop {
namespace {

// Logits that a device holds at a time: of 4096 rows of 128k classes in half precision, all.
constexpr size_t kDeviceLogits = 1 << 30;

py::object layer_loss(py::handle x, py::handle w, py::handle target, py::handle b, py::handle weight,
                      py::handle sample_weight, py::handle ignore_index, py::handle label_smoothing, py::handle z_loss,
                      py::handle reduction, py::handle return_grad, py::handle grad_scale, py::handle out) {
  const LossOptions given = loss_options(reduction, return_grad, grad_scale, out);
  const CrossEntropyOptions options = cross_entropy_options(given, ignore_index, label_smoothing, z_loss);

  Arguments arguments(Devices::any);
  const Array ax = arguments.in(x, "x");
  const Array aw = arguments.in(w, "w");
  Weight layer;
  layer.view = aw.view;
  const Shape logits = check_linear(ax.view, layer), rows(logits.begin(), logits.end() - 1);
  const int64_t classes = logits.back();
  const Array atarget = arguments.in(target, "target");
  if (is_floating(atarget.view.dtype)) {
    check_dtype(atarget.view, ax.view);
    check_shape(atarget.view, logits, "that of x @ w, for class probabilities");
  } else if (is_integer(atarget.view.dtype)) {
    check_shape(atarget.view, rows, "that of x without its last axis, for class labels");
  } else {
    throw TypeError("target must hold class labels of an integer dtype, or probabilities of the dtype of x; got " +
                    describe(atarget.view));
  }
  const auto ab = optional_bias(arguments, b, ax.view, classes);
  const ClassWeights weights(arguments, weight, sample_weight, ax.view, classes, rows,
                             "that of x without its last axis");
  std::optional<LinearGradients> gradients;
  if (given.return_grad) {
    gradients.emplace(
        arguments, out, ax.view, classes, nullptr, ab ? nullptr : "b=None does without",
        std::initializer_list<const Array*>{&ax, &aw, &atarget, array_or_null(ab), array_or_null(weights.weight),
                                            array_or_null(weights.sample)});
  }
  std::optional<Array> losses;
  if (given.reduction == Reduction::none) losses = arguments.fresh(compute_dtype(ax.view.dtype), rows);

  std::optional<Array> reduced;  // of a device
  if (arguments.device() && !losses) reduced = arguments.fresh(compute_dtype(ax.view.dtype), {});

  double value = 0;
  if (DeviceCall* device = arguments.device()) {
    Linear l = {};
    l.m = rows_of(ax.view);
    l.n = classes;
    l.k = aw.view.shape[0];
    l.x = matrix_on_device(ax.view);
    l.w = matrix_on_device(aw.view);
    l.bias = vector_on_device(view_or_null(ab));
    l.activation = identity_index();
    for (const TensorView* t : {&static_cast<const TensorView&>(atarget.view), view_or_null(weights.weight),
                                view_or_null(weights.sample), view_or_null(losses)}) {
      if (t != nullptr) check_contiguous(*t);
    }
    cuda::RowLoss loss = {};
    loss.dtype = ax.view.dtype;
    loss.target_dtype = atarget.view.dtype;
    loss.shape = {l.m, classes, 1};
    loss.target = atarget.view.data;
    loss.weight = weights_of(weights.weight);
    loss.sample_weight = weights_of(weights.sample);
    loss.ignore_index = options.ignore_index;
    loss.grad_scale = options.grad_scale;
    loss.mean = given.reduction == Reduction::mean;
    if (reduced) loss.loss = reduced->view.data;
    if (losses) loss.losses = losses->view.data;
    LinearBackward back = {};
    if (gradients) {
      back.m = l.m;
      back.n = l.n;
      back.k = l.k;
      back.w = l.w;
      back.x = l.x;
      back.dx = matrix_on_device(gradients->dx->view);
      back.dw = matrix_on_device(gradients->dw.view);
      back.db = vector_on_device(gradients->db_view());
      back.activation = l.activation;
    }
    const size_t limit = logits_limit() > 0 ? logits_limit() : kDeviceLogits;
    device->launch([&](const cuda::Kernels& kernels, const cuda::Queue& queue) {
      return kernels.linear_cross_entropy(queue, is_tf32_allowed(), l, loss, options.label_smoothing, options.z_loss,
                                          limit, gradients ? &back : nullptr);
    });
  } else if (reference_in_use()) {
    check_labels(atarget.view, classes, options);
    const py::tuple both =
        reference("linear_cross_entropy")
            .attr("linear_cross_entropy")(
                ax.owner, aw.owner, atarget.owner, owner_or_none(ab), py::arg("weight") = owner_or_none(weights.weight),
                py::arg("sample_weight") = owner_or_none(weights.sample),
                py::arg("ignore_index") = options.ignore_index, py::arg("label_smoothing") = options.label_smoothing,
                py::arg("z_loss") = options.z_loss, py::arg("reduction") = reduction, py::arg("return_grad") = true,
                py::arg("grad_scale") = options.grad_scale);
    if (gradients) gradients->copy_reference(both[1]);
    if (losses) {
      copy_into(*losses, both[0]);
    } else {
      value = both[0].cast<double>();
    }
  } else {
    const LinearCrossEntropy call = {ax.view,
                                     aw.view,
                                     view_or_null(ab),
                                     {&atarget.view, view_or_null(weights.weight), view_or_null(weights.sample)},
                                     view_or_null(losses),
                                     gradients ? view_or_null(gradients->dx) : nullptr,
                                     gradients ? &gradients->dw.view : nullptr,
                                     gradients ? gradients->db_view() : nullptr};
    py::gil_scoped_release release;
    value = linear_cross_entropy(call, options);
  }
  const py::object loss = losses    ? arguments.result(*losses)
                          : reduced ? arguments.result(*reduced)
                                    : arguments.scalar(ax.view.dtype, value);
  if (!gradients) return loss;
  return py::make_tuple(loss, gradients->result(arguments));
}

}  // namespace

void bind_linear_cross_entropy(py::module_& m) {
  m.def("linear_cross_entropy", &layer_loss);
  m.def("logits_limit", [](py::object bytes) {
    if (!bytes.is_none()) set_logits_limit(bytes.cast<size_t>());
    return logits_limit();
  });
}

}  // namespace innerloop
