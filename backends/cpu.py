"""The kernels on NumPy, where writing in place saves passes over memory."""

from typing import Any

import numpy as np

from mlpkit.backends.base import Activation, Array, Backend, DType
from mlpkit.backends.threefry import PARITY, ROTATIONS


class NumPyBackend(Backend):
    """NumPy on the host.  What is not overridden here runs as written in `Backend`."""

    def __init__(self) -> None:
        super().__init__(np, "numpy")

    def asarray(self, values: Any, dtype: DType | None = None) -> Array:
        if type(values) is np.ndarray and values.dtype.kind in "biuf":
            return values if dtype is None else values.astype(dtype, copy=False)
        return super().asarray(values, dtype)

    def to_numpy(self, array: Array) -> Array:
        return np.array(array)

    def matmul(
        self,
        a: Array,
        b: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        a, b = self._rounded(a), self._rounded(b)
        a, b = a.mT if transpose_a else a, b.mT if transpose_b else b
        if a.shape[-1] == 1 and len(b) == 1:  # of one sample: `matmul` has no fast way for it
            return np.multiply(a, b, out=out)
        return np.matmul(a, b, out=out)

    def bias_activation(
        self, z: Array, bias: Array | None, activation: Activation
    ) -> tuple[Array, Array]:
        if bias is not None:
            z += bias
        return z, activation.value(np, z)

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
        g = self._with_penalty(params, grads, weight_decay)
        lr = self._as(params, lr)
        if velocity is None:
            params -= lr * g
            return
        momentum = self._as(params, momentum)
        velocity *= momentum
        velocity += g
        step = lr * velocity
        if nesterov:
            step *= momentum
            step += lr * g
        params -= step

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
        dtype = params.dtype
        t = step + 1
        g = grads
        if weight_decay is not None and decoupled:
            params *= (1 - lr * weight_decay).astype(dtype)
        elif weight_decay is not None:
            g = g + weight_decay.astype(dtype) * params
        # Two passes fewer than the formula has: m += (1 - beta1)(g - m), and the root of
        # 1 - beta2^t is multiplied into the rate and eps, which are one number each.
        root = np.sqrt(1 - beta2**t)
        scratch = g - mean
        scratch *= (1 - beta1).astype(dtype)
        mean += scratch
        np.multiply(g, g, out=scratch)
        scratch *= (1 - beta2).astype(dtype)
        square *= beta2.astype(dtype)
        square += scratch
        np.sqrt(square, out=scratch)
        scratch += (eps * root).astype(dtype)
        np.divide(mean, scratch, out=scratch)
        scratch *= (lr * root / (1 - beta1**t)).astype(dtype)
        params -= scratch

    def gather_rows(
        self, data: Array, rows: Array | None, dtype: DType, scale: float | None = None
    ) -> Array:
        taken = data if rows is None else np.take(data, rows, axis=-2)
        if scale is None:
            return taken.astype(dtype, copy=False)
        # One pass casts and scales.
        return np.multiply(taken, np.asarray(scale, dtype), dtype=dtype)

    def random_bits(self, key: Array, step: Array, size: int) -> Array:
        # uint32 wraps round by itself: no masks, and half the memory of int64.
        k0 = key[..., 0:1].astype(np.uint32)
        k1 = key[..., 1:2].astype(np.uint32)
        schedule = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
        blocks = np.arange((size + 1) // 2, dtype=np.uint32)
        x0: Any = blocks + k0
        x1: Any = np.zeros_like(blocks) + (k1 + np.uint32(step))
        high = np.empty_like(x1)
        for group in range(5):
            for r in ROTATIONS[group % 2]:
                x0 += x1
                np.left_shift(x1, np.uint32(r), out=high)
                x1 >>= np.uint32(32 - r)
                x1 |= high
                x1 ^= x0
            x0 += schedule[(group + 1) % 3]
            x1 += schedule[(group + 2) % 3] + np.uint32(group + 1)
        words = np.stack((x0, x1), axis=-1)
        return words.reshape(*words.shape[:-2], 2 * words.shape[-2])[..., :size]
