"""What a layer is: settings without state, whose `forward` returns its own `backward`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlpkit.backends import Array, Backend
from mlpkit.initializers import Initializer
from mlpkit.settings import PerMember

Backward = Callable[[Array, bool], Array | None]


@dataclass(frozen=True)
class Context:
    """What a network hands to one of its layers.

    Attributes
    ----------
    params, grads : the layer's parameters and gradients by name, views of the network's flat
        vectors: weights (D, H) or (K, D, H), vectors (H,) or (K, 1, H).  A backward pass
        overwrites the gradients.
    buffers : what the layer remembers from one training pass to the next, in views like those of
        the parameters; it writes into them itself.
    key : (2,) or (K, 2) int64, the layer's random key, for `Backend.dropout`.
    passes : () int64 on the device, the number of training passes begun: the key's step.
    inner : the contexts of the layers that the layer is made of.
    """

    backend: Backend
    params: Mapping[str, Array]
    grads: Mapping[str, Array]
    buffers: Mapping[str, Array]
    key: Array
    passes: Array
    inner: tuple["Context", ...] = ()

    @property
    def trained(self) -> bool:
        """Whether the layer, or one that it is made of, has parameters."""
        return bool(self.params) or any(context.trained for context in self.inner)


@dataclass(frozen=True)
class Layer(ABC):
    """A layer: a frozen dataclass of its settings.

    A subclass gives `forward`; if it has parameters, `shapes` and `initial`; if it changes the
    width, `width`; if a setting may differ from member to member, `hyper`; if it remembers anything
    but parameters, `buffers`; if it is made of layers, `inner`.  The number of inputs of a network
    is the `n_in` of the first layer that has one.
    """

    min_rows: ClassVar[int] = 1  # samples that a training pass needs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter of one network: (D, H) or (H,)."""
        return {}

    def buffers(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of what one network remembers beside its parameters, such as (H,)."""
        return {}

    def initial(self, name: str) -> Initializer:
        """The initializer of the parameter or buffer `name`, see `mlpkit.initializers`."""
        return "zeros"

    def inner(self) -> Sequence["Layer"]:
        """The layers that this layer is made of."""
        return ()

    def width(self, n_in: int | None) -> int | None:
        """Outputs for `n_in` inputs, None where the input's width is not known."""
        return n_in

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {}

    @abstractmethod
    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, H) for x (..., N, D), and the function that takes dy back to dx.

        `backward(dy, need_dx)` writes the gradients of the parameters and returns dx, or None
        where `need_dx` is false.  Neither may write into the array it was given.
        """
