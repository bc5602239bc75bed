"""Losses for classes, computed from linear scores: softmax over C classes, or a sigmoid each."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mlpkit.activations import Sigmoid, Softplus, log_softmax
from mlpkit.backends import Array, Backend
from mlpkit.backends.base import DType
from mlpkit.losses.base import Loss, fit_weights
from mlpkit.settings import PerMember, assign, number

# ---- one class a sample: p = softmax(s) ----------------------------------------------------------


class OneClass(Loss):
    """A loss whose targets q are integer labels (N,) or (K, N), or distributions (..., N, C)."""

    on_scores: ClassVar[bool] = True

    def fit_targets(
        self, backend: Backend, targets: Any, shape: tuple[int, ...], dtype: DType
    ) -> Array:
        xp, targets = backend.xp, backend.asarray(targets)
        labels = targets.dtype == xp.int64 or not xp.isdtype(targets.dtype, "real floating")
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


@dataclass(frozen=True)
class SoftmaxCrossEntropy(OneClass):
    """-sum_c q_c log p_c, mean over the samples; see `Backend.softmax_cross_entropy`.

    Parameters
    ----------
    label_smoothing : e in [0, 1), or one per member; the targets become (1 - e) q + e/C
    class_weights : (C,), not negative.  With integer labels the mean divides by the sum of the
        labels' weights, as in torch.nn.functional.cross_entropy.

    >>> import numpy as np
    >>> from mlpkit import get_backend
    >>> loss, dscores = SoftmaxCrossEntropy()(get_backend("numpy"), np.zeros((1, 4)), [2])
    >>> float(loss)  # log 4
    1.3862943611198906
    >>> dscores.tolist()
    [[0.25, 0.25, -0.75, 0.25]]
    """

    label_smoothing: PerMember = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        smoothing = number("label_smoothing", self.label_smoothing, below=1.0)
        assign(self, label_smoothing=smoothing)
        assign(self, class_weights=_by_class("class_weights", self.class_weights))

    def hyper(self) -> dict[str, PerMember]:
        return {"label_smoothing": self.label_smoothing}

    def __call__(
        self, backend: Backend, scores: Array, targets: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        shape, dtype = scores.shape, scores.dtype
        smoothing = None
        if self.label_smoothing != 0:
            smoothing = backend.constant(self.label_smoothing, dtype, ndim=3)
        return backend.softmax_cross_entropy(
            scores,
            self.fit_targets(backend, targets, shape, dtype),
            smoothing,
            _on_device(backend, "class_weights", self.class_weights, scores),
            None if weights is None else fit_weights(backend, weights, shape, dtype),
        )

    def mass(self, backend: Backend, targets: Array, weights: Array | None) -> Array | int:
        """With class weights and integer labels, times the weight of the label."""
        xp = backend.xp
        if self.class_weights is None or not xp.isdtype(targets.dtype, "integral"):
            return super().mass(backend, targets, weights)
        dtype = xp.float64 if weights is None else weights.dtype
        by_class = backend.constant(self.class_weights, dtype, ndim=1)
        flat = xp.take(by_class, xp.reshape(targets, (-1,)), axis=0)
        counts = xp.reshape(flat, targets.shape)
        return xp.sum(counts if weights is None else counts * weights, axis=-1)


@dataclass(frozen=True)
class Focal(OneClass):
    """-sum_c a_c q_c (1 - p_c)^gamma log p_c, mean over the samples.  (Lin and others 2017.)

    With u_c = a_c q_c (1 - p_c)^gamma (gamma p_c log p_c / (1 - p_c) - 1) the derivative with
    respect to s_c is u_c - p_c sum_k u_k.

    Parameters
    ----------
    gamma : how much less a sample counts the better it is known, or one per member
    alpha : a (C,), by default all 1; unlike class weights, they do not divide the mean
    """

    gamma: PerMember = 2.0
    alpha: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        assign(self, gamma=number("Focal: gamma", self.gamma))
        assign(self, alpha=_by_class("alpha", self.alpha))

    def hyper(self) -> dict[str, PerMember]:
        return {"gamma": self.gamma}

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp, dtype = backend.xp, scores.dtype
        if xp.isdtype(targets.dtype, "integral"):
            hot = xp.expand_dims(targets, axis=-1) == xp.arange(scores.shape[-1], dtype=xp.int64)
            targets = xp.astype(hot, dtype)
        weights = _on_device(backend, "alpha", self.alpha, scores)
        q = targets if weights is None else targets * weights
        gamma = backend.constant(self.gamma, dtype, ndim=3)

        log_p = log_softmax(xp, scores)
        p, rest = xp.exp(log_p), -xp.expm1(log_p)  # 1 - p
        ratio = log_p / xp.where(rest > 0, rest, xp.ones_like(rest))
        ratio = xp.where(rest > 0, ratio, -xp.ones_like(rest))  # its limit for p = 1
        u = q * rest**gamma * (gamma * p * ratio - 1)
        return -xp.sum(q * rest**gamma * log_p, axis=-1), u - p * xp.sum(u, axis=-1, keepdims=True)


# ---- each output a class of its own: p = sigmoid(s) ----------------------------------------------


class ManyClasses(Loss):
    """A loss whose targets t are in [0, 1], one for each output."""

    on_scores: ClassVar[bool] = True

    def check_values(self, xp: Any, targets: Array, n_out: int) -> None:
        super().check_values(xp, targets, n_out)
        low, high = float(xp.min(targets)), float(xp.max(targets))
        if low < 0 or high > 1:
            raise ValueError(f"{self.name}: targets lie in [{low:g}, {high:g}], expected [0, 1]")


@dataclass(frozen=True)
class BinaryCrossEntropy(ManyClasses):
    """-(w t log p + (1 - t) log(1 - p)), mean over samples and outputs.

    Computed with -log p = softplus(-s) and -log(1 - p) = softplus(s), which overflow nowhere.  The
    derivative is (1 - t) p - w t (1 - p), for w = 1 it is p - t.

    Parameters
    ----------
    positive_weights : w (C,), what a target of 1 counts more than one of 0; by default all 1
    """

    positive_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        weights = _by_class("positive_weights", self.positive_weights)
        assign(self, positive_weights=weights)

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp, softplus = backend.xp, Softplus().value
        w = _on_device(backend, "positive_weights", self.positive_weights, scores)
        p, on, off = Sigmoid().value(xp, scores), targets, 1 - targets
        if w is not None:
            on = w * targets
        losses = on * softplus(xp, -scores) + off * softplus(xp, scores)
        return xp.mean(losses, axis=-1), (off * p - on * (1 - p)) / scores.shape[-1]


@dataclass(frozen=True)
class BinaryFocal(ManyClasses):
    """-(a t (1 - p)^gamma log p + (1 - a) (1 - t) p^gamma log(1 - p)), mean over all.

    One term is l(u) = r^gamma softplus(-u) with r = sigmoid(-u), u = s or -s; its derivative is
    -r^gamma (gamma (1 - r) softplus(-u) + r).  (Lin and others 2017.)

    Parameters
    ----------
    gamma : how much less a sample counts the better it is known, or one per member
    alpha : a in [0, 1): what a target of 1 counts, against 1 - a of one of 0; or one per member
    """

    gamma: PerMember = 2.0
    alpha: PerMember = 0.25

    def __post_init__(self) -> None:
        assign(self, gamma=number("BinaryFocal: gamma", self.gamma))
        assign(self, alpha=number("BinaryFocal: alpha", self.alpha, below=1.0))

    def hyper(self) -> dict[str, PerMember]:
        return {"gamma": self.gamma, "alpha": self.alpha}

    def each(self, backend: Backend, scores: Array, targets: Array) -> tuple[Array, Array]:
        xp, dtype = backend.xp, scores.dtype
        gamma = backend.constant(self.gamma, dtype, ndim=3)
        alpha = backend.constant(self.alpha, dtype, ndim=3)

        def term(u: Array) -> tuple[Array, Array]:
            r, minus_log = Sigmoid().value(xp, -u), Softplus().value(xp, -u)
            return r**gamma * minus_log, -(r**gamma) * (gamma * (1 - r) * minus_log + r)

        (on, d_on), (off, d_off) = term(scores), term(-scores)
        a, b = alpha * targets, (1 - alpha) * (1 - targets)
        return xp.mean(a * on + b * off, axis=-1), (a * d_on - b * d_off) / scores.shape[-1]


def _by_class(name: str, weights: Any) -> tuple[float, ...] | None:
    """One weight per class, checked."""
    checked = None if weights is None else number(name, weights)
    if isinstance(checked, float):
        raise TypeError(f"{name} are a list, one per class, got {checked}")
    return None if checked is None else tuple(checked)


def _on_device(
    backend: Backend, name: str, weights: tuple[float, ...] | None, scores: Array
) -> Array | None:
    """The weights (C,) for scores (..., N, C)."""
    if weights is None:
        return None
    if len(weights) != scores.shape[-1]:
        raise ValueError(f"got {len(weights)} {name}, {scores.shape[-1]} classes")
    return backend.constant(weights, scores.dtype, ndim=1)
