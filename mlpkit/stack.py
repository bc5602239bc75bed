"""A row of layers: how they fit, what they are called, and how they run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlpkit.activations import Activation, Identity
from mlpkit.backends.base import Array
from mlpkit.base import Backward, Context, Layer
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


def input_width(layers: Sequence[Layer]) -> int | None:
    """The inputs that the first layer that knows them expects."""
    known = (getattr(layer, "n_in", None) for layer in layers)
    return next((n_in for n_in in known if n_in is not None), None)


def widths(layers: Sequence[Layer]) -> tuple[int, int]:
    """Inputs and outputs of the whole network; ValueError where two layers do not fit."""
    width = n_in = input_width(layers)
    for layer in layers:
        width = layer.width(width)
    if n_in is None or width is None:
        raise ValueError("a network needs a layer that gives its width, such as Dense")
    return n_in, width


def walk(
    layers: Sequence[Layer], path: tuple[int, ...] = (), prefix: str = ""
) -> Iterator[tuple[tuple[int, ...], str, Layer]]:
    """Each layer, with its place and its name, before those that it is made of.

    The place is its index, after those of the layers around it; the name numbers the layers that
    have parameters or buffers, such as "2.0" for the first of those in the third.
    """
    number = 0
    for index, layer in enumerate(layers):
        name = f"{prefix}{number}"
        yield (*path, index), name, layer
        yield from walk(layer.inner(), (*path, index), f"{name}.")
        number += has_parameters(layer) or _has_buffers(layer)


def has_parameters(layer: Layer) -> bool:
    """Whether the layer, or one that it is made of, has parameters."""
    return bool(layer.shapes()) or any(map(has_parameters, layer.inner()))


def _has_buffers(layer: Layer) -> bool:
    return bool(layer.buffers()) or any(map(_has_buffers, layer.inner()))


def chain(
    layers: Sequence[Layer], contexts: Sequence[Context], x: Array, train: bool
) -> tuple[Array, Backward]:
    """The layers one after the other; their backward passes in the opposite order.

    Where no dx is wanted, nothing is computed for the layers before the first with parameters.
    """
    backwards = []
    for layer, context in zip(layers, contexts, strict=True):
        x, backward = layer.forward(context, x, train)
        backwards.append(backward)
    first = next((i for i, context in enumerate(contexts) if context.trained), len(layers))

    def chain_backward(dy: Array, need_dx: bool) -> Array | None:
        for index in reversed(range(0 if need_dx else first, len(layers))):
            dy = backwards[index](dy, need_dx or index > first)
        return dy if need_dx else None

    return x, chain_backward
