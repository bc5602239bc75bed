"""Layers around which their input is led."""

from dataclasses import dataclass

from mlpkit.backends.base import Array
from mlpkit.base import Backward, Context, Layer
from mlpkit.settings import PerMember, assign
from mlpkit.stack import chain, fold_activations, input_width


@dataclass(frozen=True)
class Residual(Layer):
    """y = x + f(x), with f the given layers in a row, as wide at their end as at their beginning.

    (He and others 2016.)

    >>> from mlpkit import Dense, Network
    >>> net = Network([Dense(3, 4), Residual([Dense(4, 4, "relu"), Dense(4, 4)]), Dense(4, 2)])
    >>> list(net.named_parameters())[2:6]
    ['1.0.weight', '1.0.bias', '1.1.weight', '1.1.bias']
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        assign(self, layers=tuple(fold_activations(self.layers)))
        if not self.layers:
            raise ValueError("Residual needs at least one layer")

    @property
    def n_in(self) -> int | None:
        """Inputs of the first layer that knows them."""
        return input_width(self.layers)

    def inner(self) -> tuple[Layer, ...]:
        return self.layers

    def hyper(self) -> dict[str, PerMember]:
        return {
            f"{index}.{name}": value
            for index, layer in enumerate(self.layers)
            for name, value in layer.hyper().items()
        }

    def width(self, n_in: int | None) -> int | None:
        width = n_in = n_in or self.n_in
        for layer in self.layers:
            width = layer.width(width)
        if width != n_in:
            raise ValueError(f"{self}: x + f(x) needs f of one width, got {n_in} -> {width}")
        return width

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, D) for x (..., N, D)."""
        y, f_backward = chain(self.layers, context.inner, x, train)

        def backward(dy: Array, need_dx: bool) -> Array | None:
            dx = f_backward(dy, need_dx)
            return dy + dx if need_dx else None

        return x + y, backward
