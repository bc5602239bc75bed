"""The multilayer perceptron: dense layers in a row."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mlpkit.activations import Activation, get_activation
from mlpkit.backends.names import look_up
from mlpkit.base import Layer
from mlpkit.initializers import Initializer
from mlpkit.layers import Dense, Dropout
from mlpkit.network import Network
from mlpkit.normalization import BatchNorm, LayerNorm
from mlpkit.settings import PerMember, number

NORMS = {"layer": LayerNorm, "batch": BatchNorm}


def MLP(  # noqa: N802  (reads as the class that it builds)
    sizes: Sequence[int],
    activation: str | Activation = "relu",
    output: str | Activation = "linear",
    dropout: PerMember = 0.0,
    norm: str | None = None,
    init: Initializer = "auto",
    members: int | None = None,
    backend: Any = "numpy",
    dtype: str = "float32",
    seed: int | Sequence[int] = 0,
    multilabel: bool = False,
    precision: str | None = None,
) -> Network:
    """A multilayer perceptron of the given sizes, [inputs, hidden, ..., outputs].

    Parameters
    ----------
    activation, output : of the hidden layers and of the last one, by name or as an `Activation`
    dropout : rate after each hidden layer, in [0, 1), or one per member
    norm : "layer" or "batch", before the activation of each hidden layer; None for neither
    init : initializer of the weights; "auto" is what suits each layer's activation
    members, backend, dtype, seed, multilabel, precision : see `Network`

    >>> MLP([784, 256, 128, 10]).n_parameters
    235146
    >>> MLP([4, 8, 3], "gelu", dropout=0.2, norm="layer", members=100).params.shape
    (100, 83)
    """
    if not isinstance(sizes, Sequence) or len(sizes) < 2:
        raise ValueError(f"sizes are [inputs, hidden, ..., outputs], got {sizes!r}")
    rate = number("dropout", dropout, below=1.0)
    g = get_activation(activation)
    kind = None if norm is None else look_up("norm", norm, NORMS)
    layers: list[Layer] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        if kind is None:
            layers.append(Dense(n_in, n_out, g, init=init))
        else:
            # What BatchNorm subtracts as a mean would take a bias with it.
            linear = Dense(
                n_in, n_out, bias=norm != "batch", init=g.init if init == "auto" else init
            )
            layers += [linear, kind(n_out), g]
        if rate != 0:
            layers.append(Dropout(rate))
    layers.append(Dense(sizes[-2], sizes[-1], output, init=init))
    return Network(layers, members, backend, dtype, seed, multilabel, precision)
