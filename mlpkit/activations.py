"""Each activation with its derivative directly beneath.

`value` is y = g(z).  `gradient` is dz = dy g'(z), written with z or y, whichever is shorter.
All arrays are (..., N, H).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mlpkit import normal
from mlpkit.backends.base import Array, Namespace
from mlpkit.backends.names import look_up
from mlpkit.base import Backward, Context, Layer
from mlpkit.settings import assign, one_number


class Activation(Layer):
    """A function without parameters; as a layer of its own, or inside the `Dense` before it.

    It is called by its `name`, by default that of its class in small letters.
    """

    name: ClassVar[str] = "activation"
    init: ClassVar[str] = "glorot_uniform"  # what init="auto" gives the weights before it
    kernel: ClassVar[str] = ""  # see `backends.base.Activation`; a subclass does not inherit it

    def __init_subclass__(cls) -> None:
        if "kernel" not in vars(cls):
            cls.kernel = ""
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


# ---- bounded -------------------------------------------------------------------------------------


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


class Softmax(Activation):
    """g(z)_i = e^z_i / sum_j e^z_j over a sample's outputs; dz_i = g_i (dy_i - sum_j dy_j g_j).

    For the output of a network.  `SoftmaxCrossEntropy` is computed from linear outputs instead,
    for together the two have a simpler derivative and lose no digits.
    """

    def value(self, xp: Namespace, z: Array) -> Array:
        exps = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        return exps / xp.sum(exps, axis=-1, keepdims=True)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))


def log_softmax(xp: Namespace, z: Array) -> Array:
    """log(softmax(z)), exact where the softmax is too small for its logarithm."""
    shifted = z - xp.max(z, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


# ---- rectifiers: near 0 for z << 0, near z for z >> 0 --------------------------------------------


class Rectifier(Activation):
    """A function that passes what is positive and holds back what is negative."""

    init: ClassVar[str] = "he_normal"


class ReLU(Rectifier):
    """g(z) = max(z, 0); the derivative at 0 is taken as 0, as in PyTorch.  NaN stays NaN."""

    kernel: ClassVar[str] = "relu"

    def value(self, xp: Namespace, z: Array) -> Array:
        return xp.maximum(z, xp.zeros((), dtype=z.dtype))

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * xp.astype(y > 0, dy.dtype)


@dataclass(frozen=True)
class LeakyReLU(Rectifier):
    """g(z) = z for z > 0, else slope z.  (Maas, Hannun and Ng 2013.)"""

    name: ClassVar[str] = "leaky_relu"

    slope: float = 0.01

    def __post_init__(self) -> None:
        assign(self, slope=one_number("LeakyReLU: slope", self.slope))

    def value(self, xp: Namespace, z: Array) -> Array:
        return xp.where(z > 0, z, self.slope * z)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return xp.where(z > 0, dy, self.slope * dy)


@dataclass(frozen=True)
class ELU(Rectifier):
    """g(z) = z for z > 0, else alpha (e^z - 1); there g' = g + alpha (Clevert and others 2016)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        assign(self, alpha=one_number("ELU: alpha", self.alpha))

    def value(self, xp: Namespace, z: Array) -> Array:
        below = xp.minimum(z, xp.zeros((), dtype=z.dtype))  # e^z of a large z would overflow
        return xp.where(z > 0, z, self.alpha * xp.expm1(below))

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return xp.where(z > 0, dy, dy * (y + self.alpha))


class Softplus(Rectifier):
    """g(z) = log(1 + e^z), as max(z, 0) + log(1 + e^-|z|); g' = sigmoid(z)."""

    def value(self, xp: Namespace, z: Array) -> Array:
        size = xp.abs(z)
        return (z + size) / 2 + xp.log1p(xp.exp(-size))

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * Sigmoid().value(xp, z)


class SiLU(Rectifier):
    """g(z) = z s with s = sigmoid(z); g' = s (1 + z (1 - s)).  (Elfwing and others 2018.)"""

    def value(self, xp: Namespace, z: Array) -> Array:
        return z * Sigmoid().value(xp, z)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        s = Sigmoid().value(xp, z)
        return dy * s * (1 + z * (1 - s))


class GELU(Rectifier):
    """g(z) = z P(z), P the normal distribution function; g' = P(z) + z P'(z).

    (Hendrycks and Gimpel 2016.)
    """

    def value(self, xp: Namespace, z: Array) -> Array:
        return z * normal.cdf(xp, z)

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        return dy * (normal.cdf(xp, z) + z * normal.pdf(xp, z))


class GELUTanh(Rectifier):
    """g(z) = z (1 + tanh u) / 2 with u = sqrt(2/pi) (z + 0.044715 z^3), close to `GELU`.

    g' = (1 + tanh u) / 2 + z (1 - tanh^2 u) u' / 2.
    """

    name: ClassVar[str] = "gelu_tanh"
    root: ClassVar[float] = math.sqrt(2 / math.pi)

    def value(self, xp: Namespace, z: Array) -> Array:
        return z * (1 + xp.tanh(self.root * (z + 0.044715 * z * z * z))) / 2

    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array:
        t = xp.tanh(self.root * (z + 0.044715 * z * z * z))
        du = self.root * (1 + 3 * 0.044715 * z * z)
        return dy * (1 + t + z * (1 - t * t) * du) / 2


KINDS: tuple[type[Activation], ...] = (
    Identity, Sigmoid, Tanh, Softmax, ReLU, LeakyReLU, ELU, Softplus, SiLU, GELU, GELUTanh
)  # fmt: skip
ACTIVATIONS = {kind.name: kind for kind in KINDS} | {"linear": Identity}


def get_activation(activation: str | Activation) -> Activation:
    """An activation by its name, or itself."""
    if isinstance(activation, Activation):
        return activation
    return look_up("activation", activation, ACTIVATIONS)()
