"""Each activation with its derivative directly beneath.

`value` is y = g(z).  `gradient` is dz = dy g'(z), written with z or y, whichever is shorter.
All arrays are (..., N, H).
"""

from abc import abstractmethod
from typing import ClassVar

from mlpkit.backends.base import Array, Namespace
from mlpkit.backends.names import look_up
from mlpkit.base import Backward, Context, Layer


class Activation(Layer):
    """An elementwise function; as a layer of its own, or inside the `Dense` before it.

    It is called by its `name`, by default that of its class in small letters.
    """

    name: ClassVar[str] = "activation"
    init: ClassVar[str] = "glorot_uniform"  # what init="auto" gives the weights before it

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def value(self, xp: Namespace, z: Array) -> Array:
        """g(z)."""

    @abstractmethod
    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        """dy g'(z)."""

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y = g(x)."""
        xp = context.backend.xp
        y = self.value(xp, x)

        def backward(dy: Array, need_dx: bool) -> Array | None:
            return self.gradient(xp, dy, x, y) if need_dx else None

        return y, backward


class Identity(Activation):
    """g(z) = z."""

    def value(self, xp: Namespace, z: Array) -> Array:
        return z

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy


class ReLU(Activation):
    """g(z) = max(z, 0); the derivative at 0 is taken as 0, as in PyTorch.  NaN stays NaN."""

    init: ClassVar[str] = "he_normal"

    def value(self, xp: Namespace, z: Array) -> Array:
        return xp.maximum(z, xp.zeros((), dtype=z.dtype))

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * xp.astype(y > 0, dy.dtype)


class Sigmoid(Activation):
    """g(z) = 1 / (1 + e^-z); g' = g (1 - g).

    From e^-|z|, which neither overflows nor loses the digits of a small g.
    """

    def value(self, xp: Namespace, z: Array) -> Array:
        e = xp.exp(-xp.abs(z))
        return xp.where(z >= 0, xp.ones_like(e), e) / (1 + e)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * y * (1 - y)


class Tanh(Activation):
    """g(z) = tanh z; g' = 1 - g^2."""

    def value(self, xp: Namespace, z: Array) -> Array:
        return xp.tanh(z)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * (1 - y * y)


KINDS: tuple[type[Activation], ...] = (Identity, ReLU, Sigmoid, Tanh)
ACTIVATIONS = {kind.name: kind for kind in KINDS} | {"linear": Identity}


def get_activation(activation: str | Activation) -> Activation:
    """An activation by its name, or itself."""
    if isinstance(activation, Activation):
        return activation
    return look_up("activation", activation, ACTIVATIONS)()
