"""Layers that give their inputs mean 0 and variance 1, then a scale w and a shift b per feature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mlpkit.backends.base import Array, Namespace
from mlpkit.base import Backward, Context, Layer
from mlpkit.settings import assign, one_number, whole


def standardize(
    xp: Namespace, x: Array, axis: int, eps: float
) -> tuple[Array, Array, Array, Callable[[Array], Array]]:
    """u = (x - m) s with s = 1 / sqrt(v + eps), m and v the mean and the variance along `axis`.

    Returns u, m, v, and the function du -> dx = s (du - mean(du) - u mean(du u)).
    """
    m = xp.mean(x, axis=axis, keepdims=True)
    v = xp.mean((x - m) ** 2, axis=axis, keepdims=True)
    s = 1 / xp.sqrt(v + eps)
    u = (x - m) * s

    def backward(du: Array) -> Array:
        along = xp.mean(du * u, axis=axis, keepdims=True)
        return s * (du - xp.mean(du, axis=axis, keepdims=True) - u * along)

    return u, m, v, backward


@dataclass(frozen=True)
class Normalization(Layer):
    """y = w u + b, with u the standardized inputs, and w and b (D,), at first 1 and 0.

    Parameters
    ----------
    n_in : D
    eps : added to the variance
    """

    n_in: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        assign(self, n_in=whole(f"{type(self).__name__}: n_in", self.n_in))
        assign(self, eps=one_number("eps", self.eps))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.n_in,), "bias": (self.n_in,)}

    def initial(self, name: str) -> str:
        return "ones" if name == "weight" else "zeros"

    def width(self, n_in: int | None) -> int:
        if n_in not in (None, self.n_in):
            raise ValueError(f"{self} expects {self.n_in} inputs, the layer before it gives {n_in}")
        return self.n_in

    def scaled(
        self, context: Context, u: Array, to_dx: Callable[[Array], Array]
    ) -> tuple[Array, Backward]:
        """y, and its backward, where `to_dx` takes du back to dx."""
        xp, params, grads = context.backend.xp, context.params, context.grads

        def backward(dy: Array, need_dx: bool) -> Array | None:
            for name, gradient in (("weight", dy * u), ("bias", dy)):
                summed = xp.sum(gradient, axis=-2)
                grads[name][...] = xp.reshape(summed, grads[name].shape)
            return to_dx(dy * params["weight"]) if need_dx else None

        return u * params["weight"] + params["bias"], backward


class LayerNorm(Normalization):
    """Standardizes each sample over its features.  (Ba, Kiros and Hinton 2016.)"""

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, D) for x (..., N, D)."""
        u, _, _, to_dx = standardize(context.backend.xp, x, -1, self.eps)
        return self.scaled(context, u, to_dx)


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """Standardizes each feature over the batch.  (Ioffe and Szegedy 2015.)

    Out of training it takes the running mean and variance of the batches seen in training, which
    are buffers, r <- (1 - momentum) r + momentum (that of the batch), the variance with N - 1.  A
    sample's weight in the loss has no part in them.

    Parameters
    ----------
    n_in : D
    eps : added to the variance
    momentum : in [0, 1)

    >>> from mlpkit import Dense, Network
    >>> net = Network([Dense(3, 4, bias=False), BatchNorm(4), Dense(4, 2)])
    >>> list(net.named_buffers())
    ['1.running_mean', '1.running_var']
    """

    min_rows: ClassVar[int] = 2

    momentum: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        momentum = one_number("BatchNorm: momentum", self.momentum, below=1.0)
        assign(self, momentum=momentum)

    def buffers(self) -> dict[str, tuple[int, ...]]:
        return {"running_mean": (self.n_in,), "running_var": (self.n_in,)}

    def initial(self, name: str) -> str:
        return "ones" if name == "running_var" else super().initial(name)

    def forward(self, context: Context, x: Array, train: bool) -> tuple[Array, Backward]:
        """y (..., N, D) for x (..., N, D), N at least 2 in training."""
        xp = context.backend.xp
        mean, var = context.buffers["running_mean"], context.buffers["running_var"]
        if not train:
            s = 1 / xp.sqrt(var + self.eps)
            return self.scaled(context, (x - mean) * s, lambda du: du * s)
        n = x.shape[-2]
        if n < self.min_rows:
            raise ValueError(f"{self} needs at least 2 samples a batch in training, got {n}")
        u, m, v, to_dx = standardize(xp, x, -2, self.eps)
        for running, batch in ((mean, m), (var, v * n / (n - 1))):
            mixed = (1 - self.momentum) * running + self.momentum * batch
            running[...] = xp.reshape(mixed, running.shape)
        return self.scaled(context, u, to_dx)
