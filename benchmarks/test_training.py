"""A step and an epoch of the network 784-256-128-10 on drawn digits."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import mlpkit
from mlpkit.backends import Backend

SIZES = [784, 256, 128, 10]
SGD, ADAM = "SGD with momentum", "Adam"
RULES = {SGD: mlpkit.SGD(0.01, momentum=0.9), ADAM: mlpkit.Adam(1e-3)}

Digits = tuple[Any, Any]
MeasureSteps = Callable[..., None]


@pytest.fixture
def measure_steps(backend: Backend, digits: Digits, benchmark: BenchmarkFixture) -> MeasureSteps:
    """measure_steps(rule, n, members) times `Trainer.step` on one batch of n after the other."""

    def measure_steps(rule: str, n: int, members: int | None = None) -> None:
        network = mlpkit.MLP(SIZES, members=members, backend=backend)
        step = backend.compile(mlpkit.Trainer(network, optimizer=RULES[rule]).step)
        x, labels = (backend.asarray(values) for values in digits)
        batches = cycle([(x[i : i + n], labels[i : i + n]) for i in range(0, len(x) - n + 1, n)])

        def run(*batch: Any) -> Any:
            loss = step(*batch)
            backend.synchronize()
            return loss

        # Never so many that the network learns the digits by heart: where a gradient is 0, the
        # momentum dies away to numbers that a processor is slow with.
        rounds = min(200, max(10, 25_600 // (n * (members or 1))))
        before = backend.to_numpy(network.params)
        loss = benchmark.pedantic(
            run, setup=lambda: (next(batches), {}), rounds=rounds, warmup_rounds=3
        )
        after = backend.to_numpy(network.params)
        assert np.isfinite(after).all()
        assert (after != before).any(axis=-1).all()
        assert np.isfinite(backend.to_numpy(backend.asarray(loss))).all()

    return measure_steps


@pytest.mark.parametrize("n", [1, 8, 32, 128, 512, 2048])
@pytest.mark.parametrize("rule", RULES)
def test_step(measure_steps: MeasureSteps, benchmark: BenchmarkFixture, rule: str, n: int) -> None:
    benchmark.group = f"step, {rule}, batch {n}"
    measure_steps(rule, n)


@pytest.mark.parametrize("members", [1, 8, 64])
def test_step_of_members(
    measure_steps: MeasureSteps, benchmark: BenchmarkFixture, members: int
) -> None:
    benchmark.group = f"step, {SGD}, batch 128, members {members}"
    measure_steps(SGD, 128, members)


def test_epoch(backend: Backend, digits: Digits, benchmark: BenchmarkFixture) -> None:
    def trainer() -> mlpkit.Trainer:
        return mlpkit.Trainer(mlpkit.MLP(SIZES, backend=backend), optimizer=RULES[ADAM])

    def fit(trainer: mlpkit.Trainer) -> mlpkit.Trainer:
        trainer.fit(*digits, epochs=1)  # reads the losses, and so waits for the device
        return trainer

    benchmark.group = f"epoch of 12,000 digits, {ADAM}, batch 128"
    trained = benchmark.pedantic(fit, setup=lambda: ((trainer(),), {}), rounds=3, warmup_rounds=1)
    x, labels = digits[0][:1000], digits[1][:1000]
    assert trained.evaluate(x, labels)["loss"] < trainer().evaluate(x, labels)["loss"] / 2
