"""The update rules as CUDA kernels, with settings that stay on the device.

What they do not cover (other dtypes, vectors with gaps) runs as written in `updates.py`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from mlpkit.backends.base import Array, Backend
from mlpkit.backends.cuda_kernels import BLOCK, GRID_LIMIT, Kernels, blocks, or_null, setting


def _where_it_suits(rule: Callable[..., None]) -> Callable[..., None]:
    """The kernel of an update rule where arrays suit it, elsewhere the generic rule.

    Parameters (P,) or (K, P) without gaps, others like them, and settings in float64 do.
    """

    @wraps(rule)
    def update(self: "CudaUpdates", params: Array, *arguments: Any, **named: Any) -> None:
        K = params.size // params.shape[-1] if params.size else 0
        kind, arrays = (params.dtype, params.shape), [*arguments, *named.values()]
        suits = params.dtype.char in "fd" and 0 < K <= GRID_LIMIT and params.flags.c_contiguous
        for array in filter(self.owns, arrays):
            alike = (array.dtype, array.shape) == kind
            is_setting = array.dtype == np.float64 and array.size in (1, K)
            suits = suits and (alike or is_setting) and array.flags.c_contiguous
        (rule if suits else getattr(Backend, rule.__name__))(self, params, *arguments, **named)

    return update


class CudaUpdates(Backend):
    """The part of `CuPyBackend` that changes parameters."""

    _kernel: Kernels

    def _update(self, rule: str, params: Array, *arguments: Any) -> None:
        """Run the kernel of a rule on the parameters (P,) or (K, P)."""
        P = params.shape[-1]
        run = self._kernel("updates", rule, params.dtype)
        run(blocks(P, params.size // P), (BLOCK,), (params, *arguments, P))

    @_where_it_suits
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
        settings = map(setting, (lr, momentum, weight_decay))
        self._update("sgd", params, grads, or_null(velocity), *settings, int(nesterov))

    @_where_it_suits
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
        settings = map(setting, (lr, alpha, eps, momentum, weight_decay))
        memory = square, or_null(mean), or_null(velocity)
        self._update("rmsprop", params, grads, *memory, *settings)

    @_where_it_suits
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
        settings = map(setting, (lr, lr_decay, eps))
        self._update("adagrad", params, grads, total, *settings, step, setting(weight_decay))

    @_where_it_suits
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
        settings = map(setting, (lr, beta1, beta2, eps))
        decay = setting(weight_decay), int(decoupled)
        self._update("adam", params, grads, mean, square, *settings, step, *decay)

    @_where_it_suits
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
        settings = map(setting, (*rates, beta1, beta2, eps))
        decay = setting(weight_decay)
        self._update("nadam", params, grads, mean, square, *settings, step, decay)

    @_where_it_suits
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
        settings = map(setting, (lr, beta1, beta2, weight_decay))
        self._update("lion", params, grads, mean, *settings)
