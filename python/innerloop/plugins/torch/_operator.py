"""What operators share: registration, the short way round the dispatcher, memory, checks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from ... import _core
from ..._arrays import bfloat16_dtype, cuda_module

# Where tensors may lie: on CUDA devices, too, where innerloop._cuda is built.
DEVICES = ("cpu",) if cuda_module() is None else ("cpu", "cuda")
PLACES = "on the CPU" if cuda_module() is None else "on the CPU or a CUDA device"
LIBRARY = torch.library.Library("innerloop", "FRAGMENT")
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)

_BFLOAT16 = bfloat16_dtype()
_NO_TENSORS = frozenset((type(None), bool, int, float, str, list, tuple))
_compiling, _autocast = torch.compiler.is_compiling, torch.is_autocast_enabled
_modes, _scripting = torch._C._len_torch_dispatch_stack, torch._C._is_tracing
_transforms = torch._C._functorch.peek_interpreter_stack  # of torch.func: None without
# Since PyTorch 2.9: tensors are read, and results made, without a call into Python.
_LENDS_IN_C = hasattr(Tensor, "__dlpack_c_exchange_api__")
if _LENDS_IN_C:
    _core.lend_as(Parameter, Tensor)


def transposed(matrix: Tensor) -> Any:
    """A view of a matrix, for the kernels: NumPy makes it in half the time that PyTorch takes."""
    if matrix.is_neg() or matrix.is_cuda or not _LENDS_IN_C:
        return matrix.detach().t()
    return _core.from_dlpack(matrix, _BFLOAT16).T


def filled(given: Sequence[Any], defaults: Sequence[Any]) -> list[Any]:
    """All arguments: what equals its default at the end is not passed on by the dispatcher."""
    return [*given, *defaults[len(given) :]]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What arrays of a dtype are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check(
    value: Any,
    name: str,
    like: Tensor | None = None,
    dtypes: Sequence[torch.dtype] = FLOATING,
    like_name: str = "x",
) -> None:
    """Raise TypeError, naming the argument, if it is no strided tensor of one of these dtypes.

    `like` is a tensor whose dtype and device it must have.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a strided tensor, got one of layout {value.layout}")
    if value.is_nested:
        raise TypeError(f"{name} must be a strided tensor, got a nested one")
    if value.device.type not in (*DEVICES, "meta"):
        raise TypeError(f"{name} must be {PLACES}, got a tensor on {value.device}")
    if like is not None and value.device != like.device:
        raise TypeError(
            f"{name} must be on the device of {like_name}, {like.device}, got {value.device}"
        )
    if value.dtype not in dtypes:
        listed = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} must have one of the dtypes {listed}, got {value.dtype}")
    if like is not None and value.dtype != like.dtype:
        raise TypeError(
            f"{name} must have the dtype of {like_name}, {like.dtype}, got {value.dtype}"
        )


def unfilled_like(x: Tensor) -> Tensor:
    """A tensor as an elementwise kernel makes it: in C order; on a CUDA device in that of `x`."""
    return torch.empty_like(x) if x.is_cuda else x.new_empty(x.shape)


def check_shape(value: Tensor, name: str, shape: Sequence[Any], why: str) -> None:
    """Raise ValueError, naming the argument, if it has another shape."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have the shape {tuple(shape)}, {why}, got {tuple(value.shape)}"
        )


def traced() -> bool:
    """Whether someone looks at operators as they pass the dispatcher, so that they must."""
    return (
        _compiling()
        or _modes() > 0
        or _transforms() is not None
        or any(map(_autocast, DEVICES))
        or _scripting()
        or forward_ad._current_level >= 0
    )


class Operator:
    """An operator, registered as ``innerloop::name``.

    Called with plain tensors that nobody traces, it goes to its kernel without the dispatcher,
    which in Python costs more than a small kernel does.

    Parameters
    ----------
    schema : str
        As for `torch.library.define`, with the name. Every default is also one of `kernel`.
    kernel : callable
        Computes, where its tensors lie, with tensors that autograd does not follow. One of several
        results may be None; the dispatcher then gives an empty tensor.
    check : callable
        Takes what `kernel` does and raises where it does not fit; returns what `kernel` would,
        without values.
    setup, backward : callable, optional
        As `torch.library.register_autograd` takes them. Without, the operator has no derivative,
        and asking for one raises NotImplementedError.
    training : Operator, optional
        Takes the same arguments, has a derivative, and its first result is this one's: called in
        its place where a gradient will be asked for.
    constants : tuple of str
        The tensors among the arguments that have no gradient: one that requires grad is refused.
    cast : callable, optional
        Takes autocast's dtype and the arguments and returns the arguments to go on with.
    vmap : callable, optional
        As `torch.library.register_vmap` takes it, after the operator. Without, vmap calls once for
        each slice.
    """

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Any],
        check: Callable[..., Any],
        *,
        setup: Callable[..., None] | None = None,
        backward: Callable[..., Any] | None = None,
        training: Operator | None = None,
        constants: tuple[str, ...] = (),
        cast: Callable[..., Sequence[Any]] | None = None,
        vmap: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name = schema.partition("(")[0]
        self.kernel, self.check, self.training, self.cast = kernel, check, training, cast
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device in DEVICES:
            LIBRARY.impl(name, self._computed, device.upper())
        torch.library.register_fake(f"innerloop::{name}", check, lib=LIBRARY)
        self.op = getattr(torch.ops.innerloop, name).default
        self.arguments = tuple(argument.name for argument in self.op._schema.arguments)
        self.constants = constants
        rule = functools.partial(vmap or _each_slice, self)
        if training is None:
            back = backward or self._refuse
            torch.library.register_autograd(
                f"innerloop::{name}", back, setup_context=setup, lib=LIBRARY
            )
            self.apply, self.transformed = _functions(self, setup, back, rule)
        else:
            LIBRARY.impl(name, self._with_training, "Autograd")
            self.apply = lambda *args: training.apply(*args)[0]
            self.transformed = lambda *args: training.transformed(*args)[0]
        if cast is not None:
            for device in DEVICES:
                rule_of = functools.partial(self._autocast, device)
                LIBRARY.impl(name, rule_of, f"Autocast{device.upper()}")
        if hasattr(torch.library, "register_vmap"):
            torch.library.register_vmap(f"innerloop::{name}", rule, lib=LIBRARY)

    def __call__(self, *args: Any) -> Any:
        if traced():
            return self._dispatched(args)
        follows = False
        for argument in args:
            kind = type(argument)
            if kind is Tensor or kind is Parameter:
                if argument.requires_grad:
                    follows = True
            elif kind not in _NO_TENSORS:
                if isinstance(argument, Tensor):  # of a subclass
                    return self._dispatched(args)
                self.check(*args)  # other libraries' arrays are none
        if follows and torch.is_grad_enabled():
            if self.constants:
                self._check_constants(args)
            return self.apply(*args)
        try:
            return self.kernel(*args)
        except Exception:
            return self._explained(args)

    def _dispatched(self, args: Sequence[Any]) -> Any:
        self._check_devices(args)
        for argument, name in zip(args, self.arguments, strict=False):
            if not isinstance(argument, Tensor):
                continue
            if type(argument) not in (Tensor, Parameter) and hasattr(argument, "to_local"):
                raise TypeError(
                    f"{name} must not be a DTensor: call innerloop::{self.name} with "
                    f"{name}.to_local(), or in a module of fully_shard"
                )
        if torch.compiler.is_compiling():
            return self.op(*args)
        transform = _transforms()
        if transform is None or transform.key() == torch._C._functorch.TransformType.Vmap:
            return self.op(*args)
        self._check_constants(args)
        return self.transformed(*args)

    def _computed(self, *args: Any) -> Any:
        """What the dispatcher calls: autograd is done with the tensors, but has not said so."""
        if forward_ad._current_level >= 0:
            self._refuse_tangents(args)
        # Results are made in the library of the first tensor's type: not one of a subclass's.
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            args = tuple([_as_plain(a) for a in args])
            try:
                result = self.kernel(*args)
            except Exception:
                result = self._explained(args)
        return _without_none(result, args[0])

    def _explained(self, args: Sequence[Any]) -> Any:
        """Raise what the kernel has raised, in the names that the arguments have here.

        A tensor whose memory does not hold its numbers is no error: they are written out.
        """
        resolved = [_in_memory(a) for a in args]
        if any(a is not r for a, r in zip(args, resolved, strict=True)):
            return self.kernel(*resolved)
        self._check_devices(args)
        self.check(*args)
        raise

    def _check_devices(self, args: Sequence[Any]) -> None:
        for argument, name in zip(args, self.arguments, strict=False):
            if isinstance(argument, Tensor) and argument.device.type not in DEVICES:
                raise TypeError(f"{name} must be {PLACES}, got one on {argument.device}")

    def _check_constants(self, args: Sequence[Any]) -> None:
        for value, name in zip(args, self.arguments, strict=False):
            if name in self.constants and isinstance(value, Tensor) and value.requires_grad:
                raise TypeError(
                    f"{name} must not require grad, as {self.name} has no gradient for it: "
                    f"pass {name}.detach()"
                )

    def _refuse_tangents(self, args: Sequence[Any]) -> None:
        for value, name in zip(args, self.arguments, strict=False):
            if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:
                raise NotImplementedError(
                    f"{name} has a tangent: innerloop::{self.name} has no forward-mode derivative"
                )

    def _with_training(self, *args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            self._check_constants(args)
            return self.training.op(*args)[0]  # type: ignore[union-attr]
        with torch._C._AutoDispatchBelowAutograd():
            return self.op(*args)

    def _autocast(self, device: str, *args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self.op(*self.cast(dtype, *args))  # type: ignore[misc]

    def _refuse(self, ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            f"innerloop::{self.name} has no derivative: double backward is not supported"
        )


def _functions(
    operator: Operator,
    setup: Callable[..., None] | None,
    backward: Callable[..., Any],
    rule: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An operator for autograd past the dispatcher: plain, and under torch.func's transforms."""

    def forward(ctx: Any, *args: Any) -> Any:
        try:
            result = operator.kernel(*args)
        except Exception:
            result = operator._explained(args)
        if setup is not None:
            setup(ctx, args, result)
        return result

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if setup is not None:
            setup(ctx, inputs, output)

    bases = (torch.autograd.Function,)
    plain: Any = type(
        operator.name,
        bases,
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )
    transformed: Any = type(
        operator.name,
        bases,
        {
            "vmap": staticmethod(rule),
            "forward": staticmethod(lambda *args: operator(*args)),  # one level further in
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
        },
    )
    # The plain one without the unwrapping of torch.func's levels, of which there are none then.
    return super(torch.autograd.Function, plain).apply, transformed.apply


def _in_memory(value: Any) -> Any:
    """Numbers in a tensor of their own: of a negated view, of zeros that were never written, of
    what torch.func wrapped and its caller kept, as the function that vjp returns does; and on a
    CUDA device, whose kernels take no gaps, of what is expanded or permuted."""
    if not isinstance(value, Tensor):
        return value
    value = torch._C._functorch.unwrap_if_dead(value)
    if value._is_zerotensor():
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    value = value.detach().resolve_neg() if value.is_neg() else value
    return value.contiguous() if value.is_cuda else value


def _as_plain(value: Any) -> Any:
    if type(value) is Tensor or not isinstance(value, Tensor):
        return value
    return value.as_subclass(Tensor)


def _without_none(result: Any, like: Tensor) -> Any:
    """Results as the dispatcher takes them: a schema has no optional ones."""
    if type(result) is not tuple:
        return result
    return tuple(like.new_empty(0) if r is None else r for r in result)


def _each_slice(operator: Operator, info: Any, dims: Any, *args: Any) -> Any:
    """The rule of any operator: one call for each slice of what is batched."""
    batched = [isinstance(a, Tensor) and d is not None for a, d in zip(args, dims, strict=True)]
    results = [
        _without_none(
            operator(
                *(a.select(d, i) if b else a for a, d, b in zip(args, dims, batched, strict=True))
            ),
            args[0],
        )
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


def refuse_double(name: str, *gradients: Any) -> None:
    """Raise if what an operator made for its backward pass has a gradient itself."""
    if any(g is not None for g in gradients):
        raise NotImplementedError(
            f"innerloop::{name}: its gradient has no derivative: double backward is not supported"
        )


def elementwise(operator: Operator, info: Any, dims: Any, *args: Any) -> Any:
    """The rule of an operator whose tensors have one shape: the batch is another axis of it."""
    moved = []
    for value, dim in zip(args, dims, strict=True):
        if isinstance(value, Tensor):
            value = (
                value.expand(info.batch_size, *value.shape)
                if dim is None
                else value.movedim(dim, 0)
            )
        moved.append(value)
    return operator(*moved), 0


def leading(operator: Operator, info: Any, dims: Any, *args: Any) -> Any:
    """The rule of an operator on rows: the batch is another axis of the first argument's rows.

    Not where a parameter is batched, too, or there is dropout, whose mask counts elements.
    """
    alone = all(
        d is None or not isinstance(a, Tensor) for a, d in zip(args[1:], dims[1:], strict=True)
    )
    dropped = dict(zip(operator.arguments, args, strict=False)).get("dropout", 0) > 0
    if not alone or dropped:
        return _each_slice(operator, info, dims, *args)
    return operator(args[0].movedim(dims[0], 0), *args[1:]), 0


def lower(dtype: torch.dtype, *args: Any) -> list[Any]:
    """Cast what is floating to the dtype of autocast, but float64, as PyTorch does."""
    return [
        a.to(dtype)
        if isinstance(a, Tensor) and a.is_floating_point() and a.dtype != torch.float64
        else a
        for a in args
    ]


def widest(dtype: torch.dtype, *args: Any) -> list[Any]:
    """Cast what is floating to the widest dtype among the arguments: half-precision input and
    float32 parameters meet under autocast."""
    floating = [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    wide = floating[0]
    for other in floating:
        wide = torch.promote_types(wide, other)
    return [a.to(wide) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
