"""The parameters of all layers as one flat vector, and the views that the layers work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array
from mlpkit.backends.base import Namespace
from mlpkit.base import Layer
from mlpkit.initializers import draw
from mlpkit.random import Purpose, make_key


@dataclass(frozen=True)
class Slot:
    """A parameter's place in the flat vector: flat[..., start:stop], in the given shape."""

    layer: int  # position of its layer in the network
    number: int  # position of its layer among those that have parameters
    key: str  # its name within the layer
    shape: tuple[int, ...]  # of one member, (D, H) or (H,)
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its name in the network, such as "0.weight"."""
        return f"{self.number}.{self.key}"

    def view(self, xp: Namespace, flat: Array) -> Array:
        """(D, H) or (H,) of a flat vector (P,); (K, D, H) or (K, 1, H) of K vectors (K, P)."""
        members = tuple(flat.shape[:-1])
        shape = (1, *self.shape) if members and len(self.shape) == 1 else self.shape
        return xp.reshape(flat[..., self.start : self.stop], (*members, *shape))


def parameter_slots(layers: Sequence[Layer]) -> list[Slot]:
    """The slots of all parameters, in the order of the flat vector."""
    slots: list[Slot] = []
    number = start = 0
    for index, layer in enumerate(layers):
        shapes = layer.shapes()
        for key, shape in shapes.items():
            if len(shape) not in (1, 2):
                raise ValueError(f"{layer}: {key} has shape {shape}, expected (H,) or (D, H)")
            stop = start + prod(shape)
            slots.append(Slot(index, number, key, shape, start, stop))
            start = stop
        number += bool(shapes)
    return slots


def initial_parameters(
    layers: Sequence[Layer], slots: Sequence[Slot], seed: int
) -> NDArray[np.float64]:
    """The flat vector (P,) that one member begins with."""
    drawn = [
        draw(
            layers[slot.layer].initial(slot.key),
            slot.shape,
            make_key(seed, Purpose.WEIGHTS, index),
        ).ravel()
        for index, slot in enumerate(slots)
    ]
    return np.concatenate(drawn)
