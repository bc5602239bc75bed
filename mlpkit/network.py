"""A network owns its parameters as one flat vector and runs its layers forward and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlpkit.activations import Activation, Identity, Sigmoid, Softmax
from mlpkit.backends import Array, Backend, get_backend
from mlpkit.backends.names import unknown_name
from mlpkit.base import Context, Layer
from mlpkit.layers import Dense, Dropout
from mlpkit.parameters import Slot, buffer_slots, initial_vector, parameter_slots, size
from mlpkit.random import Key, Purpose, inner_key, make_key, member_seeds
from mlpkit.settings import check_members, to_settings, whole
from mlpkit.stack import chain, fold_activations, walk, widths

DTYPES = ("float32", "float64")
BYTE_SCALE = 1 / 255  # uint8 inputs are images: 0..255 stands for 0..1
ROWS_AT_ONCE = 8192  # rows, over all members, that a prediction computes at once


class Network:
    """Layers in a row, for one set of parameters or for K sets that are trained at once.

    Parameters
    ----------
    layers : at least one of them with parameters.  An activation after a `Dense` becomes part of
        it, so that bias and activation are one kernel; `layers` shows the result.
    members : None for one network, K for K of them stacked in front.
    backend : see `mlpkit.backends.get_backend`
    dtype : "float32" or "float64", of parameters and activations
    seed : in [0, 2**64), for the initial weights and the dropout masks.  With K members, one seed
        each, or an integer s that stands for s, s + 1, ..., s + K - 1.
    multilabel : whether a sample may have several classes, each output being one of them
    precision : of the operands of matrix products in float32, "tf32", "bfloat16" or "float16", see
        `Backend.at`; None for that of the backend, which is float32 unless it says otherwise

    Attributes
    ----------
    params, grads : (P,) or (K, P), flat, on the device
    buffers : (B,) or (K, B), what layers remember beside their parameters
    passes : () int64 on the device, the number of training passes begun, each of which draws new
        dropout masks

    >>> net = Network([Dense(3, 4, "tanh"), Dense(4, 2)], dtype="float64")
    >>> {name: array.shape for name, array in net.named_parameters().items()}
    {'0.weight': (3, 4), '0.bias': (4,), '1.weight': (4, 2), '1.bias': (2,)}
    >>> scores, backward = net.forward([[0.1, 0.2, 0.3]])
    >>> backward(scores, need_dx=True).shape
    (1, 3)
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        members: int | None = None,
        backend: Any = "numpy",
        dtype: str = "float32",
        seed: int | Sequence[int] = 0,
        multilabel: bool = False,
        precision: str | None = None,
    ) -> None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        self.layers = fold_activations(layers)
        self.members = None if members is None else whole("members", members)
        self.backend: Backend = get_backend(backend)
        if precision is not None:
            self.backend = self.backend.at(precision)
        if dtype != "float32" and (kept := self.backend.precision) is not None:
            raise ValueError(f"precision={kept!r} is for dtype='float32', not {dtype!r}")
        self.dtype_name = dtype
        self.multilabel = bool(multilabel)
        self.dtype = getattr(self.backend.xp, dtype)
        self.seeds = member_seeds(seed, self.members)
        self.n_in, self.n_out = widths(self.layers)
        for layer in self.layers:
            check_members(str(layer), layer.hyper(), self.members)

        self._slots = parameter_slots(self.layers)
        self._buffer_slots = buffer_slots(self.layers)
        self.n_parameters = size(self._slots)
        if self.n_parameters == 0:
            raise ValueError("a network needs at least one layer with parameters")
        xp = self.backend.xp
        self._params = self._initial(self._slots, Purpose.WEIGHTS)
        self._grads = xp.zeros_like(self._params)
        self._buffers = self._initial(self._buffer_slots, Purpose.BUFFERS)
        self._passes = xp.zeros((), dtype=xp.int64)
        keys = [
            [make_key(seed, Purpose.DROPOUT, index) for seed in self.seeds]
            for index in range(len(self.layers))
        ]
        self._contexts = self._contexts_of(self.layers, (), keys)

    def _initial(self, slots: Sequence[Slot], purpose: Purpose) -> Array:
        rows = [initial_vector(slots, seed, purpose) for seed in self.seeds]
        return self.backend.asarray(np.stack(rows) if self.members else rows[0], self.dtype)

    @property
    def params(self) -> Array:
        """All parameters; to set them, write into them: the layers hold views."""
        return self._params

    @property
    def grads(self) -> Array:
        """All gradients, of the last backward pass."""
        return self._grads

    @property
    def buffers(self) -> Array:
        """What layers such as `BatchNorm` remember beside their parameters."""
        return self._buffers

    @property
    def passes(self) -> Array:
        """The number of training passes begun."""
        return self._passes

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle has parameters of its own, and views of those."""
        seed = self.seeds if self.members else self.seeds[0]
        kind = (self.members, self.backend, self.dtype_name)
        how = (self.layers, *kind, seed, self.multilabel, self.backend.precision)
        state = (self.params, self.buffers, self.passes)
        return _copied, (how, [self.backend.to_numpy(array) for array in state])

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        members = "" if self.members is None else f", members={self.members}"
        return f"Network([{layers}]{members}, backend={self.backend.name!r})"

    # ---- parameters ----------------------------------------------------------------------------

    def _contexts_of(
        self, layers: Sequence[Layer], path: tuple[int, ...], keys: Sequence[Sequence[Key]]
    ) -> tuple[Context, ...]:
        """The contexts of layers at `path`, with the random keys (layers, K) of their members."""
        return tuple(
            Context(
                self.backend,
                self._views(self._slots, self.params, (*path, index)),
                self._views(self._slots, self.grads, (*path, index)),
                self._views(self._buffer_slots, self.buffers, (*path, index)),
                self.backend.asarray(np.array(own if self.members else own[0], np.int64)),
                self.passes,
                self._contexts_of(
                    layer.inner(),
                    (*path, index),
                    [[inner_key(key, i) for key in own] for i in range(len(layer.inner()))],
                ),
            )
            for index, (layer, own) in enumerate(zip(layers, keys, strict=True))
        )

    def _views(self, slots: Sequence[Slot], flat: Array, path: tuple[int, ...]) -> dict[str, Array]:
        return {s.key: s.view(self.backend.xp, flat) for s in slots if s.path == path}

    def named_parameters(self) -> dict[str, Array]:
        """Views of the parameters: {"0.weight": (D, H), "0.bias": (H,), "1.weight": ...}.

        Numbered by the layers that have parameters; (K, D, H) and (K, 1, H) with members.
        """
        return {slot.name: slot.view(self.backend.xp, self.params) for slot in self._slots}

    def named_gradients(self) -> dict[str, Array]:
        """Views of the gradients, like `named_parameters`."""
        return {slot.name: slot.view(self.backend.xp, self.grads) for slot in self._slots}

    def named_buffers(self) -> dict[str, Array]:
        """Views of the buffers, such as {"1.running_mean": (H,)}."""
        return {slot.name: slot.view(self.backend.xp, self.buffers) for slot in self._buffer_slots}

    def on_weights(self, flat: Array) -> list[Array]:
        """Views (D, H) or (K, D, H) of a flat vector, of the weights: the matrices alone."""
        return [s.view(self.backend.xp, flat) for s in self._slots if len(s.shape) == 2]

    def load_parameters(self, values: Mapping[str, Any]) -> None:
        """Set all parameters, and such buffers as are given, from host or device arrays by name.

        Nothing is set if one misfits.
        """
        parameters = self.named_parameters()
        known = parameters | self.named_buffers()
        missing, extra = sorted(set(parameters) - set(values)), sorted(set(values) - set(known))
        if missing or extra:
            raise ValueError(f"parameters do not match: missing {missing}, unknown {extra}")
        # Copies, for the values may be views of the parameters that are about to change.
        arrays = {
            name: self.backend.xp.asarray(self.backend.asarray(value, self.dtype), copy=True)
            for name, value in values.items()
        }
        for name, array in arrays.items():
            given, wanted = tuple(array.shape), tuple(known[name].shape)
            if given != wanted:
                raise ValueError(f"{name} has shape {given}, expected {wanted}")
        for name, array in arrays.items():
            known[name][...] = array

    def settings(self) -> dict[str, Any]:
        """What `Network` was built from, JSON-able, but for the backend."""
        return {
            "layers": [to_settings(layer) for layer in self.layers],
            "members": self.members,
            "dtype": self.dtype_name,
            "seed": self.seeds if self.members else self.seeds[0],
            "multilabel": self.multilabel,
            "precision": self.backend.precision,
        }

    def summary(self) -> str:
        """A table of the layers with their shapes, and the total of the parameters."""
        rows = [("layer", "parameters", "count")]
        for path, _, layer in walk(self.layers):
            own = [slot for slot in self._slots if slot.path == path]
            shapes = "  ".join(f"{slot.name} {slot.shape}" for slot in own)
            count = sum(slot.stop - slot.start for slot in own)
            indent = "  " * (len(path) - 1)
            rows.append((indent + _describe(layer), shapes, "" if layer.inner() else f"{count:,}"))
        rows.append(
            (
                "total",
                "" if self.members is None else f"each of {self.members} members",
                f"{self.n_parameters:,}",
            )
        )
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    # ---- forward and backward ------------------------------------------------------------------

    def place(self, x: Any) -> Array:
        """`x` on the device, checked: (N, D) or (K, N, D), of the network's dtype or uint8.

        Raises ValueError for a wrong shape and TypeError for a wrong dtype or library.
        """
        xp = self.backend.xp
        x = self.backend.asarray(x)
        floats = x.dtype == self.dtype or xp.isdtype(x.dtype, "real floating")
        self.check_input(tuple(x.shape), x.dtype, floats or x.dtype == xp.uint8)
        return xp.astype(x, self.dtype, copy=False) if floats else x

    def check_input(self, shape: tuple[int, ...], dtype: Any, allowed: bool) -> None:
        """Raise for a shape that no input has, or a dtype that is not allowed."""
        stacked = self.members is not None and len(shape) == 3 and shape[0] == self.members
        if not (len(shape) == 2 or stacked) or shape[-1] != self.n_in or 0 in shape:
            members = f" or ({self.members}, N, {self.n_in})" if self.members else ""
            raise ValueError(
                f"x has shape {shape}, this network expects (N, {self.n_in}){members} "
                "with N at least 1"
            )
        if not allowed:
            raise TypeError(
                f"x has dtype {dtype}, expected floating point, or uint8 for images, which "
                "are scaled by 1/255; cast it, so that the scale is your choice"
            )

    def rows(self, x: Array, rows: Array | None = None) -> Array:
        """The rows of a placed array as the layers take them: cast, and bytes scaled to [0, 1]."""
        scale = BYTE_SCALE if x.dtype == self.backend.xp.uint8 else None
        return self.backend.gather_rows(x, rows, self.dtype, scale)

    def forward(self, x: Any, train: bool = False) -> tuple[Array, Callable[..., Array | None]]:
        """Scores (N, C), or (K, N, C) with members, and the function that runs back from them.

        Parameters
        ----------
        x : (N, D), or (K, N, D) with a batch per member; floating point, or uint8 (scaled by 1/255)
        train : whether dropout is on, with masks that no earlier pass had

        Returns
        -------
        scores : the output of the last layer
        backward : `backward(dscores, need_dx=False)` overwrites `grads` with the gradients for
            dscores (shaped like scores), and returns dx where `need_dx` is true.
        """
        y = self.rows(self.place(x))
        if train:
            self._passes += 1
        scores, chain_backward = chain(self.layers, self._contexts, y, train)

        def backward(dscores: Array, need_dx: bool = False) -> Array | None:
            return chain_backward(dscores, need_dx)

        return scores, backward

    def activations(self, x: Any) -> list[Array]:
        """The output of each layer, (N, H) or (K, N, H), the last one being the scores."""
        y, outputs = self.rows(self.place(x)), []
        for layer, context in zip(self.layers, self._contexts, strict=True):
            y, _ = layer.forward(context, y, False)
            outputs.append(y)
        return outputs

    # ---- prediction ----------------------------------------------------------------------------

    @property
    def output(self) -> Activation:
        """The activation that the scores have passed."""
        last = next(layer for layer in reversed(self.layers) if not isinstance(layer, Dropout))
        if isinstance(last, Dense):
            return last.g
        return last if isinstance(last, Activation) else Identity()

    def probabilities(self, scores: Array) -> Array:
        """Class probabilities (..., N, C) of scores; for C = 1 that of class 1.

        Linear scores pass a softmax, or a sigmoid each where C = 1 or with `multilabel`: what
        softmax_cross_entropy and binary_cross_entropy make of them.  Those of a softmax or sigmoid
        output are probabilities already.  Another output has none: ValueError.
        """
        if isinstance(self.output, Sigmoid | Softmax):
            return scores
        if not isinstance(self.output, Identity):
            raise ValueError(f"an output of {self.output.name} gives no probabilities")
        link = Sigmoid() if self.multilabel or self.n_out == 1 else Softmax()
        return link.value(self.backend.xp, scores)

    def classes(self, scores: Array) -> Array:
        """The most probable class (..., N), int64; for C = 1, whether class 1 has over 0.5.

        With `multilabel` 0 or 1 for each output, (..., N, C).  The scores of NaN inputs are NaN,
        and their class is without meaning.
        """
        xp = self.backend.xp
        if self.multilabel:
            return xp.astype(self.probabilities(scores) > 0.5, xp.int64)
        if self.n_out == 1:
            return xp.astype(self.probabilities(scores)[..., 0] > 0.5, xp.int64)
        return xp.argmax(scores, axis=-1)

    def predict_scores(self, x: Any) -> Array:
        """Scores (N, C) or (K, N, C), without dropout, computed a few thousand rows at once.

        A `numpy.memmap` is read as many rows at a time.
        """
        x = x if isinstance(x, np.memmap) else self.place(x)
        count = max(1, ROWS_AT_ONCE // (self.members or 1))
        n = x.shape[-2]
        parts = [self.forward(x[..., i : min(i + count, n), :])[0] for i in range(0, n, count)]
        return parts[0] if len(parts) == 1 else self.backend.xp.concat(parts, axis=-2)

    def predict_proba(self, x: Any) -> Array:
        """`probabilities` of the scores of x."""
        return self.probabilities(self.predict_scores(x))

    def predict(self, x: Any) -> Array:
        """`classes` of the scores of x."""
        return self.classes(self.predict_scores(x))


def _copied(how: tuple[Any, ...], state: Sequence[Any]) -> Network:
    network = Network(*how)
    for array, copied in zip((network.params, network.buffers, network.passes), state, strict=True):
        array[...] = network.backend.asarray(copied)
    return network


def _describe(layer: Layer) -> str:
    if isinstance(layer, Dense):
        return f"Dense {layer.n_in} -> {layer.n_out}, {layer.g.name}"
    return type(layer).__name__ if layer.inner() else str(layer)
