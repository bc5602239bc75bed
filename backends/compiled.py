"""The kernels on NumPy arrays, compiled by Numba: what the extra `fast` brings.

What the compiled kernels do not cover runs as in `NumPyBackend`.
"""

import os
import threading
from typing import Any

import numpy as np

from mlpkit.backends import cpu_kernels, cpu_loss, cpu_random, cpu_updates
from mlpkit.backends.base import Activation, Array, DType
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.product import one_sample, product
from mlpkit.backends.threads import THREADS

COUNT = THREADS.number
FLOATS, INTEGERS = {np.dtype("f"), np.dtype("d")}, {np.dtype("i"), np.dtype("q"), np.dtype("l")}
_BLAS = {} if THREADS.blas is None else THREADS.blas.by_dtype()
WITH_MEMBERS = {(2, 2), (2, 3), (3, 2), (3, 3)}  # axes of the operands, with members or without
ZERO = np.zeros(1)
LEFT_OUT = {  # label smoothing, class weights and sample weights, by dtype
    char: (np.zeros(1, char), np.ones(0, char), np.ones((1, 1), char)) for char in "fd"
}


# One product at a time, of all threads of the program: each has all of the pool.  A fork waits for
# its end, when the BLAS has its threads back.
TURN = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=TURN.acquire, after_in_parent=TURN.release, after_in_child=TURN.release
    )


def _suits(array: Array) -> bool:
    """Whether there are kernels for arrays of this dtype, and with these axes."""
    return array.dtype in FLOATS and array.ndim in (2, 3)


def _suits_bias(bias: Array, z: Array) -> bool:
    """Whether bias is (H,) for z (N, H), or (K, 1, H) for (K, N, H)."""
    own = z.shape[-1:] if z.ndim == 2 else (len(z), 1, z.shape[-1])
    return bool(bias.dtype == z.dtype and bias.shape == own)


def _settings(*values: Array | None) -> Any:
    """Each as (1,) or (K,); 0 for one that is left out."""
    return [ZERO if value is None else value.reshape(-1) for value in values]


class CompiledBackend(NumPyBackend):
    """NumPy on the host, with compiled kernels."""

    # ---- forward and backward ----------------------------------------------------------------

    def matmul(
        self,
        a: Array,
        b: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        blas, c, ndims = _BLAS.get(a.dtype), out, (a.ndim, b.ndim)
        other = b.dtype != a.dtype or (c is not None and (c.dtype != a.dtype or c.ndim > 3))
        # Matrices that lie in another way would be compiled for, which takes longer than it gains.
        known = ndims in WITH_MEMBERS and (ndims != (2, 2) or (a.flags.carray and b.flags.carray))
        if blas is None or self.precision or other or not known:
            return super().matmul(a, b, transpose_a, transpose_b, out)
        if c is None:
            m, n = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
            shape = (m, n) if ndims == (2, 2) else (len(b if b.ndim == 3 else a), m, n)
            c = np.empty(shape, a.dtype)
        if ndims == (2, 2) and c.ndim == 2 and len(a) == 1 and not transpose_b:
            done = one_sample(COUNT, a, b, transpose_a, c)
        else:
            with TURN:
                done = product(COUNT, blas, a, b, transpose_a, transpose_b, c)
        return c if done else super().matmul(a, b, transpose_a, transpose_b, out)

    def bias_activation(
        self, z: Array, bias: Array | None, activation: Activation
    ) -> tuple[Array, Array]:
        if bias is None or not _suits(z) or not _suits_bias(bias, z):
            return super().bias_activation(z, bias, activation)
        if activation.kernel == "relu":
            y = np.empty_like(z)
            cpu_kernels.add_bias_relu(COUNT, z, bias, y)
            return z, y
        cpu_kernels.add_bias(COUNT, z, bias)
        return z, activation.value(np, z)

    def bias_activation_gradient(
        self, dy: Array, z: Array, y: Array, activation: Activation, dbias: Array | None
    ) -> Array:
        alike = dy.dtype == y.dtype and dy.shape == y.shape
        if dbias is None or not alike or not _suits(y) or not _suits_bias(dbias, y):
            return super().bias_activation_gradient(dy, z, y, activation, dbias)
        if activation.kernel == "relu":
            dz = np.empty_like(y)
            cpu_kernels.relu_gradient(COUNT, dy, y, dz, dbias)
            return dz
        dz = activation.gradient(np, dy, z, y)
        cpu_kernels.sum_rows(COUNT, dz, dbias)
        return dz

    def softmax_cross_entropy(
        self,
        scores: Array,
        targets: Array,
        label_smoothing: Array | None = None,
        class_weights: Array | None = None,
        sample_weights: Array | None = None,
    ) -> tuple[Array, Array]:
        per_sample = (targets, *([] if sample_weights is None else [sample_weights]))
        fit = all(a.shape in (scores.shape[:-1], scores.shape[-2:-1]) for a in per_sample)
        fit = fit and (class_weights is None or class_weights.shape == scores.shape[-1:])
        if targets.dtype not in INTEGERS or not _suits(scores) or not fit or 0 in scores.shape:
            return super().softmax_cross_entropy(
                scores, targets, label_smoothing, class_weights, sample_weights
            )
        loss, dscores = np.empty(scores.shape[:-2], scores.dtype), np.empty_like(scores)
        rows, classes = scores.shape[-2:]
        unsmoothed, alike, equal = LEFT_OUT[scores.dtype.char]
        cpu_loss.label_cross_entropy(
            scores.reshape(-1, rows, classes),
            targets.reshape(-1, rows),
            unsmoothed if label_smoothing is None else label_smoothing.reshape(-1),
            alike if class_weights is None else class_weights,
            equal if sample_weights is None else sample_weights.reshape(-1, rows),
            loss.reshape(-1),
            dscores.reshape(-1, rows, classes),
        )
        return loss, dscores

    # ---- data and random numbers -------------------------------------------------------------

    def gather_rows(
        self, data: Array, rows: Array | None, dtype: DType, scale: float | None = None
    ) -> Array:
        known = (data.dtype in FLOATS or data.dtype == np.uint8) and data.ndim in (2, 3)
        if rows is None or not known or rows.dtype not in INTEGERS or rows.ndim != 1:
            return super().gather_rows(data, rows, dtype, scale)
        taken = np.empty((*data.shape[:-2], len(rows), data.shape[-1]), dtype)
        if not cpu_kernels.gather(COUNT, data, rows, 1.0 if scale is None else scale, taken):
            raise IndexError(f"rows lie in [{rows.min()}, {rows.max()}], of {data.shape[-2]}")
        return taken

    def random_bits(self, key: Array, step: Array, size: int) -> Array:
        words = np.empty((*key.shape[:-1], (size + 1) // 2, 2), np.uint32)
        cpu_random.words(COUNT, key, int(step), words)
        return words.reshape(*key.shape[:-1], -1)[..., :size]

    def dropout(
        self, x: Array, key: Array, step: Array, threshold: Array, scale: Array
    ) -> tuple[Array, Array]:
        if not _suits(x) or x.dtype != scale.dtype or not x.size:
            return super().dropout(x, key, step, threshold, scale)
        y = np.empty((*key.shape[:-1], *x.shape[-2:]), x.dtype)
        mask, settings = np.empty_like(y), _settings(threshold, scale)
        size = x.shape[-2] * x.shape[-1]
        flat = (np.ascontiguousarray(a).reshape(-1, size) for a in (x, y, mask))
        cpu_random.dropout(COUNT, key, int(step), *settings, *flat)
        return y, mask

    # ---- updates -----------------------------------------------------------------------------

    def sgd(
        self,
        params: Array,
        grads: Array,
        velocity: Array | None,
        lr: Array,
        momentum: Array | None = None,
        weight_decay: Array | None = None,
        nesterov: bool = False,
    ) -> None:
        v, has = (params, False) if velocity is None else (velocity, True)
        settings = _settings(lr, momentum, weight_decay)
        cpu_updates.sgd(COUNT, params, grads, v, *settings, has, nesterov)

    def rmsprop(
        self,
        params: Array,
        grads: Array,
        square: Array,
        mean: Array | None,
        velocity: Array | None,
        lr: Array,
        alpha: Array,
        eps: Array,
        momentum: Array | None = None,
        weight_decay: Array | None = None,
    ) -> None:
        m = params if mean is None else mean
        v = params if velocity is None else velocity
        settings = _settings(lr, alpha, eps, momentum, weight_decay)
        has = mean is not None, velocity is not None
        cpu_updates.rmsprop(COUNT, params, grads, square, m, v, *settings, *has)

    def adagrad(
        self,
        params: Array,
        grads: Array,
        total: Array,
        lr: Array,
        lr_decay: Array,
        eps: Array,
        step: Array,
        weight_decay: Array | None = None,
    ) -> None:
        settings = _settings(lr, lr_decay, eps, weight_decay)
        cpu_updates.adagrad(COUNT, params, grads, total, *settings, float(step))

    def adam(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        square: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        eps: Array,
        step: Array,
        weight_decay: Array | None = None,
        decoupled: bool = False,
    ) -> None:
        settings = _settings(lr, beta1, beta2, eps, weight_decay)
        cpu_updates.adam(COUNT, params, grads, mean, square, *settings, float(step), decoupled)

    def nadam(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        square: Array,
        mu_product: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        eps: Array,
        momentum_decay: Array,
        step: Array,
        weight_decay: Array | None = None,
    ) -> None:
        rates = self._nadam_rates(mu_product, lr, beta1, momentum_decay, step)
        settings = _settings(*rates, beta1, beta2, eps, weight_decay)
        cpu_updates.nadam(COUNT, params, grads, mean, square, *settings, float(step))

    def lion(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        weight_decay: Array | None = None,
    ) -> None:
        settings = _settings(lr, beta1, beta2, weight_decay)
        cpu_updates.lion(COUNT, params, grads, mean, *settings)
