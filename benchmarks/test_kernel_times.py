"""Each kernel on each backend, in the shapes of the network 784-256-128-10.

Every round begins with fresh copies of the same arrays, for some kernels write into theirs; what
the last round gave is compared with the generic backend.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from mlpkit.activations import get_activation
from mlpkit.backends import Array, Backend

N, H, P = 128, 256, 235_146
BATCHES = [8, N, 2048]
LAYERS = [(784, 256), (256, 128), (128, 10)]
ACTIVATIONS = ["identity", "relu", "elu", "sigmoid", "tanh", "silu", "gelu"]
# How many vectors a rule remembers, and its numbers in the order of the kernel's arguments.
RULES: dict[str, tuple[int, list[Any]]] = {
    "sgd": (1, [0.1, 0.9]),
    "rmsprop": (3, [0.1, 0.99, 1e-8, 0.9]),
    "adagrad": (1, [0.1, 1e-4, 1e-10, 7.0]),
    "adam": (2, [0.1, 0.9, 0.999, 1e-8, 7.0]),
    "nadam": (2, [[0.8], 0.1, 0.9, 0.999, 1e-8, 4e-3, 7.0]),
    "lion": (1, [0.1, 0.9, 0.99]),
}
TOLERANCE = 1e-5  # of the largest element

pytestmark = pytest.mark.parametrize(
    "backend",
    ["generic", "plain", "numpy", pytest.param("cupy", marks=pytest.mark.gpu)],
    indirect=True,
)

Measure = Callable[..., None]
Results = Array | tuple[Array, ...]
Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    """The same numbers for every backend."""
    return np.random.default_rng(20240607)


@pytest.fixture
def measure(backend: Backend, generic: Backend, benchmark: BenchmarkFixture) -> Measure:
    """measure(group, kernel, *inputs) times kernel(backend, *arrays), with the inputs as arrays.

    The kernel returns what it has computed or written, one array or several.
    """

    def placed(on: Backend, inputs: tuple[Any, ...]) -> list[Array]:
        arrays = [on.xp.asarray(values, copy=True) for values in inputs]
        on.synchronize()
        return arrays

    def measure(group: str, kernel: Callable[..., Results], *inputs: Any) -> None:
        def run(*arrays: Array) -> Results:
            results = kernel(backend, *arrays)
            backend.synchronize()
            return results

        benchmark.group = group
        results = benchmark.pedantic(
            run, setup=lambda: (placed(backend, inputs), {}), rounds=50, warmup_rounds=5
        )
        expected = kernel(generic, *placed(generic, inputs))
        if not isinstance(expected, tuple):
            results, expected = (results,), (expected,)
        for result, wanted in zip(results, expected, strict=True):
            # Through asarray, for a sum of NumPy's is no array.
            result, wanted = backend.to_numpy(backend.asarray(result)), np.asarray(wanted)
            atol = TOLERANCE * np.abs(wanted).max() if wanted.dtype.kind == "f" else 0
            np.testing.assert_allclose(result, wanted, rtol=0, atol=atol)

    return measure


def normal(rng: Rng, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


# ---- forward and backward ------------------------------------------------------------------------


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize(("d", "h"), LAYERS)
def test_matmul_forward(measure: Measure, rng: Rng, d: int, h: int, n: int) -> None:
    def kernel(b: Backend, x: Array, W: Array) -> Array:
        return b.matmul(x, W)

    measure(f"z = x W, {d}-{h}, batch {n}", kernel, normal(rng, n, d), normal(rng, d, h))


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize(("d", "h"), LAYERS)
def test_matmul_dW(measure: Measure, rng: Rng, d: int, h: int, n: int) -> None:  # noqa: N802
    def kernel(b: Backend, x: Array, dz: Array, dW: Array) -> Array:
        return b.matmul(x, dz, transpose_a=True, out=dW)

    measure(
        f"dW = x^T dz, {d}-{h}, batch {n}",
        kernel,
        normal(rng, n, d),
        normal(rng, n, h),
        normal(rng, d, h),
    )


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize(("d", "h"), LAYERS[1:])  # the first layer computes none
def test_matmul_dx(measure: Measure, rng: Rng, d: int, h: int, n: int) -> None:
    def kernel(b: Backend, dz: Array, W: Array) -> Array:
        return b.matmul(dz, W, transpose_b=True)

    measure(f"dx = dz W^T, {d}-{h}, batch {n}", kernel, normal(rng, n, h), normal(rng, d, h))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias_activation(measure: Measure, rng: Rng, name: str) -> None:
    def kernel(b: Backend, z: Array, bias: Array) -> Results:
        return b.bias_activation(z, bias, get_activation(name))

    measure(f"bias and {name}", kernel, normal(rng, N, H), normal(rng, H))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias_activation_gradient(measure: Measure, rng: Rng, name: str) -> None:
    def kernel(b: Backend, dy: Array, z: Array, y: Array, dbias: Array) -> Results:
        return b.bias_activation_gradient(dy, z, y, get_activation(name), dbias), dbias

    z = normal(rng, N, H)
    y = get_activation(name).value(np, z)
    measure(f"gradient of bias and {name}", kernel, normal(rng, N, H), z, y, normal(rng, H))


def test_softmax_cross_entropy(measure: Measure, rng: Rng) -> None:
    def kernel(b: Backend, scores: Array, labels: Array) -> Results:
        return b.softmax_cross_entropy(scores, labels)

    measure("softmax_cross_entropy", kernel, normal(rng, N, 10), rng.integers(0, 10, N))


# ---- data and random numbers ---------------------------------------------------------------------


def test_gather_rows(measure: Measure, rng: Rng) -> None:
    def kernel(b: Backend, images: Array, rows: Array) -> Array:
        return b.gather_rows(images, rows, b.xp.float32, 1 / 255)

    images = rng.integers(0, 256, (12_000, 784), np.uint8)
    measure("gather_rows of bytes", kernel, images, rng.integers(0, 12_000, N))


def test_random_bits(measure: Measure, rng: Rng) -> None:
    def kernel(b: Backend, key: Array, step: Array) -> Array:
        return b.random_bits(key, step, 60_000)

    measure("random_bits, 60,000", kernel, rng.integers(0, 2**32, 2), 7)


def test_dropout(measure: Measure, rng: Rng) -> None:
    def kernel(b: Backend, x: Array, key: Array, *settings: Array) -> tuple[Array, Array]:
        return b.dropout(x, key, *settings)

    x, key = rng.standard_normal((N, H), np.float32), rng.integers(0, 2**32, 2)
    measure("dropout", kernel, x, key, 7, int(0.2 * 2**32), np.float32(1.25))


# ---- updates -------------------------------------------------------------------------------------


def vectors(rng: Rng, count: int) -> NDArray[np.float32]:
    """Parameters, gradients and what a rule remembers (count, P).

    So near to each other that a mean square exceeds the square of a mean, as in a training.
    """
    return rng.uniform(0.2, 0.4, (count, P)).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
def test_update(measure: Measure, rng: Rng, rule: str) -> None:
    def kernel(b: Backend, *arrays: Array) -> Results:
        getattr(b, rule)(*arrays)
        return arrays

    memory, numbers = RULES[rule]
    measure(f"{rule}, {P:,} parameters", kernel, *vectors(rng, 2 + memory), *numbers)


def test_update_adamw(measure: Measure, rng: Rng) -> None:
    def kernel(b: Backend, *arrays: Array) -> Results:
        b.adam(*arrays, True)  # decoupled
        return arrays

    memory, numbers = RULES["adam"]
    measure(f"adamw, {P:,} parameters", kernel, *vectors(rng, 2 + memory), *numbers, 0.01)
