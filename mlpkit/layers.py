"""The layers: each forward with its backward as the closure beneath."""

from dataclasses import dataclass

from mlpkit.activations import Activation, get_activation
from mlpkit.backends.base import Array
from mlpkit.base import Backward, Context, Layer
from mlpkit.initializers import Initializer, check_initializer
from mlpkit.settings import PerMember, assign, number, per_member, whole


@dataclass(frozen=True)
class Dense(Layer):
    """y = g(x W + b), with W (D, H) and b (H,).

    Parameters
    ----------
    n_in, n_out : D and H
    activation : g, by name or as an `Activation`
    bias : whether there is a b
    init : initializer of W, see `mlpkit.initializers`: a name, a number for a constant, or "auto",
        what suits the activation.  b starts at zero.
    """

    n_in: int
    n_out: int
    activation: str | Activation = "identity"
    bias: bool = True
    init: Initializer = "auto"

    def __post_init__(self) -> None:
        assign(self, n_in=whole("Dense: n_in", self.n_in))
        assign(self, n_out=whole("Dense: n_out", self.n_out))
        assign(self, activation=get_activation(self.activation))
        if not isinstance(self.init, str):
            check_initializer(self.init)
            assign(self, init=float(self.init))
        elif self.init != "auto":
            check_initializer(self.init)

    @property
    def g(self) -> Activation:
        """The activation."""
        return get_activation(self.activation)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        weight: dict[str, tuple[int, ...]] = {"weight": (self.n_in, self.n_out)}
        return weight | {"bias": (self.n_out,)} if self.bias else weight

    def initial(self, name: str) -> Initializer:
        if name == "bias":
            return "zeros"
        return self.g.init if self.init == "auto" else self.init

    def width(self, n_in: int | None) -> int:
        if n_in not in (None, self.n_in):
            raise ValueError(f"{self} expects {self.n_in} inputs, the layer before it gives {n_in}")
        return self.n_out

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, H) for x (..., N, D)."""
        backend, grads, g = context.backend, context.grads, self.g
        W, b = context.params["weight"], context.params.get("bias")
        z, y = backend.bias_activation(backend.matmul(x, W), b, g)

        def backward(dy: Array, need_dx: bool) -> Array | None:
            dz = backend.bias_activation_gradient(dy, z, y, g, grads.get("bias"))
            backend.matmul(x, dz, transpose_a=True, out=grads["weight"])  # dW = x^T dz
            return backend.matmul(dz, W, transpose_b=True) if need_dx else None  # dx = dz W^T

        return y, backward


@dataclass(frozen=True)
class Dropout(Layer):
    """y = m x / (1 - rate), with m 0 for a random share `rate` of the elements, else 1.

    Only in training; otherwise y = x.  The mask is a function of the seed, the layer's place in
    the network and the number of training passes, so every backend drops the same elements.
    (Srivastava and others 2014.)

    Parameters
    ----------
    rate : in [0, 1), or one per member
    """

    rate: PerMember

    def __post_init__(self) -> None:
        assign(self, rate=number("Dropout: rate", self.rate, below=1.0))

    def hyper(self) -> dict[str, PerMember]:
        return {"rate": self.rate}

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, D) for x (..., N, D)."""
        if not train:
            return x, lambda dy, need_dx: dy if need_dx else None
        backend, xp = context.backend, context.backend.xp
        thresholds = per_member(lambda rate: int(rate * 2**32), self.rate)
        scales = per_member(lambda rate: 1 / (1 - rate), self.rate)
        y, mask = backend.dropout(
            x,
            context.key,
            context.passes,
            backend.constant(thresholds, xp.int64, ndim=3),
            backend.constant(scales, x.dtype, ndim=3),
        )

        def backward(dy: Array, need_dx: bool) -> Array | None:
            return dy * mask if need_dx else None

        return y, backward
