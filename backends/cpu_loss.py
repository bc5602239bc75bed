"""Softmax cross-entropy of integer labels compiled, loss and gradient in one pass."""

import math
from typing import Any

import numpy as np
from numba import prange

from mlpkit.backends.pieces import of_member
from mlpkit.backends.threads import parallel, serial

ROWS = 128  # of the batch, in a piece


@serial
def _class_weight(class_weights: Any, label: int) -> Any:
    """1 where no weights are given; 0 for a label that is no class."""
    if len(class_weights) == 0:
        return 1.0
    return class_weights[label] if 0 <= label < len(class_weights) else 0.0


@serial
def _total_weight(labels: Any, class_weights: Any, sample_weights: Any) -> float:
    """What the samples of one member count together; 1 where they count nothing."""
    weighted, total = len(sample_weights) > 1, 0.0
    for n in range(len(labels)):
        of_sample = sample_weights[n if weighted else 0]
        total += of_sample * _class_weight(class_weights, labels[n])
    return total if total > 0 else 1.0


@serial
def _label_losses(
    scores: Any, labels: Any, smoothing: float, class_weights: Any, sample_weights: Any,
    total: float, dscores: Any,
) -> Any:  # fmt: skip
    """The part of the loss that comes from scores (n, C) with labels (n,).

    A target is w_c (spread + peak [c = label]) for the weight w_c of its class.
    """
    rows, classes = scores.shape
    real, weighted, loss, of_all = scores.dtype.type, len(sample_weights) > 1, 0.0, 0.0
    for c in range(classes):
        of_all += _class_weight(class_weights, c)
    spread, peak = smoothing / classes, 1 - smoothing
    for n in range(rows):
        s, d, label = scores[n], dscores[n], labels[n]
        top, exps = s[0], real(0)
        for c in range(1, classes):
            if not s[c] <= top:  # NaN, too
                top = s[c]
        for c in range(classes):
            d[c] = math.exp(s[c] - top)
            exps += d[c]
        log_exps, known = math.log(exps), 0 <= label < classes
        of_label = peak * _class_weight(class_weights, label) if known else 0.0
        share = sample_weights[n if weighted else 0] / total
        of_p, sum_of_logs = share * (spread * of_all + of_label) / exps, 0.0
        for c in range(classes):
            of_class = _class_weight(class_weights, c)
            sum_of_logs += of_class * (s[c] - top - log_exps)
            d[c] = real(d[c] * of_p - share * spread * of_class)
        loss -= share * spread * sum_of_logs
        if known:
            loss -= share * of_label * (s[label] - top - log_exps)
            d[label] -= real(share * of_label)
    return loss


@serial
def _label_piece(
    i: int, parts: int, scores: Any, labels: Any, smoothing: Any, class_weights: Any,
    sample_weights: Any, totals: Any, dscores: Any,
) -> Any:  # fmt: skip
    k, part, rows = i // parts, i % parts, scores.shape[-2]
    first, last = rows * part // parts, rows * (part + 1) // parts
    weights = sample_weights[k % len(sample_weights)]
    return _label_losses(
        scores[k, first:last], labels[k % len(labels), first:last],
        of_member(smoothing, k), class_weights,
        weights[first:last] if len(weights) > 1 else weights,
        totals[k], dscores[k, first:last],
    )  # fmt: skip


@serial
def _total_weights(members: int, labels: Any, class_weights: Any, sample_weights: Any) -> Any:
    totals = np.empty(members)
    for k in range(members):
        weights = sample_weights[k % len(sample_weights)]
        totals[k] = _total_weight(labels[k % len(labels)], class_weights, weights)
    return totals


@serial
def _sum_of_each(losses: Any, loss: Any) -> None:
    parts = len(losses) // len(loss)
    for k in range(len(loss)):
        loss[k] = np.sum(losses[k * parts : (k + 1) * parts])


@parallel
def label_cross_entropy(
    scores: Any, labels: Any, smoothing: Any, class_weights: Any, sample_weights: Any,
    loss: Any, dscores: Any,
) -> None:  # fmt: skip
    """`Backend.softmax_cross_entropy` for integer labels, into loss (K,) and dscores.

    scores and dscores (K, N, C); labels (1, N) or (K, N); smoothing (1,) or (K,); class_weights
    (C,), or (0,) where all are alike; sample_weights (1, N) or (K, N), or (1, 1) where all are.
    """
    members, parts = len(loss), -(-scores.shape[-2] // ROWS)
    totals = _total_weights(members, labels, class_weights, sample_weights)
    pieces = members * parts
    losses = np.empty(pieces)
    if pieces == 1:
        losses[0] = _label_piece(
            0, parts, scores, labels, smoothing, class_weights, sample_weights, totals, dscores
        )
    else:
        for i in prange(pieces):
            losses[i] = _label_piece(
                i, parts, scores, labels, smoothing, class_weights, sample_weights, totals, dscores
            )
    _sum_of_each(losses, loss)
