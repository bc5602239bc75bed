"""A network owns its parameters as one flat vector and runs its layers forward and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlpkit.activations import Activation, Identity, Sigmoid
from mlpkit.backends import Array, Backend, get_backend
from mlpkit.backends.names import unknown_name
from mlpkit.base import Context, Layer
from mlpkit.layers import Dense, Dropout
from mlpkit.parameters import initial_parameters, parameter_slots
from mlpkit.random import Purpose, make_key, member_seeds
from mlpkit.settings import check_members, positive_int, to_settings
from mlpkit.stack import fold_activations, widths

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

    Attributes
    ----------
    params, grads : (P,) or (K, P), flat, on the device
    passes : () int64 on the device, the number of training passes begun, each of which draws new
        dropout masks
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        members: int | None = None,
        backend: Any = "numpy",
        dtype: str = "float32",
        seed: int | Sequence[int] = 0,
    ) -> None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        self.layers = fold_activations(layers)
        self.members = None if members is None else positive_int("members", members)
        self.backend: Backend = get_backend(backend)
        self.dtype_name = dtype
        self.dtype = getattr(self.backend.xp, dtype)
        self.seeds = member_seeds(seed, self.members)
        self.n_in, self.n_out = widths(self.layers)
        for layer in self.layers:
            check_members(str(layer), layer.hyper(), self.members)

        self._slots = parameter_slots(self.layers)
        if not self._slots:
            raise ValueError("a network needs at least one layer with parameters")
        self.n_parameters = self._slots[-1].stop
        xp = self.backend.xp
        host = np.empty((len(self.seeds), self.n_parameters), dtype)
        for row, member_seed in zip(host, self.seeds, strict=True):
            row[...] = initial_parameters(self.layers, self._slots, member_seed)
        self._params = self.backend.asarray(host if members else host[0], self.dtype)
        self._grads = xp.zeros_like(self._params)
        self.passes = xp.zeros((), dtype=xp.int64)
        self._contexts = [self._context(index) for index in range(len(self.layers))]

    @property
    def params(self) -> Array:
        """All parameters; to set them, write into them: the layers hold views."""
        return self._params

    @property
    def grads(self) -> Array:
        """All gradients, of the last backward pass."""
        return self._grads

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle has parameters of its own, and views of those."""
        how = (self.layers, self.members, self.backend, self.dtype_name, self.seeds)
        to_numpy = self.backend.to_numpy
        return _copied, (how, to_numpy(self.params), to_numpy(self.passes))

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        members = "" if self.members is None else f", members={self.members}"
        return f"Network([{layers}]{members}, backend={self.backend.name!r})"

    # ---- parameters ----------------------------------------------------------------------------

    def _context(self, index: int) -> Context:
        xp = self.backend.xp
        own = [slot for slot in self._slots if slot.layer == index]
        keys = np.array([make_key(seed, Purpose.DROPOUT, index) for seed in self.seeds], np.int64)
        return Context(
            self.backend,
            {slot.key: slot.view(xp, self.params) for slot in own},
            {slot.key: slot.view(xp, self.grads) for slot in own},
            self.backend.asarray(keys if self.members else keys[0]),
            self.passes,
        )

    def named_parameters(self) -> dict[str, Array]:
        """Views of the parameters: {"0.weight": (D, H), "0.bias": (H,), "1.weight": ...}.

        Numbered by the layers that have parameters; (K, D, H) and (K, 1, H) with members.
        """
        return {slot.name: slot.view(self.backend.xp, self.params) for slot in self._slots}

    def named_gradients(self) -> dict[str, Array]:
        """Views of the gradients, like `named_parameters`."""
        return {slot.name: slot.view(self.backend.xp, self.grads) for slot in self._slots}

    def load_parameters(self, values: Mapping[str, Any]) -> None:
        """Set all parameters from host or device arrays by name; nothing is set if one misfits."""
        views = self.named_parameters()
        if set(values) != set(views):
            missing, extra = sorted(set(views) - set(values)), sorted(set(values) - set(views))
            raise ValueError(f"parameters do not match: missing {missing}, unknown {extra}")
        # Copies, for the values may be views of the parameters that are about to change.
        arrays = {
            name: self.backend.xp.asarray(self.backend.asarray(value, self.dtype), copy=True)
            for name, value in values.items()
        }
        for name, view in views.items():
            if tuple(arrays[name].shape) != tuple(view.shape):
                raise ValueError(
                    f"{name} has shape {tuple(arrays[name].shape)}, expected {tuple(view.shape)}"
                )
        for name, view in views.items():
            view[...] = arrays[name]

    def settings(self) -> dict[str, Any]:
        """What `Network` was built from, JSON-able, but for the backend."""
        return {
            "layers": [to_settings(layer) for layer in self.layers],
            "members": self.members,
            "dtype": self.dtype_name,
            "seed": self.seeds if self.members else self.seeds[0],
        }

    def summary(self) -> str:
        """A table of the layers with their shapes, and the total of the parameters."""
        rows = [("layer", "parameters", "count")]
        for index, layer in enumerate(self.layers):
            own = [slot for slot in self._slots if slot.layer == index]
            shapes = "  ".join(f"{slot.name} {slot.shape}" for slot in own)
            count = sum(slot.stop - slot.start for slot in own)
            rows.append((_describe(layer), shapes, f"{count:,}"))
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
        shape = tuple(x.shape)
        stacked = self.members is not None and len(shape) == 3 and shape[0] == self.members
        if not (len(shape) == 2 or stacked) or shape[-1] != self.n_in or 0 in shape:
            members = f" or ({self.members}, N, {self.n_in})" if self.members else ""
            raise ValueError(
                f"x has shape {shape}, this network expects (N, {self.n_in}){members} "
                "with N at least 1"
            )
        if x.dtype != xp.uint8 and not xp.isdtype(x.dtype, "real floating"):
            raise TypeError(
                f"x has dtype {x.dtype}, expected floating point, or uint8 for images, which "
                "are scaled by 1/255; cast it, so that the scale is your choice"
            )
        return x if x.dtype == xp.uint8 else xp.astype(x, self.dtype, copy=False)

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
            self.passes[...] = self.passes + 1
        backwards = []
        for layer, context in zip(self.layers, self._contexts, strict=True):
            y, layer_backward = layer.forward(context, y, train)
            backwards.append(layer_backward)
        first = self._slots[0].layer  # nothing before it has gradients

        def backward(dscores: Array, need_dx: bool = False) -> Array | None:
            dy: Array | None = dscores
            for index in reversed(range(0 if need_dx else first, len(backwards))):
                dy = backwards[index](dy, need_dx or index > first)
            return dy

        return y, backward

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

        Linear scores are taken as what softmax_cross_entropy, or binary_cross_entropy for C = 1,
        makes of them, and pass a softmax or a sigmoid; those of a sigmoid output are probabilities
        already.  Another output has none: ValueError.
        """
        xp = self.backend.xp
        if isinstance(self.output, Sigmoid):
            return scores
        if not isinstance(self.output, Identity):
            raise ValueError(f"an output of {self.output.name} gives no probabilities")
        if self.n_out == 1:
            return Sigmoid().value(xp, scores)
        exps = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        return exps / xp.sum(exps, axis=-1, keepdims=True)

    def classes(self, scores: Array) -> Array:
        """The most probable class (..., N), int64; for C = 1, whether class 1 has over 0.5.

        The scores of NaN inputs are NaN, and their class is without meaning.
        """
        xp = self.backend.xp
        if self.n_out == 1:
            return xp.astype(self.probabilities(scores)[..., 0] > 0.5, xp.int64)
        return xp.argmax(scores, axis=-1)

    def predict_scores(self, x: Any) -> Array:
        """Scores (N, C) or (K, N, C), without dropout, computed a few thousand rows at once."""
        x = self.place(x)
        size = max(1, ROWS_AT_ONCE // (self.members or 1))
        n = x.shape[-2]
        parts = [self.forward(x[..., i : min(i + size, n), :])[0] for i in range(0, n, size)]
        return parts[0] if len(parts) == 1 else self.backend.xp.concat(parts, axis=-2)

    def predict_proba(self, x: Any) -> Array:
        """`probabilities` of the scores of x."""
        return self.probabilities(self.predict_scores(x))

    def predict(self, x: Any) -> Array:
        """`classes` of the scores of x."""
        return self.classes(self.predict_scores(x))


def _copied(how: tuple[Any, ...], params: Any, passes: Any) -> Network:
    layers, members, backend, dtype, seeds = how
    network = Network(layers, members, backend, dtype, seeds if members else seeds[0])
    network.params[...] = network.backend.asarray(params)
    network.passes[...] = int(passes)
    return network


def _describe(layer: Layer) -> str:
    if isinstance(layer, Dense):
        return f"Dense {layer.n_in} -> {layer.n_out}, {layer.g.name}"
    return str(layer)
