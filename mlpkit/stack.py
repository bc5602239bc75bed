"""A row of layers, before it has parameters."""

from collections.abc import Sequence
from dataclasses import replace

from mlpkit.activations import Activation, Identity
from mlpkit.base import Layer
from mlpkit.layers import Dense


def fold_activations(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with each activation that follows a linear `Dense` made a part of it."""
    if not isinstance(layers, Sequence):
        raise TypeError(f"a network is made of a list of layers, got {layers!r}")
    folded: list[Layer] = []
    for layer in layers:
        if not isinstance(layer, Layer):
            raise TypeError(f"a network is made of layers, got {layer!r}")
        own = vars(type(layer))
        if "__init__" in own and "__dataclass_fields__" not in own:
            raise TypeError(f"{type(layer).__name__} must be a frozen dataclass of its settings")
        before = folded[-1] if folded else None
        if isinstance(layer, Activation) and isinstance(before, Dense) and before.g == Identity():
            folded[-1] = replace(before, activation=layer)
        else:
            folded.append(layer)
    return folded


def widths(layers: Sequence[Layer]) -> tuple[int, int]:
    """Inputs and outputs of the whole network; ValueError where two layers do not fit."""
    n_in = next((layer.n_in for layer in layers if hasattr(layer, "n_in")), None)
    width = n_in
    for layer in layers:
        width = layer.width(width)
    if n_in is None or width is None:
        raise ValueError("a network needs a layer that gives its width, such as Dense")
    return n_in, width
