"""The kernels, written once against the Array API.

`Backend` runs on any array library with writable views (NumPy, CuPy, PyTorch, array_api_strict).
It is the specification of every kernel and the oracle of the tests: a subclass overrides a method
to be faster, never to mean something else.

Every kernel works on the last two axes.  One network has parameters (P,), weights (D, H), biases
(H,) and batches (N, D); K members stacked in front have (K, P), (K, D, H), (K, 1, H) and (N, D) or
(K, N, D).  "(..., N, H)" below stands for both.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends.names import look_up
from mlpkit.backends.threefry import threefry2x32
from mlpkit.backends.updates import Updates

Array = Any
Namespace = Any
DType = Any
# Binary digits of a precision; float32 has 24.
SIGNIFICANT = {"tf32": 11, "bfloat16": 8, "float16": 11}
NUMBERS = ("bool", "integral", "real floating")
Step = TypeVar("Step", bound=Callable[..., Any])


class Activation(Protocol):
    """What the kernels need of an activation: its value and its vector-Jacobian product.

    `kernel` names what a backend may compute by a kernel of its own: "relu", or "" for nothing.
    """

    kernel: ClassVar[str]

    def value(self, xp: Namespace, z: Array) -> Array: ...
    def gradient(self, xp: Namespace, dy: Array, z: Array, y: Array) -> Array: ...


class Backend(Updates):
    """An array library, the transfers to and from it, and the kernels.

    Attributes
    ----------
    steps_at_once : how many steps `compile` is best given in one function
    """

    steps_at_once: ClassVar[int] = 1

    def __init__(self, xp: Namespace, name: str) -> None:
        self.xp = xp
        self.name = name
        self.precision: str | None = None
        self._array_type = type(xp.zeros(1))
        self._constants: dict[Any, Array] = {}
        self._require_writable_views()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backend":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle is the backend of that name, wherever it is opened."""
        from mlpkit.backends import find_backend

        return find_backend, (self.name, self.precision)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def at(self, precision: str | None) -> "Backend":
        """This backend with the operands of matrix products rounded to a lower precision.

        "tf32" and "bfloat16" keep 11 and 8 significant binary digits and the range of float32;
        "float16" keeps 11 digits between 6e-5 and 65504, fewer down to 6e-8, and is 0 or infinite
        beyond, which the small gradients of a large batch may be.  Products are summed in float32,
        as tensor cores do.  Here it shows what a precision does to a training; a backend whose
        hardware has it overrides `matmul` to be fast.  None for all digits of the dtype.
        """
        if precision == self.precision:
            return self
        if precision is not None:
            look_up("precision", precision, SIGNIFICANT)
        backend = object.__new__(type(self))
        backend.__dict__.update(self.__dict__, precision=precision)
        return backend

    def _require_writable_views(self) -> None:
        # As in a network with members: the parts of the rows are not next to each other.
        base = self.xp.zeros((2, 6))
        try:
            view = self.xp.reshape(base[:, 2:], (2, 2, 2))
            view[...] = self.xp.ones((2, 2, 2))
            written = bool(self.xp.all(base[:, 2:] == 1))
        except TypeError:
            written = False
        if not written:
            raise TypeError(
                f"{self.name} arrays cannot be written through a view; a network keeps its weights "
                "as views of one flat vector and needs that (NumPy, CuPy and PyTorch have it)"
            )

    # ---- transfers ---------------------------------------------------------------------------

    def owns(self, values: object) -> bool:
        """Whether `values` is an array of this backend's library."""
        return isinstance(values, self._array_type)

    def asarray(self, values: Any, dtype: DType | None = None) -> Array:
        """This backend's array of `values`: its own array, or anything NumPy takes from the host.

        Raises TypeError for an array of another library: moving it is the caller's decision.
        """
        if type(values).__name__ == "MaskedArray":  # NumPy's own, but its mask would be lost
            raise TypeError("got a masked array: fill or drop what is masked first")
        if self.owns(values):
            if not self.xp.isdtype(values.dtype, NUMBERS):
                raise TypeError(f"expected numbers, got an array of dtype {values.dtype}")
            return values if dtype is None else self.xp.astype(values, dtype, copy=False)
        if hasattr(values, "__dlpack__") and not isinstance(values, np.ndarray | np.generic):
            library = type(values).__module__.partition(".")[0]
            raise TypeError(
                f"got an array of {library} where the backend is {self.name!r}; "
                "convert it first, or build the network on its library"
            )
        try:
            host = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"expected an array of numbers: {error}") from error
        if host.dtype.kind not in "biuf":
            given = type(values).__name__
            raise TypeError(f"expected numbers, got {given} with elements of dtype {host.dtype}")
        # A copy: some libraries would share the memory of the caller's (perhaps read-only) array.
        return self.xp.asarray(np.array(host), dtype=dtype)

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """A copy of `array` on the host; waits until it has been computed."""
        return np.array(np.from_dlpack(array))

    def synchronize(self) -> None:
        """Wait until everything queued on the device has run."""

    def device(self) -> int:
        """The number of the device on which arrays are made."""
        return 0

    def compile(self, step: Step) -> Step:
        """A function that does what `step` does, and may be faster.

        The step may be recorded, once for each set of shapes, and replayed, so it must not read an
        array on the host or use a Python number that changes from call to call.  What the function
        returns stays as it is when it is called again.  It runs on one stream at a time: before it
        is called on another, wait for the first.
        """
        return step

    def constant(self, value: float | Sequence[float], dtype: DType, ndim: int = 0) -> Array:
        """A hyper-parameter on the device: a number as (), K numbers as (K, 1, ...) of `ndim` axes.

        Uploaded once and kept, so that a step that asks again transfers nothing.
        """
        values = tuple(value) if isinstance(value, Sequence) else value
        key = values, dtype, ndim, self.device()
        found = self._constants.get(key)
        if found is None:
            found = self.xp.asarray(values, dtype=dtype)
            if isinstance(values, tuple):
                found = self.xp.reshape(found, (len(values),) + (1,) * (ndim - 1))
            self._constants[key] = found
        return found

    # ---- forward and backward ----------------------------------------------------------------

    def matmul(
        self,
        a: Array,
        b: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        """a @ b over the last two axes, either one transposed, the leading axes broadcast."""
        xp = self.xp
        a, b = self._rounded(a), self._rounded(b)
        product = xp.matmul(
            xp.matrix_transpose(a) if transpose_a else a,
            xp.matrix_transpose(b) if transpose_b else b,
        )
        if out is None:
            return product
        out[...] = product
        return out

    def _rounded(self, a: Array) -> Array:
        """An operand at the precision of products, by Veltkamp's splitting (Dekker 1971)."""
        if self.precision is None:
            return a
        xp = self.xp
        c = a * (2.0 ** (24 - SIGNIFICANT[self.precision]) + 1)
        high = xp.where(xp.isfinite(c), c - (c - a), a)
        if self.precision != "float16":
            return high
        # Below 2^-14 float16 has multiples of 2^-24, which is what float32 has next to 0.75.
        high = xp.where(xp.abs(a) < 2.0**-14, (a + 0.75) - 0.75, high)
        infinite = xp.copysign(xp.full_like(high, xp.inf), high)
        return xp.where(xp.abs(high) > 65504, infinite, high)

    def bias_activation(
        self, z: Array, bias: Array | None, activation: Activation
    ) -> tuple[Array, Array]:
        """z + bias and y = g(z + bias), both (..., N, H); `z` may be overwritten."""
        if bias is not None:
            z = z + bias
        return z, activation.value(self.xp, z)

    def bias_activation_gradient(
        self, dy: Array, z: Array, y: Array, activation: Activation, dbias: Array | None
    ) -> Array:
        """dz = dy g'(z) (..., N, H); its sum over the batch is written into `dbias`."""
        dz = activation.gradient(self.xp, dy, z, y)
        if dbias is not None:
            dbias[...] = self.xp.reshape(self.xp.sum(dz, axis=-2), dbias.shape)
        return dz

    def softmax_cross_entropy(
        self,
        scores: Array,
        targets: Array,
        label_smoothing: Array | None = None,
        class_weights: Array | None = None,
        sample_weights: Array | None = None,
    ) -> tuple[Array, Array]:
        """Mean cross-entropy between softmax(scores) and the targets, and its gradient.

        With p = softmax(s), q the target distribution smoothed to (1 - e) q + e/C, class weights c
        and sample weights w, and W the sum over the samples of w (times c of the label, for
        integer labels):

            loss = -1/W sum_n w_n sum_c c_c q_nc log p_nc
            dloss/ds_nc = w_n/W (p_nc sum_k c_k q_nk - c_c q_nc)

        Where W is 0, so is the loss.  The log-sum-exp is taken after subtracting each row's
        maximum, so scores of 1e4 are safe.  Conventions as torch.nn.functional.cross_entropy.

        Parameters
        ----------
        scores : (..., N, C) floating point
        targets : (N,) or (K, N) integer labels in [0, C), not checked here; or distributions
            (N, C) or (K, N, C) of the scores' dtype
        label_smoothing : () or (K, 1, 1) in [0, 1]
        class_weights : (C,)
        sample_weights : (N,) or (K, N)

        Returns
        -------
        loss : () or (K,), on the device
        dscores : like scores
        """
        xp = self.xp
        dtype, (rows, classes) = scores.dtype, scores.shape[-2:]
        labels = xp.isdtype(targets.dtype, "integral")
        if labels:
            hot = xp.expand_dims(targets, axis=-1) == xp.arange(classes, dtype=targets.dtype)
            targets = xp.astype(hot, dtype)
        weights, total = sample_weights, rows
        if labels and class_weights is not None:
            of_label = xp.sum(targets * class_weights, axis=-1)
            weights_total = of_label if weights is None else of_label * weights
            total = xp.sum(weights_total, axis=-1)
        elif weights is not None:
            total = xp.sum(weights, axis=-1)
        if not isinstance(total, int):
            total = xp.where(total > 0, total, xp.ones_like(total))

        if label_smoothing is not None:
            targets = (1 - label_smoothing) * targets + label_smoothing / classes
        if class_weights is not None:
            targets = targets * class_weights
        if weights is not None:
            targets = targets * xp.expand_dims(weights, axis=-1)

        shifted = scores - xp.max(scores, axis=-1, keepdims=True)
        exps = xp.exp(shifted)
        sums = xp.sum(exps, axis=-1, keepdims=True)
        log_p = shifted - xp.log(sums)
        loss = -xp.sum(targets * log_p, axis=(-2, -1)) / total
        mass = xp.sum(targets, axis=-1, keepdims=True)
        dscores = exps / sums * mass - targets
        return loss, dscores / (total if isinstance(total, int) else total[..., None, None])

    # ---- data and random numbers ---------------------------------------------------------------

    def gather_rows(
        self, data: Array, rows: Array | None, dtype: DType, scale: float | None = None
    ) -> Array:
        """The rows (n,) of `data` (..., N, D), cast to `dtype` and multiplied by `scale`.

        All rows where `rows` is None.
        """
        taken = data if rows is None else self.xp.take(data, rows, axis=-2)
        taken = self.xp.astype(taken, dtype, copy=False)
        return taken if scale is None else taken * scale

    def random_bits(self, key: Array, step: Array, size: int) -> Array:
        """32-bit random words (size,), or (K, size): integers in [0, 2**32), Threefry-2x32.

        `key` is (2,) or (K, 2) and `step` (), integers in [0, 2**32).  Word e is half e % 2 of
        the block that encrypts the counter (e // 2, step), so it does not depend on `size`.
        The width of the integer type is the backend's choice.
        """
        xp = self.xp
        blocks = xp.arange((size + 1) // 2, dtype=xp.int64)
        k0, k1 = key[..., 0:1], key[..., 1:2]
        pair = threefry2x32((k0, k1), (blocks, step))
        words = xp.stack(pair, axis=-1)
        return xp.reshape(words, (*words.shape[:-2], 2 * words.shape[-2]))[..., :size]

    def dropout(
        self, x: Array, key: Array, step: Array, threshold: Array, scale: Array
    ) -> tuple[Array, Array]:
        """x times a mask, and the mask: 0 where the random word is below `threshold`, else `scale`.

        Both are (N, H), or (K, N, H) with a key (K, 2), also where the members share x (N, H).
        `threshold` is () or (K, 1, 1) int64, the dropped share of 2**32; `scale` is of the dtype
        of x.
        """
        xp, (rows, width) = self.xp, x.shape[-2:]
        bits = self.random_bits(key, step, rows * width)
        keep = xp.reshape(bits, (*bits.shape[:-1], rows, width)) >= threshold
        mask = xp.astype(keep, scale.dtype) * scale
        return x * mask, mask
