"""A network of dense layers that trains natively: an epoch is one call.

Shuffling, the forward pass, the loss, back-propagation and the optimizer's step of every batch run
without returning to Python, on the kernels that `linear`, the losses and the optimizers are.

Examples
--------
>>> import numpy as np
>>> import innerloop as il
>>> x = np.random.default_rng(0).standard_normal((256, 8), dtype=np.float32)
>>> y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
>>> network = il.MLP([8, 32, 2], "gelu", seed=1)
>>> history = network.fit(x, y, optimizer=il.Adam(network.parameters, lr=0.01), epochs=60)
>>> float((network.predict(x) == y).mean()) > 0.95
True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _mlp_files, _mlp_fit, losses, reference
from . import _numbers as numbers
from ._arrays import from_numpy, to_numpy
from .activations import activation as _activate
from .optimizers import Optimizer
from .softmax import softmax

__all__ = ["MLP"]

CLASSES = "softmax_cross_entropy"
# Losses whose predictions are probabilities: of the last layer's output, after this activation.
_PROBABILITIES = {"binary_cross_entropy_with_logits": "sigmoid", "binary_cross_entropy": "identity"}
_HALVES_VARIANCE = (  # as He et al. count relu
    *("relu", "leaky_relu", "elu", "celu", "gelu", "gelu_tanh", "silu", "mish", "relu6"),
    *("hardswish", "softplus"),
)
INITS = ("auto", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform")


class MLP:
    """A multi-layer perceptron: dense layers, each ``dropout(act(x @ w + b))``, and a loss.

    Source: D. Rumelhart, G. Hinton and R. Williams, "Learning representations by back-propagating
    errors", Nature 323, 1986.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of inputs, of each hidden layer's units and of outputs.
    activation : str, (str, dict), or a list of these, one a hidden layer
        Of the hidden layers: any of `innerloop.activations.NAMES`, maybe with its parameters, such
        as ``("leaky_relu", {"negative_slope": 0.2})``.
    loss : str, default "softmax_cross_entropy"
        That, for classes; or any elementwise loss, such as "mse_loss",
        "binary_cross_entropy_with_logits" (several labels a row), "huber_loss".
    output_activation : str or (str, dict), default "identity"
        Of the last layer. Losses of logits take the identity; "binary_cross_entropy" wants numbers
        in [0, 1], such as those of "sigmoid".
    loss_params : dict, optional
        The loss's own parameters: ``{"label_smoothing": 0.1}``, ``{"delta": 2.0}``.
    dropout : float or sequence of float, default 0.0
        Probability, in [0, 1], that a hidden unit is dropped in training; one for all hidden
        layers, or one a hidden layer.
    l1, l2 : float, default 0.0
        ``l1 * sum(|w|) + l2 / 2 * sum(w**2)`` over all weights, but not the biases, is added to the
        loss.
    init : {"auto", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform"}, default "auto"
        How weights begin: "auto" is he_normal before relu and its kin, else glorot_uniform. Biases
        begin at 0. Sources: K. He et al., ICCV 2015; X. Glorot and Y. Bengio, AISTATS 2010.
    seed : int, default 0
        Of the first weights, the shuffles (both NumPy's generators, whose streams may change
        between its versions) and dropout. In [0, 2**64).
    dtype : {"float32", "float64"}
    n_threads : int, optional
        That its methods may use. None: all; in training, one or all, whichever is faster over the
        first batches. The results have the same bits for any number.

    Attributes
    ----------
    weights, biases : tuple of arrays, shapes (K, N) and (N,)
        May be written, in place.
    parameters : list of arrays
        Weights and biases by turns: what an optimizer takes.
    sizes, activations, loss, dropout, l1, l2, seed, dtype, n_threads : as given
    epochs, batches : int
        How many have been trained on.
    optimizer : Optimizer or None
        The last one used, to go on with.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, a number out of range, or a list has not one item a hidden layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Any = "relu",
        *,
        loss: str = CLASSES,
        output_activation: Any = "identity",
        loss_params: Mapping[str, float] | None = None,
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        init: str = "auto",
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> None:
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise TypeError(f"sizes must be a list of integers, got {sizes!r}")
        self.sizes = tuple(numbers.steps(n, f"sizes[{i}]") for i, n in enumerate(sizes))
        if len(self.sizes) < 2:
            raise ValueError(f"sizes must hold inputs and outputs at least, got {sizes!r}")
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
        hidden = len(self.sizes) - 2
        self.activations = (
            *_each(activation, hidden, "activation", _activation),
            _activation(output_activation, "output_activation"),
        )
        self.dropout = (*_each(dropout, hidden, "dropout", numbers.fraction), 0.0)
        self.loss = numbers.one_of(CLASSES, *reference.LOSSES)(loss, "loss")
        self.seed = numbers.word64(seed, "seed")
        self.n_threads = None if n_threads is None else numbers.steps(n_threads, "n_threads")
        self.l1, self.l2 = numbers.not_negative(l1, "l1"), numbers.not_negative(l2, "l2")
        mean = 1.0 if self.loss == CLASSES else 1.0 / self.sizes[-1]
        own = _loss_params(self.loss, {} if loss_params is None else loss_params)
        self._objective = reference.mlp.Objective(self.loss, own, mean, mean, self.l1, self.l2)
        numbers.one_of(*INITS)(init, "init")
        rng = np.random.default_rng(self.seed)
        self._take(
            [
                self._first_weight(rng, k, n, init, act[0])
                for k, n, act in zip(self.sizes, self.sizes[1:], self.activations, strict=False)
            ],
            [np.zeros(n, self.dtype) for n in self.sizes[1:]],
        )
        self.epochs = self.batches = 0
        self.optimizer: Optimizer | None = None

    def _first_weight(
        self, rng: np.random.Generator, k: int, n: int, init: str, activation: str
    ) -> NDArray:
        if init == "auto":
            init = "he_normal" if activation in _HALVES_VARIANCE else "glorot_uniform"
        variance = 2.0 / k if init.startswith("he") else 2.0 / (k + n)
        deviation = variance**0.5
        if init.endswith("normal"):
            return (rng.standard_normal((k, n)) * deviation).astype(self.dtype)
        bound = 3.0**0.5 * deviation
        return rng.uniform(-bound, bound, (k, n)).astype(self.dtype)

    def _take(self, weights: list[NDArray], biases: list[NDArray]) -> None:
        """Let these arrays be the parameters."""
        self._weights, self._biases = tuple(weights), tuple(biases)
        self._gradients: list[NDArray] | None = None  # made when first wanted
        self._paces: dict[int, _mlp_fit.Pace] = {}  # by batch size
        self._set_objective(self._objective)

    def _set_objective(self, objective: reference.mlp.Objective) -> None:
        self._objective = objective
        self._layers = [
            reference.mlp.Layer(w, b, name, parameters, dropout)
            for w, b, (name, parameters), dropout in zip(
                self.weights, self.biases, self.activations, self.dropout, strict=True
            )
        ]
        layers = [tuple(layer) for layer in self._layers]
        self._network = _core.Network(layers, objective._asdict(), self.seed)

    @property
    def weights(self) -> tuple[NDArray, ...]:
        """Each layer's, (K, N)."""
        return self._weights

    @property
    def biases(self) -> tuple[NDArray, ...]:
        """Each layer's, (N,)."""
        return self._biases

    @property
    def parameters(self) -> list[NDArray]:
        """Weights and biases by turns."""
        return [p for pair in zip(self._weights, self._biases, strict=True) for p in pair]

    def forward(self, X: Any) -> Any:
        """Return the last layer's output, of logits for a loss that takes them; without dropout.

        Parameters
        ----------
        X : array, shape (rows, inputs)

        Returns
        -------
        array, shape (rows, outputs)
            Of the library of `X`, as those of `predict` and `predict_proba`.

        Raises
        ------
        TypeError
            If `X` is no array of numbers.
        ValueError
            If its shape does not fit.
        """
        return _like(self._forward(X), X)

    def _forward(self, X: Any) -> NDArray:
        x = self._rows(X)
        if _core.backend() == "reference":
            self._check_inputs(x)
            return reference.mlp.forward(self._layers, x)
        return self._network.forward(x, self.n_threads or 0)

    def predict(self, X: Any) -> Any:
        """Return each row's class, labels of 0 and 1 of a binary loss, or the output itself.

        Parameters
        ----------
        X : array, shape (rows, inputs)

        Returns
        -------
        array of int64, shape (rows,); or (rows, outputs) of int64 or of the network's dtype

        Raises
        ------
        TypeError, ValueError
            As `forward`.
        """
        y = self._forward(X)
        if self.loss == CLASSES:
            y = y.argmax(axis=1)
        elif self.loss in _PROBABILITIES:
            logits = _PROBABILITIES[self.loss] == "sigmoid"
            y = (y > (0.0 if logits else 0.5)).astype(np.int64)
        return _like(y, X)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, or of each label of a binary loss.

        Parameters
        ----------
        X : array, shape (rows, inputs)

        Returns
        -------
        array, shape (rows, outputs)

        Raises
        ------
        TypeError, ValueError
            As `forward`; ValueError where the loss is no likelihood of labels.
        """
        if self.loss != CLASSES and self.loss not in _PROBABILITIES:
            raise ValueError(f"predict_proba needs a loss of labels, the network has {self.loss!r}")
        y = self._forward(X)
        if self.loss == CLASSES:
            softmax(y, 1, out=y)
        else:
            _activate(y, _PROBABILITIES[self.loss], out=y)
        return _like(y, X)

    def evaluate(self, X: Any, y: Any, *, sample_weight: Any = None) -> float:
        """Return the loss over some rows, the penalty included, without dropout.

        Parameters
        ----------
        X : array, shape (rows, inputs)
        y : array
            As for `fit_epoch`.
        sample_weight : array, shape (rows,), optional

        Raises
        ------
        TypeError, ValueError, IndexError
            As `fit_epoch`.
        """
        return self._loss(*self._data(X, y, sample_weight), None, None)

    def gradients(
        self, X: Any, y: Any, *, sample_weight: Any = None, dropout_offset: int | None = None
    ) -> tuple[float, list[NDArray]]:
        """Return the loss over some rows, and its gradient by each of `parameters`.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit_epoch`.
        dropout_offset : int, optional
            Layer i is dropped out with `seed` and the offset ``dropout_offset + i``; None: without
            dropout. Training's batch number b, from 0 on, has ``b * len(weights)``.

        Returns
        -------
        loss : float
            The penalty included.
        gradients : list of arrays

        Raises
        ------
        TypeError, ValueError, IndexError
            As `fit_epoch`.
        """
        gradients = [np.empty_like(p) for p in self.parameters]
        offset = (
            None if dropout_offset is None else numbers.word64(dropout_offset, "dropout_offset")
        )
        return self._loss(*self._data(X, y, sample_weight), gradients, offset), gradients

    def fit_epoch(
        self,
        X: Any,
        y: Any,
        optimizer: Optimizer | str | None = None,
        batch_size: int = 32,
        *,
        sample_weight: Any = None,
        shuffle: bool = True,
        order: Any = None,
    ) -> float:
        """Train on every row once, natively.

        Parameters
        ----------
        X : array, shape (rows, inputs)
            Of any number type; of another than the network's it is converted.
        y : array
            Labels, (rows,) of integers, where the loss is "softmax_cross_entropy", of which -100
            is ignored; or probabilities, (rows, outputs). Of other losses (rows, outputs), or
            (rows,) for one output.
        optimizer : Optimizer or str, optional
            Over some or all of `parameters`; or the name of one with its default numbers, such as
            "adam". It goes on from where it is. None: the last one used, at first Adam.
        batch_size : int, default 32
            Rows of a step; the last batch may have fewer, and one larger than the data is as large.
        sample_weight : array, shape (rows,), optional
            Weights of the rows; a batch's loss is divided by their sum.
        shuffle : bool, default True
            Take the rows in an order that `seed` and `epochs` determine.
        order : array of int, optional
            Take these rows instead, in this order.

        Returns
        -------
        float
            The mean over the rows of their batch's loss, before its step; the penalty included.

        Raises
        ------
        TypeError
            If an argument is no array of numbers, or `optimizer` none.
        ValueError
            If shapes do not fit, there are no rows, or the optimizer is over other arrays.
        IndexError
            If a label or an index is out of range. Nothing has been written then.
        KeyboardInterrupt
            After Ctrl-C, with the batches so far done, and whole.
        """
        x, target, weights = self._data(X, y, sample_weight)
        batch = numbers.steps(batch_size, "batch_size")
        indices = _mlp_fit.order_of(self, len(x), numbers.boolean(shuffle, "shuffle"), order)
        batch = min(batch, len(x) if indices is None else len(indices))
        chosen = _mlp_fit.optimizer_of(self, optimizer)
        loss = _mlp_fit.epoch(self, chosen, x, target, weights, indices, batch)
        self.epochs += 1
        return loss

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        optimizer: Optimizer | str | None = None,
        batch_size: int = 32,
        epochs: int = 10,
        sample_weight: Any = None,
        shuffle: bool = True,
        validation: float | tuple[Any, Any] | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
        callback: Callable[[int, dict[str, float]], Any] | None = None,
        progress: bool = False,
    ) -> dict[str, list[float]]:
        """Train for some epochs, maybe until a validation loss stops falling.

        Parameters
        ----------
        X, y, optimizer, batch_size, sample_weight, shuffle
            As for `fit_epoch`. A learning rate that changes is the optimizer's: one of
            `innerloop.schedules`; one with an ``update``, such as `reduce_on_plateau`, is told the
            validation loss, or else the training loss, after each epoch.
        epochs : int, default 10
            At most.
        validation : float, or tuple (X, y), optional
            Rows to judge by: a share in (0, 1) of those given, drawn by `seed` (of labels, of each
            class its share) and not trained on; or others.
        patience : int, optional
            Stop after so many epochs in a row whose validation loss (training loss without
            `validation`) was not lower than the lowest by more than `min_delta`.
        min_delta : float, default 0.0
        restore_best : bool, default True
            With `patience`, end with the weights of the lowest loss.
        callback : function, optional
            ``callback(epoch, record)`` after each epoch, which counts from 0; True stops.
        progress : bool, default False
            Show a bar; needs the package rich.

        Returns
        -------
        dict of str to list of float
            An item an epoch: "loss"; with `validation` also "val_loss" and, of labels,
            "val_accuracy".

        Raises
        ------
        TypeError, ValueError, IndexError, KeyboardInterrupt
            As `fit_epoch`; ValueError also where a split leaves no rows, or a class without any.
        """
        return _mlp_fit.fit(
            *(self, X, y, optimizer, batch_size, epochs, sample_weight, shuffle, validation),
            *(patience, min_delta, restore_best, callback, progress),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file, without pickle.

        Parameters
        ----------
        path : path that ends in .npz or .safetensors
            The latter needs the package safetensors.

        Raises
        ------
        ValueError
            If it ends otherwise.
        """
        _mlp_files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLP:
        """Return the network that `save` wrote.

        Parameters
        ----------
        path : path that ends in .npz or .safetensors

        Raises
        ------
        ValueError
            If it is no such file, or damaged.
        """
        return _mlp_files.load(cls, path)

    def _check_inputs(self, x: NDArray) -> None:
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            raise ValueError(f"X must have the shape (n, {self.sizes[0]}), got {x.shape}")

    def _cast(self, values: NDArray) -> NDArray:
        """In the network's dtype; what that cannot hold becomes infinite."""
        with np.errstate(over="ignore"):
            return values.astype(self.dtype, copy=False)

    def _rows(self, X: Any) -> NDArray:
        """X in the network's dtype."""
        x = _numeric(X, "X")
        return x if x.dtype == self.dtype else self._cast(x)

    def _data(self, X: Any, y: Any, sample_weight: Any) -> tuple[NDArray, NDArray, NDArray | None]:
        """The arguments of training, in the types that it takes, and fitting together."""
        x = self._rows(X)
        self._check_inputs(x)
        if not len(x):
            raise ValueError(f"X must have at least one row, got the shape {x.shape}")
        target, outputs = _numeric(y, "y"), self.sizes[-1]
        if self.loss == CLASSES and target.dtype.kind in "iub":
            want: tuple[int, ...] = (len(x),)
            if target.dtype == np.uint64:  # what int64 lacks is no label either
                target = np.minimum(target, np.iinfo(np.int64).max)
            target = target.astype(np.int64, copy=False)
        else:
            want = (len(x), outputs)
            if outputs == 1 and target.ndim == 1 and self.loss != CLASSES:
                target = target[:, None]
            target = self._cast(target)
        if target.shape != want:
            raise ValueError(f"y must have the shape {want}, got {_numeric(y, 'y').shape}")
        weights = None
        if sample_weight is not None:
            weights = self._cast(_numeric(sample_weight, "sample_weight"))
            if weights.shape != (len(x),):
                raise ValueError(
                    f"sample_weight must have the shape {(len(x),)}, got {weights.shape}"
                )
        return x, target, weights

    def _loss(
        self,
        x: NDArray,
        target: NDArray,
        weights: NDArray | None,
        gradients: list[NDArray] | None,
        dropout_offset: int | None,
    ) -> float:
        if _core.backend() != "reference":
            return self._network.loss(
                x, target, weights, gradients, dropout_offset, self.n_threads or 0
            )
        self._network.check_labels(target)
        loss, made = reference.mlp.loss_and_gradients(
            *(self._layers, self._objective, x, target, weights),
            seed=self.seed,
            dropout_offset=dropout_offset,
        )
        for to, values in zip(gradients or [], made, strict=False):
            to[...] = values
        return loss

    def __getstate__(self) -> dict[str, Any]:
        drop = ("_network", "_layers", "_gradients", "_paces", "optimizer")
        return {k: v for k, v in self.__dict__.items() if k not in drop}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take(list(self.weights), list(self.biases))
        self.optimizer = None

    def __repr__(self) -> str:
        names = [name for name, _ in self.activations]
        return f"MLP({list(self.sizes)}, {names}, loss={self.loss!r}, dtype={self.dtype.name!r})"


def _numeric(value: Any, name: str) -> NDArray:
    """An array of any library, or nested lists, of real numbers."""
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError as error:  # ragged
            raise ValueError(f"{name} must have rows of one length: {error}") from None
    array = to_numpy(value, name)
    if array.dtype.kind not in "fiub" or not array.dtype.isnative:
        raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}")
    return array


def _like(result: NDArray, given: Any) -> Any:
    """A result in the library of what was given."""
    return result if type(given) is np.ndarray else from_numpy(result, given)


def _activation(value: Any, name: str) -> tuple[str, dict[str, float]]:
    """A name, maybe with parameters, both known."""
    which, given = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    which = numbers.one_of(*reference.ACTIVATIONS)(which, name)
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a name or a tuple (name, dict), got {value!r}")
    known = reference.ACTIVATIONS[which].parameters
    for parameter in given:
        if parameter not in known:
            takes = ", ".join(known) or "no parameters"
            raise TypeError(f"{name}: {which} takes {takes}, got {parameter!r}")
    _activate(np.zeros(0, np.float32), which, **given)  # refuses what is out of range
    return which, {k: float(v) for k, v in given.items()}


def _each(value: Any, count: int, name: str, check: Any) -> list[Any]:
    """One item a hidden layer, each checked."""
    if not isinstance(value, list) and not (name == "dropout" and isinstance(value, Sequence)):
        return [check(value, name)] * count
    if len(value) != count:
        raise ValueError(f"{name} must hold one a hidden layer, {count}, got {len(value)}")
    return [check(item, f"{name}[{i}]") for i, item in enumerate(value)]


def _loss_params(loss: str, given: Mapping[str, float]) -> dict[str, float]:
    """The loss's own parameters, known and in range."""
    if not isinstance(given, Mapping):
        raise TypeError(f"loss_params must be a dict, got {given!r}")
    known: tuple[str, ...] = ("label_smoothing", "z_loss")
    if loss != CLASSES:
        known = tuple(k for k, v in reference.LOSSES[loss].parameters.items() if v is not None)
    for name in given:
        if name not in known:
            raise TypeError(f"{loss} takes {', '.join(known) or 'no parameters'}, got {name!r}")
    nothing = np.zeros((0, 1), np.float32)
    target = np.zeros(0, np.int64) if loss == CLASSES else nothing
    getattr(losses, loss)(nothing, target, reduction="sum", **given)  # refuses what is out of range
    return {k: float(v) for k, v in given.items()}
