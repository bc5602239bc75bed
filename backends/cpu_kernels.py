"""The kernels of layers, losses, data and random numbers compiled; the formulas are in `base.py`.

Shapes are those of `Backend`.  Each kernel is cut into pieces that run side by side, on as many
threads as are given, and a single piece on the caller's, for to begin on the pool takes longer than
a small kernel.  A sum over the batch is taken in the same order by one piece or by many, so
that the number of threads changes no digit.
"""

import math
from typing import Any

import numpy as np
from numba import prange

from mlpkit.backends.threads import parallel, serial
from mlpkit.backends.threefry import PARITY, ROTATIONS

GRAIN = 65_536  # elements that are worth a thread of their own
WORDS = 8_192  # pairs of random words that are
COLUMNS = 64  # of a piece of a sum over the batch, at least
ROWS = 128  # of the batch, in a piece of a loss


# ---- shapes and pieces ---------------------------------------------------------------------------


@serial
def stacked(a: Any) -> Any:
    """(K, N, H) of (..., N, H), (1, 1, H) of (H,).

    The compiler has to see that the elements of a row are neighbours, so that it uses vectors: they
    are in a[k] and in a[k][n][first:last], not in a[:, first:last] or after `expand_dims`.
    """
    if a.ndim == 1:
        return a[np.newaxis, np.newaxis]
    if a.ndim == 2:
        return a[np.newaxis]
    return a


@serial
def flat(a: Any) -> Any:
    """(K, S) of (K, S) or (S,)."""
    if a.ndim == 1:
        return a[np.newaxis]
    return a


@serial
def of_member(setting: Any, k: int) -> Any:
    """A setting (1,) for all members or (K,), of one of them."""
    return setting[k % len(setting)]


@serial
def count_parts(threads: int, members: int, size: int, grain: int) -> int:
    """Parts of one member's share, of `size`, so that all threads have work that is worth it."""
    return max(1, -(-min(threads, members * size // grain) // members))


@serial
def _in_rows(a: Any, threads: int) -> tuple[int, int]:
    """How many pieces (..., N, H) is cut into, and how many of them one member, by its rows."""
    members, rows, width = stacked(a).shape
    parts = count_parts(threads, members, rows * width, GRAIN)
    return members * parts, parts


@serial
def _in_columns(a: Any, threads: int) -> tuple[int, int]:
    """How many pieces (..., N, H) is cut into, and how many of them one member, by its columns."""
    members, rows, width = stacked(a).shape
    parts = count_parts(threads, members, rows * width, GRAIN)
    parts = min(parts, max(1, width // COLUMNS))
    return members * parts, parts


@serial
def _piece(a: Any, i: int, parts: int) -> Any:
    """Piece i of (..., N, H), some of the rows of one member."""
    own, part = stacked(a)[i // parts], i % parts
    return own[len(own) * part // parts : len(own) * (part + 1) // parts]


@serial
def _columns(a: Any, i: int, parts: int) -> tuple[int, int, int]:
    """Piece i of (..., N, H): a member, and the first and the last of its columns."""
    width, part = a.shape[-1], i % parts
    return i // parts, width * part // parts, width * (part + 1) // parts


# ---- bias and activation -------------------------------------------------------------------------


@serial
def _add_bias(z: Any, bias: Any) -> None:
    row = bias[0].copy()  # a member's lies in the flat vector, which the compiler does not know
    for n in range(z.shape[0]):
        for h in range(z.shape[1]):
            z[n, h] += row[h]


@parallel
def add_bias(threads: int, z: Any, bias: Any) -> None:
    """z += bias."""
    pieces, parts = _in_rows(z, threads)
    if pieces == 1:
        _add_bias(_piece(z, 0, parts), stacked(bias)[0])
    else:
        for i in prange(pieces):
            _add_bias(_piece(z, i, parts), stacked(bias)[i // parts])


@serial
def _add_bias_relu(z: Any, bias: Any, y: Any) -> None:
    row, zero = bias[0].copy(), z.dtype.type(0)
    for n in range(z.shape[0]):
        for h in range(z.shape[1]):
            s = z[n, h] + row[h]
            z[n, h] = s
            y[n, h] = zero if s <= zero else s


@parallel
def add_bias_relu(threads: int, z: Any, bias: Any, y: Any) -> None:
    """z += bias and y = max(z, 0); NaN stays NaN."""
    pieces, parts = _in_rows(z, threads)
    if pieces == 1:
        _add_bias_relu(_piece(z, 0, parts), stacked(bias)[0], _piece(y, 0, parts))
    else:
        for i in prange(pieces):
            _add_bias_relu(_piece(z, i, parts), stacked(bias)[i // parts], _piece(y, i, parts))


@serial
def _relu_gradient(i: int, parts: int, dy: Any, y: Any, dz: Any, dbias: Any) -> None:
    k, first, last = _columns(y, i, parts)
    all_dy, all_y, all_dz = stacked(dy)[k], stacked(y)[k], stacked(dz)[k]
    total, zero, one = np.zeros(last - first, y.dtype), y.dtype.type(0), y.dtype.type(1)
    for n in range(len(all_y)):
        of_dy, of_y, of_dz = all_dy[n][first:last], all_y[n][first:last], all_dz[n][first:last]
        for h in range(len(total)):
            s = of_dy[h] * (one if of_y[h] > zero else zero)
            of_dz[h] = s
            total[h] += s
    stacked(dbias)[k, 0, first:last] = total


@parallel
def relu_gradient(threads: int, dy: Any, y: Any, dz: Any, dbias: Any) -> None:
    """dz = dy times 1 where y > 0 and 0 elsewhere, and its sum over the batch."""
    pieces, parts = _in_columns(y, threads)
    if pieces == 1:
        _relu_gradient(0, parts, dy, y, dz, dbias)
    else:
        for i in prange(pieces):
            _relu_gradient(i, parts, dy, y, dz, dbias)


@serial
def _sum_rows(i: int, parts: int, dz: Any, dbias: Any) -> None:
    k, first, last = _columns(dz, i, parts)
    own, total = stacked(dz)[k], np.zeros(last - first, dz.dtype)
    for n in range(len(own)):
        row = own[n][first:last]
        for h in range(len(total)):
            total[h] += row[h]
    stacked(dbias)[k, 0, first:last] = total


@parallel
def sum_rows(threads: int, dz: Any, dbias: Any) -> None:
    """The sum of dz over the batch."""
    pieces, parts = _in_columns(dz, threads)
    if pieces == 1:
        _sum_rows(0, parts, dz, dbias)
    else:
        for i in prange(pieces):
            _sum_rows(i, parts, dz, dbias)


# ---- loss ----------------------------------------------------------------------------------------


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
    own, weights = flat(labels), flat(sample_weights)
    weights_of_k = weights[k % len(weights)]
    return _label_losses(
        stacked(scores)[k, first:last], own[k % len(own), first:last],
        of_member(smoothing, k), class_weights,
        weights_of_k[first:last] if len(weights_of_k) > 1 else weights_of_k,
        totals[k], stacked(dscores)[k, first:last],
    )  # fmt: skip


@serial
def _total_weights(members: int, labels: Any, class_weights: Any, sample_weights: Any) -> Any:
    own, weights, totals = flat(labels), flat(sample_weights), np.empty(members)
    for k in range(members):
        totals[k] = _total_weight(own[k % len(own)], class_weights, weights[k % len(weights)])
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
    """`Backend.softmax_cross_entropy` for integer labels, into loss (1,) or (K,) and dscores.

    class_weights are (C,), sample_weights as in `Backend`; (0,) and (1,) where all are alike.
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


# ---- data ----------------------------------------------------------------------------------------


@serial
def _all_within(rows: Any, size: int) -> bool:
    for row in rows:  # noqa: SIM110  (a generator expression is not compiled)
        if not -size <= row < size:
            return False
    return True


@serial
def _gather(i: int, parts: int, data: Any, rows: Any, scale: float, out: Any) -> None:
    own, part, taken = stacked(data)[i // parts], i % parts, _piece(out, i, parts)
    first, factor = len(rows) * part // parts, out.dtype.type(scale)
    for n in range(len(taken)):
        row = rows[first + n]
        source, target = own[row + len(own) if row < 0 else row], taken[n]
        for d in range(len(target)):
            target[d] = out.dtype.type(source[d]) * factor


@parallel
def gather(threads: int, data: Any, rows: Any, scale: float, out: Any) -> bool:
    """out = data at the rows, times scale; false where there is no such row."""
    if not _all_within(rows, data.shape[-2]):
        return False
    pieces, parts = _in_rows(out, threads)
    if pieces == 1:
        _gather(0, parts, data, rows, scale, out)
    else:
        for i in prange(pieces):
            _gather(i, parts, data, rows, scale, out)
    return True


# ---- random numbers ------------------------------------------------------------------------------


@serial
def _rotate_four(x0: Any, x1: Any, rotations: Any) -> Any:
    for r in rotations:
        x0 = np.uint32(x0 + x1)
        x1 = np.uint32(np.uint32(x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
    return x0, x1


@serial
def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> Any:
    """`threefry2x32` in uint32, which wraps round by itself."""
    k2 = np.uint32(k0 ^ k1 ^ np.uint32(PARITY))
    x0, x1 = np.uint32(x0 + k0), np.uint32(x1 + k1)
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(1))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[1])
    x0, x1 = np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(2))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    x0, x1 = np.uint32(x0 + k0), np.uint32(x1 + k1 + np.uint32(3))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[1])
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(4))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    return np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(5))


@serial
def _in_pairs(members: int, pairs: int, threads: int) -> Any:
    """How many pieces the pairs of words are cut into, and how many of them one member's."""
    parts = count_parts(threads, members, pairs, WORDS)
    return members * parts, parts


@serial
def _words(i: int, parts: int, keys: Any, step: int, out: Any) -> None:
    key, words, counter = flat(keys)[i // parts], stacked(out)[i // parts], np.uint32(step)
    k0, k1, part = np.uint32(key[0]), np.uint32(key[1]), i % parts
    for pair in range(len(words) * part // parts, len(words) * (part + 1) // parts):
        words[pair, 0], words[pair, 1] = _threefry(k0, k1, np.uint32(pair), counter)


@parallel
def words(threads: int, keys: Any, step: int, out: Any) -> None:
    """`Backend.random_bits` into out (pairs, 2) or (K, pairs, 2), uint32."""
    pieces, parts = _in_pairs(len(stacked(out)), out.shape[-2], threads)
    if pieces == 1:
        _words(0, parts, keys, step, out)
    else:
        for i in prange(pieces):
            _words(i, parts, keys, step, out)


@serial
def _mask(i: int, parts: int, keys: Any, step: int, threshold: Any, scale: Any, out: Any) -> None:
    k, part = i // parts, i % parts
    key, mask, counter = flat(keys)[k], flat(out)[k], np.uint32(step)
    k0, k1, pairs = np.uint32(key[0]), np.uint32(key[1]), len(mask) // 2
    least, kept, zero = of_member(threshold, k), of_member(scale, k), mask.dtype.type(0)
    for pair in range(pairs * part // parts, pairs * (part + 1) // parts):
        x0, x1 = _threefry(k0, k1, np.uint32(pair), counter)
        mask[2 * pair] = kept if x0 >= least else zero
        mask[2 * pair + 1] = kept if x1 >= least else zero
    if part == parts - 1 and len(mask) % 2:
        x0, _ = _threefry(k0, k1, np.uint32(pairs), counter)
        mask[len(mask) - 1] = kept if x0 >= least else zero


@parallel
def mask(threads: int, keys: Any, step: int, threshold: Any, scale: Any, out: Any) -> None:
    """`Backend.dropout_mask` into out (S,) or (K, S)."""
    pieces, parts = _in_pairs(len(flat(out)), out.shape[-1] // 2, threads)
    if pieces == 1:
        _mask(0, parts, keys, step, threshold, scale, out)
    else:
        for i in prange(pieces):
            _mask(i, parts, keys, step, threshold, scale, out)
