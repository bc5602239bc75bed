"""Distillation: a network learns from the scores of another."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mlpkit.activations import log_softmax
from mlpkit.backends import Array, Backend
from mlpkit.losses.base import Loss
from mlpkit.settings import PerMember, assign, number


@dataclass(frozen=True)
class SoftTargets(Loss):
    """T^2 sum_c q_c log(q_c / p_c), mean over the samples; p = softmax(s/T), q = softmax(t/T).

    The targets t are the scores of the network to mimic.  The derivative is T (p - q): the factor
    T^2 keeps it of one size for all temperatures.  (Hinton, Vinyals and Dean 2015.)

    Parameters
    ----------
    temperature : T > 0, or one per member; the higher, the more the unlikely classes count
    """

    on_scores: ClassVar[bool] = True

    temperature: PerMember = 2.0

    def __post_init__(self) -> None:
        temperature = number("temperature", self.temperature, low=1e-6)
        assign(self, temperature=temperature)

    def hyper(self) -> dict[str, PerMember]:
        return {"temperature": self.temperature}

    def check_values(self, xp: Any, targets: Array, n_out: int) -> None:
        super().check_values(xp, targets, n_out)
        sums = xp.sum(targets, axis=-1)
        if n_out > 1 and bool(xp.all(targets >= 0)) and bool(xp.all(xp.abs(sums - 1) < 1e-3)):
            raise ValueError("soft_targets: the targets are probabilities, expected the scores")

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp = backend.xp
        T = backend.constant(self.temperature, scores.dtype, ndim=3)
        log_p, log_q = log_softmax(xp, scores / T), log_softmax(xp, targets / T)
        p, q, d = xp.exp(log_p), xp.exp(log_q), log_q - log_p
        # p - q, to all its digits where the two are close, as at a high temperature.
        gap = xp.where(d > -1, q * xp.expm1(-xp.maximum(d, -xp.ones_like(d))), p - q)
        return xp.sum(T * T * (q * d + gap), axis=-1), T * gap
