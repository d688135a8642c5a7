"""The calls of `bench cuda`'s peers: PyTorch eager, compiled and fused, cuBLASLt, Liger, QuACK."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from innerloop import reference

from .peers import Calls

LIGER, QUACK = "liger", "quack"
COMPILED = "torch compiled"
CUBLASLT = "cuBLASLt"  # through PyTorch
PRODUCTS = "its three products"


class Peers:
    """Calls by PyTorch, and a line for each that is not there or fails.

    Attributes
    ----------
    torch : module or None
        None: there are no peers.
    compiles : bool
        Whether torch.compile is among them.
    absent : list of str
    """

    def __init__(self, torch: Any, compiles: bool = True) -> None:
        self.torch, self.compiles = torch, compiles
        self.absent: list[str] = []
        if torch is not None:
            self.libraries = [n for n in ("liger_kernel", "quack") if importlib.util.find_spec(n)]
            missing = {"liger_kernel": "Liger", "quack": "QuACK"}
            for name in self.libraries:
                del missing[name]
            self.absent += [f"{t} is not installed: no figures beside it" for t in missing.values()]

    def _tried(self, name: str, call: Callable[[], Any]) -> Calls:
        """Return the call, after a first one; nothing but a line where that fails."""
        try:
            call()
        except Exception as error:  # whatever a compiler or another's library says
            said = (str(error).splitlines() or [""])[0][:200]
            line = f"{name} failed: {type(error).__name__}: {said}"
            self.absent += [] if line in self.absent else [line]
            return {}
        return {name: call}

    def _both(
        self, function: Callable[..., Any], wrap: Callable[[Any], Callable[[], Any]]
    ) -> Calls:
        """Return a function's eager call and its compiled one, each of which `wrap` makes."""
        calls: Calls = {"torch": wrap(function)}
        if self.compiles:
            self.torch._dynamo.reset()  # else it falls back to eager after eight functions
            calls |= self._tried(COMPILED, wrap(self.torch.compile(function, dynamic=False)))
        return calls

    def forward(self, name: str, x: Any, out: Any) -> Calls:
        """Return an activation into `out`."""
        if self.torch is None:
            return {}
        function = getattr(self.torch._C._nn, name)
        return {"torch": functools.partial(function, x, out=out)}

    def backward(self, name: str, dy: Any, x: Any, out: Any) -> Calls:
        """Return an activation's gradient into `out`."""
        if self.torch is None:
            return {}
        function = getattr(self.torch.ops.aten, f"{name}_backward").grad_input
        return {"torch": functools.partial(function, dy, x, grad_input=out)}

    def step(
        self,
        name: str,
        params: list[Any],
        grads: list[Any],
        states: list[list[Any]],
        options: dict[str, float],
        lr: float,
    ) -> Calls:
        """Return an optimizer's fused and foreach steps over these very tensors and states."""
        calls: Calls = {}
        if self.torch is None:
            return calls
        entry = reference.OPTIMIZERS[name]
        order = [entry.torch_names.get(s, s) for s in entry.needed_states(**options)]
        own = [p.detach() for p in params]  # the same memory
        for form, optimizer in self._optimizers(name, own, grads, options, lr).items():
            optimizer.step()  # makes its states, which then give way to the shared ones
            for i, p in enumerate(optimizer.param_groups[0]["params"]):
                for key, arrays in zip(order, states, strict=True):
                    optimizer.state[p][key] = arrays[i]
            calls[f"torch {form}"] = optimizer.step
        return calls

    def way(
        self, name: str, start: Any, grad: Any, options: dict[str, float], lr: float, steps: int
    ) -> Calls:
        """Return, for each form of an optimizer, how far its first steps go from `start`."""

        def go(form: str) -> Any:
            p = start.clone()
            optimizer = self._optimizers(name, [p], [grad], options, lr)[form]
            for _ in range(steps):
                optimizer.step()
            return p - start

        forms = self._optimizers(name, [start.clone()], [grad], options, lr)
        return {f"torch {form}": functools.partial(go, form) for form in forms}

    def _optimizers(
        self, name: str, params: list[Any], grads: list[Any], options: dict[str, float], lr: float
    ) -> dict[str, Any]:
        """Return an optimizer of PyTorch in its fused and its foreach form, over these tensors."""
        made: dict[str, Any] = {}
        cls = getattr(self.torch.optim, reference.OPTIMIZERS[name].class_name)
        for form in ("fused", "foreach"):
            own = [p.detach().requires_grad_() for p in params]
            for p, grad in zip(own, grads, strict=True):
                p.grad = grad
            with contextlib.suppress(TypeError, RuntimeError):  # not each has every form
                made[form] = cls(own, lr=lr, **options, **{form: True})
        return made

    def cross_entropy(self, logits: Any, labels: Any) -> Calls:
        """Return the mean loss with its gradient."""
        if self.torch is None:
            return {}
        torch = self.torch
        x = logits.detach().requires_grad_()

        def both(function: Any, x: Any = x) -> Callable[[], Any]:
            def call() -> Any:
                loss = function(x, labels)
                return loss.detach(), torch.autograd.grad(loss, x)[0]

            return call

        eager = torch.nn.functional.cross_entropy
        calls = self._both(lambda x, t: eager(x, t), both)
        if "liger_kernel" in self.libraries:
            if self._tried(LIGER, lambda: self._liger(both, logits)()):
                calls[LIGER] = self._liger(both, logits)
        if "quack" in self.libraries:
            calls |= self._tried(QUACK, self._quack(both))
        return calls

    @staticmethod
    def _liger(both: Callable[..., Callable[[], Any]], logits: Any) -> Callable[[], Any]:
        """Return Liger's call, which writes the gradient over its logits: over a copy of ours."""
        library: Any = importlib.import_module("liger_kernel.transformers.functional")
        return both(library.liger_cross_entropy, logits.detach().clone().requires_grad_())

    @staticmethod
    def _quack(both: Callable[..., Callable[[], Any]]) -> Callable[[], Any]:
        def mean(x: Any, labels: Any) -> Any:
            library: Any = importlib.import_module("quack.cross_entropy")
            return library.cross_entropy(x, labels, reduction="mean")

        return both(mean)

    def norm(self, name: str, x: Any, vectors: list[Any], eps: float) -> Calls:
        """Return layer_norm or rms_norm."""
        if self.torch is None:
            return {}
        function = getattr(self.torch.nn.functional, name)
        shape = x.shape[1:]
        return self._both(
            lambda x, *v: function(x, shape, *v, eps=eps),
            lambda made: functools.partial(made, x, *vectors),
        )

    def norm_backward(self, name: str, dy: Any, x: Any, vectors: list[Any], eps: float) -> Calls:
        """Return all gradients of layer_norm or rms_norm; the forward pass is done."""
        if self.torch is None:
            return {}
        torch, shape = self.torch, list(x.shape[1:])
        if name == "layer_norm":
            _, mean, rstd = torch.native_layer_norm(x, shape, *vectors, eps)
            native = torch.ops.aten.native_layer_norm_backward
            return {"torch": lambda: native(dy, x, shape, mean, rstd, *vectors, [True] * 3)}
        inputs = [a.detach().requires_grad_() for a in (x, *vectors)]
        y = torch.nn.functional.rms_norm(inputs[0], shape, inputs[1], eps)
        return {"torch": lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)}

    def linear(self, activation: str, x: Any, weight: Any, b: Any) -> Calls:
        """Return a layer of a weight as (N, K): a product with bias, then the activation."""
        if self.torch is None:
            return {}
        torch, w = self.torch, weight.T
        options = {"approximate": "tanh"} if activation == "gelu_tanh" else {}
        name = activation.removesuffix("_tanh")
        function = getattr(torch.nn.functional, name)

        def layer(x: Any, w: Any, b: Any) -> Any:
            return function(torch.addmm(b, x, w), **options)

        calls = self._both(layer, lambda made: functools.partial(made, x, w, b))
        if name == "gelu":  # on CUDA it is cuBLASLt's epilogue, which takes tanh's form
            fused = functools.partial(torch._addmm_activation, b, x, w, use_gelu=True)
            calls |= self._tried(CUBLASLT, fused)
        return calls

    def products(self, x: Any, weight: Any, dx: Any, dweight: Any) -> Calls:
        """Return linear_cross_entropy's three products without what is between them."""
        if self.torch is None:
            return {}
        torch = self.torch
        logits = torch.mm(x, weight.T)

        def call() -> None:
            torch.mm(x, weight.T, out=logits)
            torch.mm(logits, weight, out=dx)
            torch.mm(logits.T, x, out=dweight)

        return {PRODUCTS: call}

    def linear_cross_entropy(self, x: Any, weight: Any, labels: Any) -> Calls:
        """Return the mean loss of a classifier's last layer, and both gradients."""
        if self.torch is None:
            return {}
        f, inputs = self.torch.nn.functional, [a.detach().requires_grad_() for a in (x, weight)]

        def call() -> Any:
            loss = f.cross_entropy(f.linear(*inputs), labels)
            return loss.detach(), *self.torch.autograd.grad(loss, inputs)

        return {"torch": call}
