"""What the layers keep, as flat vectors, and the views of them that the layers work on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array
from mlpkit.backends.base import Namespace
from mlpkit.base import Layer
from mlpkit.initializers import draw
from mlpkit.random import Purpose, make_key
from mlpkit.stack import walk


@dataclass(frozen=True)
class Slot:
    """The place of a parameter or buffer: flat[..., start:stop], in the given shape."""

    path: tuple[int, ...]  # of its layer in the network, see `walk`
    layer: Layer
    name: str  # in the network, such as "0.weight"
    key: str  # in its layer
    shape: tuple[int, ...]  # of one member, (D, H) or (H,)
    start: int
    stop: int

    def view(self, xp: Namespace, flat: Array) -> Array:
        """(D, H) or (H,) of a flat vector (P,); (K, D, H) or (K, 1, H) of K vectors (K, P)."""
        members = tuple(flat.shape[:-1])
        shape = (1, *self.shape) if members and len(self.shape) == 1 else self.shape
        return xp.reshape(flat[..., self.start : self.stop], (*members, *shape))


def parameter_slots(layers: Sequence[Layer]) -> list[Slot]:
    """The slots of all parameters, in the order of the flat vector."""
    return _slots(layers, lambda layer: layer.shapes())


def buffer_slots(layers: Sequence[Layer]) -> list[Slot]:
    """The slots of all buffers, in the order of their flat vector."""
    for _, _, layer in walk(layers):
        if twice := sorted(set(layer.buffers()) & set(layer.shapes())):
            raise ValueError(f"{layer}: {twice} are parameters and buffers by one name")
    return _slots(layers, lambda layer: layer.buffers())


def _slots(
    layers: Sequence[Layer], shapes_of: Callable[[Layer], dict[str, tuple[int, ...]]]
) -> list[Slot]:
    slots: list[Slot] = []
    start = 0
    for path, name, layer in walk(layers):
        for key, shape in shapes_of(layer).items():
            if len(shape) not in (1, 2):
                raise ValueError(f"{layer}: {key} has shape {shape}, expected (H,) or (D, H)")
            stop = start + prod(shape)
            slots.append(Slot(path, layer, f"{name}.{key}", key, shape, start, stop))
            start = stop
    return slots


def size(slots: Sequence[Slot]) -> int:
    """The length of the flat vector of one member."""
    return slots[-1].stop if slots else 0


def initial_vector(slots: Sequence[Slot], seed: int, purpose: Purpose) -> NDArray[np.float64]:
    """The flat vector (P,) that one member begins with."""
    drawn = [
        draw(slot.layer.initial(slot.key), slot.shape, make_key(seed, purpose, index))
        for index, slot in enumerate(slots)
    ]
    return np.concatenate([values.ravel() for values in drawn] or [np.zeros(0)])
