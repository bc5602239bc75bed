"""The kernels on CuPy: those of `kernels/`, cuBLAS, and steps recorded as CUDA graphs.

What they do not cover (other dtypes and layouts, activations but ReLU, distributions as targets)
runs as written in `Backend`.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from mlpkit.backends.base import Activation, Array, DType, Namespace, Step
from mlpkit.backends.cublas import Handles, library
from mlpkit.backends.cuda_kernels import BLOCK, GRID_LIMIT, NULL, Kernels, blocks, or_null
from mlpkit.backends.cuda_updates import CudaUpdates
from mlpkit.backends.graph import Recorded

WARP = 32
LANES, WIDTH = 16, 32  # as in layers.cu
ON_CUDA = (2, 13)  # kDLCUDA and kDLCUDAManaged of dlpack.h
ROWS = 256  # of a chunk of a sum over the batch


class BackendUnavailableError(RuntimeError):
    """A backend that cannot be used here; the message says why and what to install."""


def _with_sign(xp: Namespace, sign: Callable[[Array], Array]) -> Namespace:
    """The namespace with CuPy's own `sign`: that of array-api-compat reads a mask on the host."""
    namespace = ModuleType(xp.__name__)
    vars(namespace).update(vars(xp), sign=sign)
    return namespace


def _suits(array: Array) -> bool:
    """Whether there are kernels for arrays like this one: floating point, by rows, without gaps."""
    if array.dtype.char not in "fd" or array.ndim not in (2, 3) or not array.flags.c_contiguous:
        return False
    K, N, _ = _axes(array)
    return bool(array.size and K <= GRID_LIMIT and N <= GRID_LIMIT * ROWS)


def _suits_bias(bias: Array, z: Array) -> bool:
    """Whether bias is (H,) for z (N, H), or (K, 1, H) for (K, N, H)."""
    own = z.shape[-1:] if z.ndim == 2 else (len(z), 1, z.shape[-1])
    together = bias.strides[-1] == bias.itemsize
    return bool(bias.dtype == z.dtype and bias.shape == own and together)


def _axes(array: Array) -> tuple[int, int, int]:
    """K, N and H of (..., N, H)."""
    rows, width = array.shape[-2:]
    return (len(array) if array.ndim == 3 else 1), rows, width


def _step(array: Array | None, ndim: int) -> int:
    """Elements from member to member; 0 for an array of fewer axes, which all of them share."""
    return 0 if array is None or array.ndim < ndim else array.strides[0] // array.itemsize


def _by_rows(array: Array) -> bool:
    """Whether matrices (..., M, N) lie by rows, with nothing between the columns."""
    (row, column), size = array.strides[-2:], array.itemsize
    return bool(column == size and row >= array.shape[-1] * size and row % size == 0)


class CuPyBackend(CudaUpdates):
    """CuPy on the current CUDA device."""

    steps_at_once = 16  # between two graphs a GPU waits for the host

    def __init__(self) -> None:
        try:
            import array_api_compat.cupy as xp
            import cupy
        except ImportError as error:
            raise BackendUnavailableError(
                f"backend 'cupy' needs CuPy, which cannot be imported ({error}). Install it with "
                "pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]', as your CUDA driver "
                "allows, or use backend='numpy'"
            ) from error
        try:
            cupy.cuda.runtime.getDevice()
            super().__init__(_with_sign(xp, cupy.sign), "cupy")  # compiles and runs a few kernels
            handles = Handles(cupy, library())
        except Exception as error:  # of the driver, the compiler or the memory: CuPy has many
            raise BackendUnavailableError(
                f"backend 'cupy' found no CUDA GPU that works ({error}). CuPy {cupy.__version__} "
                "is installed; check the driver with nvidia-smi, install the CuPy for your CUDA "
                "version (pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]'), "
                "or use backend='numpy'"
            ) from error
        self.cupy, self.handles, self._kernel = cupy, handles, Kernels(cupy)

    # ---- transfers -----------------------------------------------------------------------------

    def asarray(self, values: Any, dtype: DType | None = None) -> Array:
        """As in `Backend`; arrays of other libraries on a CUDA device are taken without a copy."""
        if not self.owns(values):
            if hasattr(values, "__dlpack_device__") and values.__dlpack_device__()[0] in ON_CUDA:
                values = self.cupy.from_dlpack(values)
            elif hasattr(values, "__cuda_array_interface__"):
                values = self.cupy.asarray(values)
        return super().asarray(values, dtype)

    def to_numpy(self, array: Array) -> Array:
        return self.cupy.asnumpy(array)

    def synchronize(self) -> None:
        self.cupy.cuda.get_current_stream().synchronize()

    def device(self) -> int:
        return int(self.cupy.cuda.Device().id)

    def compile(self, step: Step) -> Step:
        return Recorded(self, step)  # type: ignore[return-value]

    # ---- matrix products -----------------------------------------------------------------------

    def matmul(
        self,
        a: Array,
        b: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        xp = self.cupy
        m, k = a.shape[-1:-3:-1] if transpose_a else a.shape[-2:]
        of_b, n = b.shape[-1:-3:-1] if transpose_b else b.shape[-2:]
        members = {len(x) for x in (a, b) if x.ndim == 3}
        shape = (*members, m, n)
        known = (
            a.dtype == b.dtype and a.dtype.char in "fd" and max(a.ndim, b.ndim) <= 3
            and k == of_b and len(members) <= 1 and m * n * k > 0 and 0 not in members
            and (out is None or (out.dtype == a.dtype and out.shape == shape))
        )  # fmt: skip
        if not known:
            return super().matmul(a, b, transpose_a, transpose_b, out)
        a, b = (x if _by_rows(x) else xp.ascontiguousarray(x) for x in (a, b))
        c = out if out is not None and _by_rows(out) else xp.empty(shape, a.dtype)
        self.handles.current().product(a, b, transpose_a, transpose_b, c, self.precision)
        if out is None or out is c:
            return c
        out[...] = c
        return out

    # ---- forward and backward ------------------------------------------------------------------

    def bias_activation(
        self, z: Array, bias: Array | None, activation: Activation
    ) -> tuple[Array, Array]:
        if bias is None or not _suits(z) or not _suits_bias(bias, z):
            return super().bias_activation(z, bias, activation)
        _, N, H = _axes(z)
        of_bias = bias, _step(bias, 3)
        if activation.kernel == "relu":
            y = self.cupy.empty_like(z)
            add = self._kernel("layers", "add_bias_relu", z.dtype)
            add(blocks(z.size), (BLOCK,), (z, *of_bias, y, N, H, z.size))
            return z, y
        add = self._kernel("layers", "add_bias", z.dtype)
        add(blocks(z.size), (BLOCK,), (z, *of_bias, N, H, z.size))
        return z, activation.value(self.xp, z)

    def bias_activation_gradient(
        self, dy: Array, z: Array, y: Array, activation: Activation, dbias: Array | None
    ) -> Array:
        alike = dy.dtype == y.dtype and dy.shape == y.shape and _suits(dy)
        if dbias is None or not alike or not _suits(y) or not _suits_bias(dbias, y):
            return super().bias_activation_gradient(dy, z, y, activation, dbias)
        if activation.kernel == "relu":
            dz = self.cupy.empty_like(y)
            self._sum_rows("relu_gradient", (dy, y, dz), dbias)
            return dz
        dz = activation.gradient(self.xp, dy, z, y)
        summed = self.xp.astype(dz, dbias.dtype, copy=False)
        self._sum_rows("sum_rows", (self.cupy.ascontiguousarray(summed),), dbias)
        return dz

    def _sum_rows(self, name: str, arrays: tuple[Array, ...], total: Array) -> None:
        """Run a kernel that sums the last of `arrays` over the batch, by chunks and then those."""
        K, N, H = _axes(arrays[-1])
        chunks = -(-N // ROWS)
        parts = total if chunks == 1 else self.cupy.empty((K, chunks, H), total.dtype)
        grid, block = (-(-H // WIDTH), chunks, K), (WIDTH, LANES)
        run = self._kernel("layers", name, total.dtype)
        run(grid, block, (*arrays, parts, _step(parts, 3), N, H, ROWS))
        if chunks > 1:
            run = self._kernel("layers", "sum_rows", total.dtype)
            run((grid[0], 1, K), block, (parts, total, _step(total, 3), chunks, H, chunks))

    def softmax_cross_entropy(
        self,
        scores: Array,
        targets: Array,
        label_smoothing: Array | None = None,
        class_weights: Array | None = None,
        sample_weights: Array | None = None,
    ) -> tuple[Array, Array]:
        given = [a for a in (label_smoothing, class_weights, sample_weights) if a is not None]
        per_sample = (targets, *([] if sample_weights is None else [sample_weights]))
        fit = all(a.shape in (scores.shape[:-1], scores.shape[-2:-1]) for a in per_sample)
        fit = fit and (class_weights is None or class_weights.shape == scores.shape[-1:])
        fit = fit and all(a.flags.c_contiguous for a in (*given, targets))
        fit = fit and all(a.dtype == scores.dtype for a in given)
        if targets.dtype != np.int64 or not _suits(scores) or not fit:
            return super().softmax_cross_entropy(
                scores, targets, label_smoothing, class_weights, sample_weights
            )
        xp, dtype, (K, N, C) = self.cupy, scores.dtype, _axes(scores)
        labels = targets, _step(targets, 2)
        weights = or_null(sample_weights), _step(sample_weights, 2)
        smoothing = or_null(label_smoothing), int(getattr(label_smoothing, "size", 0) > 1)
        total: Any = NULL
        if class_weights is not None or sample_weights is not None:
            total = xp.empty(K, dtype)
            run = self._kernel("loss", "total_weights", dtype)
            run((K,), (BLOCK,), (*labels, or_null(class_weights), *weights, total, N, C))
        of_samples, dscores = xp.empty((K, N), dtype), xp.empty_like(scores)
        loss = xp.empty(scores.shape[:-2], dtype)
        run = self._kernel("loss", "label_cross_entropy", dtype)
        run(
            (-(-N // (BLOCK // WARP)), K),
            (BLOCK,),
            (
                scores, *labels, *smoothing, or_null(class_weights), *weights, total,
                of_samples, dscores, N, C,
            ),
        )  # fmt: skip
        self._kernel("loss", "sum_losses", dtype)((K,), (BLOCK,), (of_samples, loss, N))
        return loss, dscores

    # ---- data and random numbers ---------------------------------------------------------------

    def gather_rows(
        self, data: Array, rows: Array | None, dtype: DType, scale: float | None = None
    ) -> Array:
        dtype = np.dtype(dtype)
        known = data.dtype.char in "fdB" and data.ndim in (2, 3) and data.flags.c_contiguous
        if rows is None or not known or rows.dtype != np.int64 or rows.ndim != 1:
            return super().gather_rows(data, rows, dtype, scale)
        rows = self.cupy.ascontiguousarray(rows)
        M, D = data.shape[-2:]
        taken = self.cupy.empty((*data.shape[:-2], len(rows), D), dtype)
        if taken.size:
            run = self._kernel("data", "gather_rows", dtype, data.dtype)
            factor = dtype.type(1.0 if scale is None else scale)
            numbers = M, len(rows), D, taken.size
            run(blocks(taken.size), (BLOCK,), (data, rows, factor, taken, *numbers))
        return taken

    def random_bits(self, key: Array, step: Array, size: int) -> Array:
        K = key.size // 2
        if not size or K > GRID_LIMIT:
            return super().random_bits(key, step, size)
        words = self.cupy.empty((*key.shape[:-1], size), np.uint32)
        run = self._kernel("random", "random_words", np.dtype("f"))
        arguments = self.cupy.ascontiguousarray(key), step, words, size
        run(blocks(-(-size // 2), K), (BLOCK,), arguments)
        return words

    def dropout(
        self, x: Array, key: Array, step: Array, threshold: Array, scale: Array
    ) -> tuple[Array, Array]:
        y = self.cupy.empty((*key.shape[:-1], *x.shape[-2:]), x.dtype)
        if not _suits(x) or not _suits(y) or x.dtype != scale.dtype:
            return super().dropout(x, key, step, threshold, scale)
        mask, size, K = self.cupy.empty_like(y), x.shape[-2] * x.shape[-1], key.size // 2
        settings = threshold, int(threshold.size > 1), scale, int(scale.size > 1)
        run = self._kernel("random", "dropout", x.dtype)
        arguments = self.cupy.ascontiguousarray(key), step, *settings, x, _step(x, 3), y, mask, size
        run(blocks(-(-size // 2), K), (BLOCK,), arguments)
        return y, mask
