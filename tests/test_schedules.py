"""Learning rates, step by step."""

import math

import numpy as np
import pytest

import mlpkit
from mlpkit.schedules import constant, cosine


def rates(schedule, backend, steps, run):
    xp = backend.xp
    run = None if run is None else xp.asarray(float(run), dtype=xp.float64)
    each = [xp.asarray(float(step), dtype=xp.float64) for step in steps]
    return np.stack([backend.to_numpy(schedule(backend, step, run)) for step in each])


def test_constant(backend):
    assert rates(constant(0.3), backend, [0, 7], None).tolist() == [0.3, 0.3]
    assert rates(constant([0.3, 0.1]), backend, [5], None).tolist() == [[[0.3], [0.1]]]


def test_cosine_rises_falls_and_stays_at_its_end(backend):
    found = rates(cosine(2.0, warmup=0.2, final=0.1), backend, range(13), 10)
    rise = [2 / 3, 4 / 3]
    fall = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(8)]
    np.testing.assert_allclose(found, [*rise, *fall, 0.2, 0.2, 0.2], rtol=1e-14)


@pytest.mark.parametrize(
    ("warmup", "run", "rise"), [(0.29, 100, 29), (0.57, 100, 57), (0.999, 10, 9), (0.0, 5, 0)]
)
def test_the_rise_takes_its_share_of_the_run(backend, warmup, run, rise):
    found = rates(cosine(1.0, warmup=warmup), backend, range(run), run)
    assert found.argmax() == rise
    assert found[rise] == 1
    assert np.isfinite(found).all()


def test_cosine_of_a_length_of_its_own(backend):
    own = rates(cosine(1.0, steps=8), backend, range(8), 100)
    np.testing.assert_array_equal(own, rates(cosine(1.0), backend, range(8), 8))


def test_cosine_without_a_length_says_so():
    trainer = mlpkit.Trainer(mlpkit.MLP([2, 2]), optimizer=mlpkit.SGD(cosine(0.1)))
    with pytest.raises(ValueError, match=r"outside of Trainer.fit needs its length"):
        trainer.step([[1.0, 2.0]], [0])


def test_a_second_trainer_begins_its_schedule_and_its_moments_anew():
    """As fine-tuning does: the count belongs to the optimizer, not to the network."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    trained = mlpkit.MLP([4, 5, 3], dtype="float64")
    mlpkit.Trainer(trained).fit(x, y, epochs=3)
    fresh = mlpkit.MLP([4, 5, 3], dtype="float64")
    fresh.load_parameters(trained.named_parameters())
    histories = []
    for network in (trained, fresh):
        trainer = mlpkit.Trainer(network, optimizer=mlpkit.Adam(cosine(0.05)))
        histories.append(trainer.fit(x, y, epochs=4, batch_size=10))
    assert histories[0]["lr"] == histories[1]["lr"]
    assert histories[0]["loss"] == histories[1]["loss"]
    np.testing.assert_array_equal(trained.params, fresh.params)
