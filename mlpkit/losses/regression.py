"""Losses for numbers: the scores are what is predicted.  e = s - t, over C outputs."""

from dataclasses import dataclass

from mlpkit.backends import Array, Backend
from mlpkit.losses.base import Loss
from mlpkit.settings import PerMember, assign, number


class MeanSquaredError(Loss):
    """mean over samples and outputs of e^2; the derivative is 2 e / C."""

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        error = scores - targets
        return backend.xp.mean(error * error, axis=-1), error * (2 / scores.shape[-1])


class HalfSquaredError(Loss):
    """1/2 the sum over outputs of e^2, mean over the samples: 1/(2n) sum of squares.

    The derivative is e.  On linear outputs, with the scores of another network as targets, this is
    logit regression (Ba and Caruana 2014).

    >>> import numpy as np
    >>> from mlpkit import get_backend
    >>> loss, dscores = HalfSquaredError()(get_backend("numpy"), np.array([[0.191]]), [[1.0]])
    >>> round(float(loss), 7), round(float(dscores[0, 0]), 3)
    (0.3272405, -0.809)
    """

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        error = scores - targets
        return backend.xp.sum(error * error, axis=-1) / 2, error


class MeanAbsoluteError(Loss):
    """mean over samples and outputs of |e|; the derivative is sign(e) / C, and 0 for e = 0."""

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp, error = backend.xp, scores - targets
        return xp.mean(xp.abs(error), axis=-1), xp.sign(error) / scores.shape[-1]


@dataclass(frozen=True)
class Huber(Loss):
    """mean over samples and outputs of e^2 / 2 for |e| <= delta, else delta (|e| - delta / 2).

    The derivative is e, held within [-delta, delta], / C.  (Huber 1964.)

    Parameters
    ----------
    delta : > 0, where the square becomes a line, or one per member
    """

    delta: PerMember = 1.0

    def __post_init__(self) -> None:
        assign(self, delta=number("Huber: delta", self.delta, low=1e-6))

    def hyper(self) -> dict[str, PerMember]:
        return {"delta": self.delta}

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp, error = backend.xp, scores - targets
        delta = backend.constant(self.delta, scores.dtype, ndim=3)
        held = xp.minimum(xp.maximum(error, -delta), delta)  # held (e - held / 2) is both cases
        return xp.mean(held * (error - held / 2), axis=-1), held / scores.shape[-1]
