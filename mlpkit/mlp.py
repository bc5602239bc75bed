"""The multilayer perceptron: dense layers in a row."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mlpkit.activations import Activation
from mlpkit.base import Layer
from mlpkit.layers import Dense, Dropout
from mlpkit.network import Network
from mlpkit.settings import PerMember, number


def MLP(  # noqa: N802  (reads as the class that it builds)
    sizes: Sequence[int],
    activation: str | Activation = "relu",
    output: str | Activation = "linear",
    dropout: PerMember = 0.0,
    init: str = "auto",
    members: int | None = None,
    backend: Any = "numpy",
    dtype: str = "float32",
    seed: int | Sequence[int] = 0,
) -> Network:
    """A multilayer perceptron of the given sizes, [inputs, hidden, ..., outputs].

    Parameters
    ----------
    activation, output : of the hidden layers and of the last one, by name or as an `Activation`
    dropout : rate after each hidden layer, in [0, 1), or one per member
    init : initializer of the weights; "auto" is what suits each layer's activation
    members, backend, dtype, seed : see `Network`
    """
    if not isinstance(sizes, Sequence) or len(sizes) < 2:
        raise ValueError(f"sizes are [inputs, hidden, ..., outputs], got {sizes!r}")
    rate = number("dropout", dropout, below=1.0)
    layers: list[Layer] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers.append(Dense(n_in, n_out, activation, init=init))
        if rate != 0:
            layers.append(Dropout(rate))
    layers.append(Dense(sizes[-2], sizes[-1], output, init=init))
    return Network(layers, members, backend, dtype, seed)
