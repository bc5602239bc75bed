"""What goes through each layer of a network, forward and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.activations import Activation, Identity
from mlpkit.backends import Array, Backend
from mlpkit.base import Backward, Context, Layer
from mlpkit.layers import Dense

Host = NDArray[Any]


@dataclass
class Part:
    """A layer, or the linear or the nonlinear half of a `Dense`, and what went through it.

    Attributes
    ----------
    name : of the layer, as its parameters have it
    input, output : the letters for what goes in and for what comes out
    x, dx : (N, D);  y, dy : (N, H)
    jacobian : (N, H, H), of an activation: dy_k / dx_j of sample n at [n, k, j]
    params, grads : of the layer
    """

    layer: Layer
    name: str
    input: str
    output: str
    x: Host = field(init=False)
    y: Host = field(init=False)
    dy: Host = field(init=False)
    dx: Host = field(init=False)
    jacobian: Host = field(init=False)
    params: dict[str, Host] = field(init=False)
    grads: dict[str, Host] = field(init=False)

    @property
    def elementwise(self) -> bool:
        """Whether each unit of an activation depends on its own input alone."""
        others = 1 - np.eye(self.y.shape[-1])
        return not np.any(self.jacobian * others)


@dataclass(frozen=True)
class Recorder(Layer):
    """Does what `layer` does, and appends to `parts` what went through it."""

    layer: Layer
    name: str
    parts: list[Part]

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        backend = context.backend
        steps: list[tuple[Part, Backward]] = []
        for layer in _halves(self.layer):
            before, after = self.parts[-1].output if self.parts else "x", _letter(layer)
            part = Part(layer, self.name, before, after + "′" * (after == before))
            part.x, part.params = backend.to_numpy(x), on_host(backend, context.params)
            x, backward = layer.forward(context, x, train)
            part.y = backend.to_numpy(x)
            if isinstance(layer, Activation):
                units = [np.broadcast_to(unit, part.y.shape) for unit in np.eye(part.y.shape[-1])]
                rows = [backward(backend.asarray(unit, x.dtype), True) for unit in units]
                part.jacobian = np.stack([backend.to_numpy(row) for row in rows], axis=-2)
            self.parts.append(part)
            steps.append((part, backward))

        def run_back(dy: Array, need_dx: bool) -> Array:
            for part, backward in reversed(steps):
                part.dy = backend.to_numpy(dy)
                dy = backward(dy, True)
                part.dx, part.grads = backend.to_numpy(dy), on_host(backend, context.grads)
            return dy

        return x, run_back


def _halves(layer: Layer) -> list[Layer]:
    """A `Dense` as z = x W + b and a = g(z), where it has a g; another layer as it is."""
    if isinstance(layer, Dense) and layer.g != Identity():
        return [replace(layer, activation="identity"), layer.g]
    return [layer]


def _letter(layer: Layer) -> str:
    """What is written for what comes out of a layer."""
    return "z" if isinstance(layer, Dense) else "a" if isinstance(layer, Activation) else "y"


def on_host(backend: Backend, arrays: Mapping[str, Array]) -> dict[str, Host]:
    return {name: backend.to_numpy(array) for name, array in arrays.items()}
