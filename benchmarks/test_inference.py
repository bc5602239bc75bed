"""Prediction by the network 784-256-128-10, of one sample and of 10,000."""

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import mlpkit
from mlpkit.backends import Array, Backend

SIZES = [784, 256, 128, 10]
TOLERANCE = 1e-5  # of a probability


@pytest.mark.parametrize("n", [1, 10_000])
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_inference(
    backend: Backend,
    generic: Backend,
    digits: tuple[Any, Any],
    benchmark: BenchmarkFixture,
    method: str,
    n: int,
) -> None:
    x = digits[0][:n]
    on_device = backend.asarray(x)
    predict = getattr(mlpkit.MLP(SIZES, backend=backend), method)

    def run() -> Array:
        result = predict(on_device)
        backend.synchronize()
        return result

    benchmark.group = f"{method}, batch {n:,}"
    result = backend.to_numpy(benchmark.pedantic(run, rounds=50, warmup_rounds=5))
    expected = mlpkit.MLP(SIZES, backend=generic).predict_proba(x)
    if method == "predict_proba":
        np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)
    else:  # of two classes as probable as each other, rounding decides
        chosen = np.take_along_axis(expected, result[:, None], axis=1)[:, 0]
        assert (chosen >= expected.max(axis=1) - TOLERANCE).all()
