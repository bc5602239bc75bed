"""What a network is judged by, computed on the device: `metric(network, scores, targets)`.

Scores are (N, C) or (K, N, C), and a metric is () or (K,) in float64, or with axes of its own
behind.  Targets are as the loss's `fit_targets` leaves them: class labels (N,) or (K, N), or
numbers like the scores.  Numbers that stand for classes are read thus: with several outputs the
class is that of the largest; with one output, or with `multilabel` for each, over 0.5 is class 1.
"""

import re
from collections.abc import Callable, Iterable

from mlpkit.activations import Identity
from mlpkit.backends import Array
from mlpkit.backends.names import look_up
from mlpkit.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from mlpkit.network import Network
from mlpkit.settings import whole

Metric = Callable[[Network, Array, Array], Array]

CALIBRATION_BINS = 15

# ---- classes -----------------------------------------------------------------------------------
#
# A sample is D decisions: one for each output with `multilabel`, else a single one.


def accuracy(network: Network, scores: Array, targets: Array) -> Array:
    """The share of samples of which every decision is right."""
    xp = network.backend.xp
    right = xp.all(_predicted(network, scores) == _true(network, targets), axis=-1)
    return xp.mean(xp.astype(right, xp.float64), axis=-1)


class top_k:  # noqa: N801  (reads as the metrics beside it)
    """The share of samples whose class is among the k of the highest scores; also "top_5" etc.

    Of equal scores that of the lower class comes first, so that top_1 is the accuracy.  Raises
    ValueError where k exceeds the number of classes, for one output, and with `multilabel`.
    """

    def __init__(self, k: int) -> None:
        self.k = whole("top_k: k", k)
        self.__name__ = f"top_{self.k}"

    def __call__(self, network: Network, scores: Array, targets: Array) -> Array:
        if _is_binary(network) or self.k > network.n_out:
            raise ValueError(
                f"{self.__name__} needs at least {max(self.k, 2)} classes that exclude each other, "
                f"got outputs={network.n_out}, multilabel={network.multilabel}"
            )
        xp, true = network.backend.xp, _true(network, targets)
        classes = xp.arange(network.n_out, dtype=xp.int64)
        elsewhere = xp.zeros_like(scores)
        own = xp.sum(xp.where(classes == true, scores, elsewhere), axis=-1, keepdims=True)
        behind = (scores < own) | ((scores == own) & (classes > true))
        count = xp.sum(xp.astype(behind, xp.int64), axis=-1)
        return xp.mean(xp.astype(count >= network.n_out - self.k, xp.float64), axis=-1)


def confusion_matrix(network: Network, scores: Array, targets: Array) -> Array:
    """How often class i (row) was taken for class j (column), (..., C, C); 2 x 2 for one output.

    Raises ValueError with `multilabel`.

    >>> from mlpkit import MLP, Trainer
    >>> trainer = Trainer(MLP([1, 3]), metrics=["confusion_matrix", "top_2", "f1"])
    >>> len(trainer.evaluate([[0.1], [0.2]], [0, 2])["confusion_matrix"])
    3
    """
    if network.multilabel:
        raise ValueError("a multilabel network has no confusion matrix: its classes can coincide")
    xp = network.backend.xp
    classes = xp.arange(max(network.n_out, 2), dtype=xp.int64)
    true = xp.astype(_true(network, targets) == classes, xp.float64)
    predicted = xp.astype(_predicted(network, scores) == classes, xp.float64)
    return xp.matmul(xp.matrix_transpose(true), predicted)


def precision(network: Network, scores: Array, targets: Array) -> Array:
    """TP / (TP + FP), the mean over the classes; for one output that of class 1.

    0 for a class that is never predicted.  (average="macro" and "binary" of scikit-learn.)
    """
    hits, predicted, _ = _counts(network, scores, targets)
    return _mean_ratio(network, hits, predicted)


def recall(network: Network, scores: Array, targets: Array) -> Array:
    """TP / (TP + FN), averaged like `precision`; 0 for a class that never occurs."""
    hits, _, actual = _counts(network, scores, targets)
    return _mean_ratio(network, hits, actual)


def f1(network: Network, scores: Array, targets: Array) -> Array:
    """2 TP / (2 TP + FP + FN), averaged like `precision`; 0 for a class without any of these."""
    hits, predicted, actual = _counts(network, scores, targets)
    return _mean_ratio(network, 2 * hits, predicted + actual)


def log_loss(network: Network, scores: Array, targets: Array) -> Array:
    """The mean of -log p of the true class, or of -sum_c q_c log p_c for a distribution q.

    With `multilabel` the mean over the outputs too.  Of linear scores it is the cross-entropy loss,
    which overflows nowhere; p of a sigmoid or softmax output is at least the dtype's epsilon.
    """
    xp, binary = network.backend.xp, _is_binary(network)
    if isinstance(network.output, Identity):
        loss = BinaryCrossEntropy() if binary else SoftmaxCrossEntropy()
        return loss(network.backend, xp.astype(scores, xp.float64), targets)[0]
    labels = xp.isdtype(targets.dtype, "integral")
    q = _indicators(network, _true(network, targets)) if labels else targets
    p = xp.astype(network.probabilities(scores), xp.float64)
    least = xp.finfo(scores.dtype).eps
    losses = -q * xp.log(xp.clip(p, least, None))
    if not binary:
        return xp.mean(xp.sum(losses, axis=-1), axis=-1)
    return xp.mean(losses - (1 - q) * xp.log(xp.clip(1 - p, least, None)), axis=(-2, -1))


def calibration_error(network: Network, scores: Array, targets: Array) -> Array:
    """The expected calibration error: sum over bins of |B|/N |accuracy(B) - confidence(B)|.

    A prediction's confidence is the probability of the class that is predicted, and falls into one
    of 15 equal bins over (0, 1].  One output decides between classes of p and 1 - p; with
    `multilabel` each output does, and the mean over the outputs is taken.  (Guo and others 2017.)
    """
    xp = network.backend.xp
    p = xp.astype(network.probabilities(scores), xp.float64)
    binary = _is_binary(network)
    confidence = xp.maximum(p, 1 - p) if binary else xp.max(p, axis=-1, keepdims=True)
    right = _predicted(network, scores) == _true(network, targets)
    gap = xp.astype(right, xp.float64) - confidence  # (..., N, D)
    bins = xp.clip(xp.ceil(confidence * CALIBRATION_BINS), 1, CALIBRATION_BINS)
    errors = [
        xp.abs(xp.mean(gap * xp.astype(bins == number, xp.float64), axis=-2))
        for number in range(1, CALIBRATION_BINS + 1)
    ]
    return xp.mean(sum(errors), axis=-1)


def _is_binary(network: Network) -> bool:
    """Whether each output decides between class 0 and class 1 for itself."""
    return network.multilabel or network.n_out == 1


def _predicted(network: Network, scores: Array) -> Array:
    """Predicted classes, int64 (..., N, D)."""
    classes = network.classes(scores)
    return classes if network.multilabel else network.backend.xp.expand_dims(classes, axis=-1)


def _true(network: Network, targets: Array) -> Array:
    """The classes of the targets, int64 (..., N, D)."""
    xp = network.backend.xp
    labels = xp.isdtype(targets.dtype, "integral")
    if labels and network.multilabel:
        raise ValueError("a multilabel network is judged on 0 or 1 for each output, got labels")
    if labels:
        return xp.expand_dims(targets, axis=-1)
    if _is_binary(network):
        return xp.astype(targets > 0.5, xp.int64)
    return xp.argmax(targets, axis=-1, keepdims=True)


def _indicators(network: Network, decisions: Array) -> Array:
    """1 for each class that was decided on, float64 (..., N, C); with one output for class 1."""
    xp = network.backend.xp
    if not _is_binary(network):
        decisions = decisions == xp.arange(network.n_out, dtype=xp.int64)
    return xp.astype(decisions, xp.float64)


def _counts(network: Network, scores: Array, targets: Array) -> tuple[Array, Array, Array]:
    """How often each class was rightly predicted, predicted, and there: TP, TP + FP, TP + FN."""
    xp = network.backend.xp
    predicted = _indicators(network, _predicted(network, scores))
    true = _indicators(network, _true(network, targets))
    return xp.sum(predicted * true, axis=-2), xp.sum(predicted, axis=-2), xp.sum(true, axis=-2)


def _mean_ratio(network: Network, part: Array, count: Array) -> Array:
    """The mean over the classes of part / count, with 0 / 0 = 0."""
    xp = network.backend.xp
    return xp.mean(part / xp.clip(count, 1, None), axis=-1)


# ---- numbers -----------------------------------------------------------------------------------


def r2(network: Network, scores: Array, targets: Array) -> Array:
    """1 - sum (s - t)^2 / sum (t - mean t)^2, the mean over the outputs.

    An output whose targets are all alike counts 1 where they are met and else 0, as in
    scikit-learn's r2_score; so does a single sample.
    """
    xp, error = network.backend.xp, _error(network, scores, targets)
    # From the first target on, so that the deviations of equal targets are 0 to the last bit.
    targets = xp.astype(targets, xp.float64)
    shifted = targets - targets[..., :1, :]
    deviation = shifted - xp.mean(shifted, axis=-2, keepdims=True)
    residual, total = xp.sum(error * error, axis=-2), xp.sum(deviation * deviation, axis=-2)
    constant = total == 0
    ratio = residual / (total + xp.astype(constant, xp.float64))
    return xp.mean(1 - xp.where(constant, xp.sign(residual), ratio), axis=-1)


def rmse(network: Network, scores: Array, targets: Array) -> Array:
    """The square root of the mean over samples and outputs of (s - t)^2, of mean_squared_error."""
    xp, error = network.backend.xp, _error(network, scores, targets)
    return xp.sqrt(xp.mean(error * error, axis=(-2, -1)))


def mae(network: Network, scores: Array, targets: Array) -> Array:
    """The mean over samples and outputs of |s - t|."""
    xp = network.backend.xp
    return xp.mean(xp.abs(_error(network, scores, targets)), axis=(-2, -1))


def _error(network: Network, scores: Array, targets: Array) -> Array:
    """s - t, float64 (..., N, C)."""
    xp = network.backend.xp
    if xp.isdtype(targets.dtype, "integral"):
        raise ValueError("r2, rmse and mae compare with numbers like the scores, got class labels")
    return xp.astype(scores, xp.float64) - xp.astype(targets, xp.float64)


# ---- by name -----------------------------------------------------------------------------------

OF_CLASSES: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_5": top_k(5),
    "confusion_matrix": confusion_matrix,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}
METRICS: dict[str, Metric] = OF_CLASSES | {"r2": r2, "rmse": rmse, "mae": mae}


def named_metrics(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
    """The metrics by their names; ValueError where two have one name."""
    pairs = list(map(get_metric, metrics))
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two metrics have one name: {twice}")
    return dict(pairs)


def get_metric(metric: str | Metric) -> tuple[str, Metric]:
    """A metric with its name; a function of your own goes by its `__name__`."""
    if not callable(metric):
        ranked = re.fullmatch("top_([1-9][0-9]*)", str(metric))
        return metric, top_k(int(ranked[1])) if ranked else look_up("metric", metric, METRICS)
    name = getattr(metric, "__name__", "<lambda>")
    if name in ("<lambda>", "loss"):
        raise ValueError(f"a metric goes by the name of its function, and {name!r} is none for it")
    return name, metric


def judges_classes(metric: Metric) -> bool:
    """Whether a metric of this module has no meaning for a network without classes."""
    return isinstance(metric, top_k) or metric in OF_CLASSES.values()
