"""The losses: each gives its value and its gradient in one call.

`loss(backend, scores, targets)` returns the mean over the samples, () or (K,), on the device, and
its derivative with respect to the scores, shaped like them.  With sample weights w the mean is
sum(w l) / sum(w), so that a weight of 2 equals the sample given twice.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from mlpkit.activations import Sigmoid
from mlpkit.backends import Array, Backend
from mlpkit.backends.base import DType
from mlpkit.backends.names import look_up
from mlpkit.settings import PerMember, number


@dataclass(frozen=True)
class Loss:
    """A loss: a frozen dataclass of its settings."""

    name: ClassVar[str]
    on_scores: ClassVar[bool] = False  # whether it wants scores that have passed no activation

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {}

    def __call__(
        self, backend: Backend, scores: Array, targets: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """loss () or (K,), and dscores (..., N, C).

        Parameters
        ----------
        scores : (N, C) or (K, N, C)
        targets : like the scores, or (N, C) for all members alike; without C where it is 1; of the
            host or of the device
        weights : (N,) or (K, N), of the host or of the device; None for all alike
        """
        xp = backend.xp
        targets = self.fit_targets(backend, targets, scores.shape, scores.dtype)
        losses, dscores = self.each(xp, scores, targets)
        if weights is None:
            return xp.mean(losses, axis=-1), dscores / scores.shape[-2]
        weights = fit_weights(backend, weights, scores)
        share = weights / xp.sum(weights, axis=-1, keepdims=True)
        return xp.sum(losses * share, axis=-1), dscores * xp.expand_dims(share, axis=-1)

    def each(self, xp: Any, scores: Array, targets: Array) -> tuple[Array, Array]:
        """The loss of each sample (..., N), and its derivative (..., N, C)."""
        raise NotImplementedError

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


class MeanSquaredError(Loss):
    """mean over samples and outputs of (s - t)^2."""

    name: ClassVar[str] = "mean_squared_error"

    def each(self, xp: Any, scores: Array, targets: Array) -> tuple[Array, Array]:
        error = scores - targets
        return xp.mean(error * error, axis=-1), error * (2 / scores.shape[-1])


class HalfSquaredError(Loss):
    """1/2 the sum over outputs of (s - t)^2, mean over the samples: 1/(2n) sum of squares."""

    name: ClassVar[str] = "half_squared_error"

    def each(self, xp: Any, scores: Array, targets: Array) -> tuple[Array, Array]:
        error = scores - targets
        return xp.sum(error * error, axis=-1) / 2, error


class BinaryCrossEntropy(Loss):
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(s), mean over samples and outputs.

    Written as max(s, 0) - s t + log(1 + e^-|s|), which overflows nowhere; the derivative is p - t.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    on_scores: ClassVar[bool] = True

    def each(self, xp: Any, scores: Array, targets: Array) -> tuple[Array, Array]:
        size = xp.abs(scores)
        losses = (scores + size) / 2 - scores * targets + xp.log1p(xp.exp(-size))
        p = Sigmoid().value(xp, scores)
        return xp.mean(losses, axis=-1), (p - targets) / scores.shape[-1]

    def check_values(self, xp: Any, targets: Array, n_out: int) -> None:
        super().check_values(xp, targets, n_out)
        low, high = float(xp.min(targets)), float(xp.max(targets))
        if low < 0 or high > 1:
            raise ValueError(f"{self.name}: targets lie in [{low:g}, {high:g}], expected [0, 1]")


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-sum_c q_c log softmax(s)_c, mean over the samples; see `Backend.softmax_cross_entropy`.

    Targets are integer labels in [0, C), (N,) or (K, N), or distributions (N, C) or (K, N, C).

    Parameters
    ----------
    label_smoothing : e in [0, 1), or one per member; the targets become (1 - e) q + e/C
    class_weights : (C,), not negative.  With integer labels the mean divides by the sum of the
        labels' weights, as in torch.nn.functional.cross_entropy.
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    on_scores: ClassVar[bool] = True

    label_smoothing: PerMember = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        smoothing = number("label_smoothing", self.label_smoothing, below=1.0)
        object.__setattr__(self, "label_smoothing", smoothing)
        if self.class_weights is not None:
            weights = number("class_weights", self.class_weights)
            if not isinstance(weights, tuple):
                raise TypeError(f"class_weights are a list, one per class, got {weights}")
            object.__setattr__(self, "class_weights", weights)

    def hyper(self) -> dict[str, PerMember]:
        return {"label_smoothing": self.label_smoothing}

    def __call__(
        self, backend: Backend, scores: Array, targets: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        dtype, classes = scores.dtype, scores.shape[-1]
        smoothing = class_weights = None
        if self.label_smoothing != 0:
            smoothing = backend.constant(self.label_smoothing, dtype, ndim=3)
        if self.class_weights is not None:
            if len(self.class_weights) != classes:
                raise ValueError(f"got {len(self.class_weights)} class_weights, {classes} classes")
            class_weights = backend.constant(self.class_weights, dtype, ndim=1)
        return backend.softmax_cross_entropy(
            scores,
            self.fit_targets(backend, targets, scores.shape, dtype),
            smoothing,
            class_weights,
            None if weights is None else fit_weights(backend, weights, scores),
        )

    def fit_targets(
        self, backend: Backend, targets: Any, shape: tuple[int, ...], dtype: DType
    ) -> Array:
        xp, targets = backend.xp, backend.asarray(targets)
        labels = not xp.isdtype(targets.dtype, "real floating")
        given, wanted = tuple(targets.shape), tuple(shape)
        if given not in ((wanted[:-1], wanted[-2:-1]) if labels else (wanted, wanted[-2:])):
            raise ValueError(
                f"{self.name}: targets of dtype {targets.dtype} have shape {given}, expected "
                f"integer labels {wanted[:-1]} or distributions {wanted}"
            )
        return xp.astype(targets, xp.int64 if labels else dtype, copy=False)

    def check_values(self, xp: Any, targets: Array, n_out: int) -> None:
        super().check_values(xp, targets, n_out)
        if xp.isdtype(targets.dtype, "integral"):
            low, high = int(xp.min(targets)), int(xp.max(targets))
            if low < 0 or high >= n_out:
                raise ValueError(
                    f"labels lie in [{low}, {high}], but {n_out} outputs take labels "
                    f"in [0, {n_out - 1}]"
                )
        elif bool(xp.any(targets < 0)) or bool(xp.any(xp.abs(xp.sum(targets, axis=-1) - 1) > 1e-3)):
            raise ValueError(f"{self.name}: target distributions must be >= 0 and sum to 1")


def fit_weights(backend: Backend, weights: Any, scores: Array) -> Array:
    """Sample weights on the device, (N,) or (K, N) for scores (..., N, C)."""
    weights = backend.asarray(weights, scores.dtype)
    given, wanted = tuple(weights.shape), tuple(scores.shape)[:-1]
    if given not in (wanted, wanted[-1:]):
        raise ValueError(f"sample weights have shape {given}, expected {wanted}")
    return weights


LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError, HalfSquaredError)
}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by its name, or itself."""
    if isinstance(loss, Loss):
        return loss
    return look_up("loss", loss, LOSSES)()
