"""What a loss is: it gives its value and its gradient in one call."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from mlpkit.backends import Array, Backend
from mlpkit.backends.base import DType
from mlpkit.settings import PerMember


@dataclass(frozen=True)
class Loss:
    """A loss: a frozen dataclass of its settings.

    It is called by its `name`, by default that of its class with underscores.
    """

    name: ClassVar[str] = "loss"
    on_scores: ClassVar[bool] = False  # whether it wants scores that have passed no activation

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {}

    def __call__(
        self, backend: Backend, scores: Array, targets: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """The mean over the samples () or (K,), and its derivative dscores (..., N, C).

        With sample weights w the mean is sum(w l) / sum(w), so that a weight of 2 equals the sample
        given twice; it is 0 where all weights are.

        Parameters
        ----------
        scores : (N, C) or (K, N, C)
        targets : like the scores, or (N, C) for all members alike; without C where it is 1; of the
            host or of the device
        weights : (N,) or (K, N), of the host or of the device; None for all alike
        """
        xp = backend.xp
        targets = self.fit_targets(backend, targets, scores.shape, scores.dtype)
        losses, dscores = self.each(backend, scores, targets)
        if weights is None:
            return xp.mean(losses, axis=-1), dscores / scores.shape[-2]
        weights = fit_weights(backend, weights, scores.shape, scores.dtype)
        total = xp.sum(weights, axis=-1, keepdims=True)
        share = weights / xp.where(total > 0, total, xp.ones_like(total))
        return xp.sum(losses * share, axis=-1), dscores * xp.expand_dims(share, axis=-1)

    def mass(self, backend: Backend, targets: Array, weights: Array | None) -> Array | int:
        """What the samples count in the mean: their number, or the sum of their weights, (K,).

        The targets and the weights are as `fit_targets` and `fit_weights` leave them.
        """
        if weights is None:
            return int(targets.shape[sample_axis(backend.xp, targets)])
        return backend.xp.sum(weights, axis=-1)

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        """The loss of each sample (..., N), and its derivative (..., N, C)."""
        raise NotImplementedError  # but for a loss that gives its own mean, as SoftmaxCrossEntropy

    def fit_targets(
        self, backend: Backend, targets: Any, shape: tuple[int, ...], dtype: DType
    ) -> Array:
        """The targets on the device, for scores (..., N, C) of the given shape and dtype.

        Class labels come out as int64 (..., N), all else in the scores' dtype as (..., N, C).
        Raises ValueError where they do not fit.
        """
        targets = backend.asarray(targets, dtype)
        given, wanted = tuple(targets.shape), tuple(shape)
        if wanted[-1] == 1 and given in (wanted[:-1], wanted[-2:-1]):
            return backend.xp.expand_dims(targets, axis=-1)
        if given not in (wanted, wanted[-2:]):
            raise ValueError(f"{self.name}: targets have shape {given}, expected {wanted}")
        return targets

    def check_values(self, xp: Any, targets: Array, n_out: int) -> None:
        """Raise ValueError for target values the loss has no meaning for.  Reads the device."""
        if xp.isdtype(targets.dtype, "real floating") and not bool(xp.all(xp.isfinite(targets))):
            raise ValueError("targets hold NaN or infinite values")


def sample_axis(xp: Any, targets: Array) -> int:
    """The axis of the samples in targets that fit: -1 of labels (..., N), -2 of (..., N, C)."""
    return -1 if xp.isdtype(targets.dtype, "integral") else -2


def fit_weights(backend: Backend, weights: Any, shape: tuple[int, ...], dtype: DType) -> Array:
    """Sample weights on the device, (N,) or (K, N), for scores (..., N, C) of the given shape."""
    weights = backend.asarray(weights, dtype)
    given, wanted = tuple(weights.shape), tuple(shape)[:-1]
    if given not in (wanted, wanted[-1:]):
        raise ValueError(f"sample weights have shape {given}, expected {wanted}")
    return weights


def check_weights(xp: Any, weights: Array) -> None:
    """Raise ValueError for weights that are negative or not finite.  Reads the device."""
    if not bool(xp.all(xp.isfinite(weights) & (weights >= 0))):
        raise ValueError("sample weights must be finite and not negative")
