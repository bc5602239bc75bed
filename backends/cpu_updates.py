"""The update rules compiled: one pass over the vectors each, the formulas of `updates.py`.

Vectors are (P,) or (K, P), cut into pieces that run side by side on as many threads as are given.
Settings are float64 (1,) or (K,), 0 for a weight decay that is left out, and rounded to the
vectors' dtype after what is computed from them alone.
"""

import math
from typing import Any

from numba import prange

from mlpkit.backends.pieces import GRAIN, count_parts, of_member
from mlpkit.backends.threads import parallel, serial


@serial
def _in_pieces(vectors: Any, threads: int) -> Any:
    """How many pieces (P,) or (K, P) is cut into, and how many of them one row."""
    rows = vectors.size // vectors.shape[-1]
    parts = count_parts(threads, rows, vectors.shape[-1], GRAIN)
    return rows * parts, parts


@serial
def _piece(vectors: Any, i: int, parts: int) -> Any:
    """Piece i of all, `parts` of them in a row."""
    size, part = vectors.shape[-1], i % parts
    first, last = size * part // parts, size * (part + 1) // parts
    if vectors.ndim == 1:
        return vectors[first:last]
    return vectors[i // parts, first:last]


# ---- gradient descent ----------------------------------------------------------------------------


@serial
def _sgd(
    i: int, parts: int, params: Any, grads: Any, velocity: Any,
    lr: Any, momentum: Any, weight_decay: Any, has_velocity: bool, nesterov: bool,
) -> None:  # fmt: skip
    row = i // parts
    w, g, v = _piece(params, i, parts), _piece(grads, i, parts), _piece(velocity, i, parts)
    real = w.dtype.type
    rate, mu, decay = (
        real(of_member(lr, row)),
        real(of_member(momentum, row)),
        real(of_member(weight_decay, row)),
    )
    if not has_velocity:
        for j in range(len(w)):
            w[j] -= rate * (g[j] + decay * w[j] if decay != 0 else g[j])
    elif nesterov:
        for j in range(len(w)):
            gj = g[j] + decay * w[j] if decay != 0 else g[j]
            v[j] = mu * v[j] + gj
            w[j] -= rate * (gj + mu * v[j])
    else:
        for j in range(len(w)):
            v[j] = mu * v[j] + (g[j] + decay * w[j] if decay != 0 else g[j])
            w[j] -= rate * v[j]


@parallel
def sgd(
    threads: int, params: Any, grads: Any, velocity: Any,
    lr: Any, momentum: Any, weight_decay: Any, has_velocity: bool, nesterov: bool,
) -> None:  # fmt: skip
    """Where there is no velocity, the parameters stand in for it."""
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _sgd(0, parts, params, grads, velocity, lr, momentum, weight_decay, has_velocity, nesterov)
    else:
        for i in prange(pieces):
            _sgd(
                i,
                parts,
                params,
                grads,
                velocity,
                lr,
                momentum,
                weight_decay,
                has_velocity,
                nesterov,
            )


# ---- steps divided by a root of squares ----------------------------------------------------------


@serial
def _rmsprop(
    i: int, parts: int, params: Any, grads: Any, square: Any, mean: Any, velocity: Any,
    lr: Any, alpha: Any, eps: Any, momentum: Any, weight_decay: Any,
    has_mean: bool, has_velocity: bool,
) -> None:  # fmt: skip
    row = i // parts
    w, g, s = _piece(params, i, parts), _piece(grads, i, parts), _piece(square, i, parts)
    m, v = _piece(mean, i, parts), _piece(velocity, i, parts)
    real = w.dtype.type
    rate, mu, decay = (
        real(of_member(lr, row)),
        real(of_member(momentum, row)),
        real(of_member(weight_decay, row)),
    )
    a, c, small = (
        real(of_member(alpha, row)),
        real(1 - of_member(alpha, row)),
        real(of_member(eps, row)),
    )
    for j in range(len(w)):
        gj = g[j] + decay * w[j] if decay != 0 else g[j]
        s[j] = a * s[j] + c * gj * gj
        variance = s[j]
        if has_mean:
            m[j] += c * (gj - m[j])
            variance -= m[j] * m[j]
            if variance < 0:
                variance = real(0)
        u = gj / (math.sqrt(variance) + small)
        if has_velocity:
            u += mu * v[j]
            v[j] = u
        w[j] -= rate * u


@parallel
def rmsprop(
    threads: int, params: Any, grads: Any, square: Any, mean: Any, velocity: Any,
    lr: Any, alpha: Any, eps: Any, momentum: Any, weight_decay: Any,
    has_mean: bool, has_velocity: bool,
) -> None:  # fmt: skip
    """Where there is no mean or no velocity, the parameters stand in for it."""
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _rmsprop(
            0, parts, params, grads, square, mean, velocity,
            lr, alpha, eps, momentum, weight_decay, has_mean, has_velocity,
        )  # fmt: skip
    else:
        for i in prange(pieces):
            _rmsprop(
                i, parts, params, grads, square, mean, velocity,
                lr, alpha, eps, momentum, weight_decay, has_mean, has_velocity,
            )  # fmt: skip


@serial
def _adagrad(
    i: int, parts: int, params: Any, grads: Any, total: Any,
    lr: Any, lr_decay: Any, eps: Any, weight_decay: Any, step: float,
) -> None:  # fmt: skip
    row = i // parts
    w, g, s = _piece(params, i, parts), _piece(grads, i, parts), _piece(total, i, parts)
    real = w.dtype.type
    rate = real(of_member(lr, row) / (1 + step * of_member(lr_decay, row)))
    small, decay = real(of_member(eps, row)), real(of_member(weight_decay, row))
    for j in range(len(w)):
        gj = g[j] + decay * w[j] if decay != 0 else g[j]
        s[j] += gj * gj
        w[j] -= rate * gj / (math.sqrt(s[j]) + small)


@parallel
def adagrad(
    threads: int, params: Any, grads: Any, total: Any,
    lr: Any, lr_decay: Any, eps: Any, weight_decay: Any, step: float,
) -> None:  # fmt: skip
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _adagrad(0, parts, params, grads, total, lr, lr_decay, eps, weight_decay, step)
    else:
        for i in prange(pieces):
            _adagrad(i, parts, params, grads, total, lr, lr_decay, eps, weight_decay, step)


# ---- two moments ---------------------------------------------------------------------------------


@serial
def _adam(
    i: int, parts: int, params: Any, grads: Any, mean: Any, square: Any,
    lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, step: float, decoupled: bool,
) -> None:  # fmt: skip
    row = i // parts
    w, g = _piece(params, i, parts), _piece(grads, i, parts)
    m, v = _piece(mean, i, parts), _piece(square, i, parts)
    real = w.dtype.type
    t = step + 1
    b1, b2, small = of_member(beta1, row), of_member(beta2, row), real(of_member(eps, row))
    rate, root = real(of_member(lr, row) / (1 - b1**t)), real(math.sqrt(1 - b2**t))
    shrink, decay = (
        real(1 - of_member(lr, row) * of_member(weight_decay, row)),
        real(of_member(weight_decay, row)),
    )
    a1, c1, a2, c2 = real(b1), real(1 - b1), real(b2), real(1 - b2)
    for j in range(len(w)):
        gj, wj = g[j], w[j]
        if decay != 0:
            if decoupled:
                wj *= shrink
            else:
                gj += decay * wj
        m[j] = a1 * m[j] + c1 * gj
        v[j] = a2 * v[j] + c2 * gj * gj
        w[j] = wj - rate * m[j] / (math.sqrt(v[j]) / root + small)


@parallel
def adam(
    threads: int, params: Any, grads: Any, mean: Any, square: Any,
    lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, step: float, decoupled: bool,
) -> None:  # fmt: skip
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _adam(
            0, parts, params, grads, mean, square,
            lr, beta1, beta2, eps, weight_decay, step, decoupled,
        )  # fmt: skip
    else:
        for i in prange(pieces):
            _adam(
                i, parts, params, grads, mean, square,
                lr, beta1, beta2, eps, weight_decay, step, decoupled,
            )  # fmt: skip


@serial
def _nadam(
    i: int, parts: int, params: Any, grads: Any, mean: Any, square: Any,
    of_g: Any, of_m: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, step: float,
) -> None:  # fmt: skip
    row = i // parts
    w, g = _piece(params, i, parts), _piece(grads, i, parts)
    m, v = _piece(mean, i, parts), _piece(square, i, parts)
    real = w.dtype.type
    t = step + 1
    b1, b2, small = of_member(beta1, row), of_member(beta2, row), real(of_member(eps, row))
    rate_g, rate_m, root = (
        real(of_member(of_g, row)),
        real(of_member(of_m, row)),
        real(math.sqrt(1 - b2**t)),
    )
    a1, c1, a2, c2 = real(b1), real(1 - b1), real(b2), real(1 - b2)
    decay = real(of_member(weight_decay, row))
    for j in range(len(w)):
        gj = g[j] + decay * w[j] if decay != 0 else g[j]
        m[j] = a1 * m[j] + c1 * gj
        v[j] = a2 * v[j] + c2 * gj * gj
        w[j] -= (rate_g * gj + rate_m * m[j]) / (math.sqrt(v[j]) / root + small)


@parallel
def nadam(
    threads: int, params: Any, grads: Any, mean: Any, square: Any,
    of_g: Any, of_m: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, step: float,
) -> None:  # fmt: skip
    """of_g and of_m, float64 (1,) or (K,): the rates of the gradient and of the mean."""
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _nadam(
            0, parts, params, grads, mean, square,
            of_g, of_m, beta1, beta2, eps, weight_decay, step,
        )  # fmt: skip
    else:
        for i in prange(pieces):
            _nadam(
                i, parts, params, grads, mean, square,
                of_g, of_m, beta1, beta2, eps, weight_decay, step,
            )  # fmt: skip


# ---- the sign alone ------------------------------------------------------------------------------


@serial
def _lion(
    i: int, parts: int, params: Any, grads: Any, mean: Any,
    lr: Any, beta1: Any, beta2: Any, weight_decay: Any,
) -> None:  # fmt: skip
    row = i // parts
    w, g, m = _piece(params, i, parts), _piece(grads, i, parts), _piece(mean, i, parts)
    real = w.dtype.type
    b1, b2, rate = of_member(beta1, row), of_member(beta2, row), real(of_member(lr, row))
    a1, c1, a2, c2 = real(b1), real(1 - b1), real(b2), real(1 - b2)
    shrink = real(1 - of_member(lr, row) * of_member(weight_decay, row))
    for j in range(len(w)):
        mixed = a1 * m[j] + c1 * g[j]
        sign = mixed  # NaN and 0 are their own
        if mixed > 0:
            sign = real(1)
        elif mixed < 0:
            sign = real(-1)
        w[j] = shrink * w[j] - rate * sign
        m[j] = a2 * m[j] + c2 * g[j]


@parallel
def lion(
    threads: int, params: Any, grads: Any, mean: Any,
    lr: Any, beta1: Any, beta2: Any, weight_decay: Any,
) -> None:  # fmt: skip
    pieces, parts = _in_pieces(params, threads)
    if pieces == 1:
        _lion(0, parts, params, grads, mean, lr, beta1, beta2, weight_decay)
    else:
        for i in prange(pieces):
            _lion(i, parts, params, grads, mean, lr, beta1, beta2, weight_decay)
