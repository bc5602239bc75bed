"""Learning rates, step by step."""

import math

import numpy as np
import pytest

import mlpkit
from mlpkit.schedules import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    linear,
    linear_warmup,
    one_cycle,
    step,
)


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


def test_linear_rises_falls_and_stays_at_its_end(backend):
    found = rates(linear(2.0, warmup=3, final=0.5), backend, range(9), 7)
    wanted = [0.5, 1.0, 1.5, 2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_linear_warmup_rises_and_stays(backend):
    found = rates(linear_warmup(2.0, 3), backend, range(6), None)
    np.testing.assert_allclose(found, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0], rtol=1e-15)
    assert rates(linear_warmup(2.0, 0), backend, range(2), None).tolist() == [2, 2]


def test_step_falls_at_once_and_exponential_steadily(backend):
    found = rates(step(0.8, every=3, gamma=0.5), backend, range(8), None)
    assert found.tolist() == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    found = rates(exponential(0.8, 0.5, every=4), backend, range(0, 12, 2), None)
    root = 0.8 * math.sqrt(0.5)
    np.testing.assert_allclose(found, [0.8, root, 0.4, root / 2, 0.2, root / 4], rtol=1e-14)


def test_one_cycle_goes_up_to_its_last_step_of_warmup_and_down_to_the_last_of_the_run(backend):
    found = rates(one_cycle(2.0, 4, 10.0, 50.0), backend, range(12), 10)
    first, last = 0.2, 0.004
    up = [first + (2 - first) * (1 - math.cos(math.pi * i / 3)) / 2 for i in range(4)]
    down = [last + (2 - last) * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(1, 7)]
    np.testing.assert_allclose(found, [*up, *down, last, last], rtol=1e-13)


@pytest.mark.parametrize(("warmup", "run"), [(1, 1), (1, 5), (5, 5), (9, 5), (1.0, 5), (0.01, 5)])
def test_one_cycle_where_a_phase_is_empty(backend, warmup, run):
    found = rates(one_cycle(1.0, warmup), backend, range(run + 1), run)
    assert ((found > 0) & (found <= 1)).all()
    np.testing.assert_allclose(found[-2:], [1 / 25e4] * 2, rtol=1e-10)


def first_steps_of_periods(first, factor, count):
    return [sum(first * factor**i for i in range(n)) for n in range(count)]


@pytest.mark.parametrize(("first", "factor"), [(1, 2), (3, 2), (10, 3), (7, 1), (1000, 10)])
def test_restarts_begin_exactly_where_they_should(backend, first, factor):
    """Far out too, where logarithms of exact powers are a rounding above or below."""
    starts = [s for s in first_steps_of_periods(first, factor, 40) if s < 2**40]
    before = [s - 1 for s in starts[1:]]
    schedule = cosine_restarts(1.0, first, factor, final=0.5)
    assert rates(schedule, backend, starts, None).tolist() == [1] * len(starts)
    ends = [0.75 + 0.25 * math.cos(math.pi * (1 - 1 / (first * factor**i))) for i in range(39)]
    np.testing.assert_allclose(rates(schedule, backend, before, None), ends[: len(before)], 1e-12)


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
    with pytest.raises(ValueError, match=r"a schedule needs its own"):
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


# A schedule with a share of a run of 30 steps, and the same in steps.
SHARES = {
    "step": (step(0.1, 0.1), step(0.1, 3)),
    "exponential": (exponential(0.1, 0.5, 0.1), exponential(0.1, 0.5, 3)),
    "linear_warmup": (linear_warmup(0.1, 0.1), linear_warmup(0.1, 3)),
    "linear": (linear(0.1, 0.1), linear(0.1, 3, steps=30)),
    "cosine": (cosine(0.1, 0.1), cosine(0.1, 3, steps=30)),
    "cosine_restarts": (cosine_restarts(0.1, 0.1, 2), cosine_restarts(0.1, 3, 2)),
    "one_cycle": (one_cycle(0.1, 0.1), one_cycle(0.1, 3, steps=30)),
}


@pytest.mark.parametrize("name", SHARES)
def test_a_length_is_a_share_of_the_run_or_a_number_of_steps(backend, name):
    share, steps = (rates(s, backend, range(32), 30) for s in SHARES[name])
    np.testing.assert_allclose(share, steps, rtol=1e-13)
    assert len(np.unique(steps)) > 3
    without = rates(SHARES[name][1], backend, range(32), None)
    np.testing.assert_array_equal(without, steps)
    with pytest.raises(ValueError, match=r"a schedule needs its own in steps"):
        rates(SHARES[name][0], backend, [0], None)


@pytest.mark.parametrize("name", SHARES)
def test_members_have_rates_of_their_own(backend, name):
    kind, settings = type(SHARES[name][0]), dict(vars(SHARES[name][0]))
    found = [
        rates(kind(**(settings | {"rate": rate})), backend, range(30), 30)
        for rate in ([0.3, 0.1], 0.3, 0.1)
    ]
    assert found[0].shape == (30, 2, 1)
    np.testing.assert_array_equal(found[0][..., 0], np.stack(found[1:], axis=1))


@pytest.mark.parametrize("schedule", [step(1.0, 0.01), cosine_restarts(1.0, 0.01)])
def test_a_share_of_less_than_a_step_is_one_step(backend, schedule):
    whole = type(schedule)(1.0, 1)
    found, wanted = (rates(s, backend, range(5), 5) for s in (schedule, whole))
    np.testing.assert_array_equal(found, wanted)


def torch_rates(torch, kind, steps, settings):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **settings)
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


CYCLE = {"max_lr": 0.3, "cycle_momentum": False}
TORCH = [
    (step(0.3, 7), "StepLR", 60, {"step_size": 7}),
    (step(0.3, 9, 0.7), "StepLR", 400, {"step_size": 9, "gamma": 0.7}),
    (exponential(0.3, 0.97), "ExponentialLR", 500, {"gamma": 0.97}),
    (
        linear(0.3, final=0.2, steps=40), "LinearLR", 60,
        {"start_factor": 1.0, "end_factor": 0.2, "total_iters": 40},
    ),
    (linear_warmup(0.3, 9), "LinearLR", 20, {"start_factor": 0.1, "total_iters": 9}),
    (
        cosine(0.3, final=0.1, steps=50), "CosineAnnealingLR", 51,
        {"T_max": 50, "eta_min": 0.03},
    ),
    (
        cosine_restarts(0.3, 11, final=0.1), "CosineAnnealingWarmRestarts", 100,
        {"T_0": 11, "eta_min": 0.03},
    ),
    (cosine_restarts(0.3, 3, 2), "CosineAnnealingWarmRestarts", 800, {"T_0": 3, "T_mult": 2}),
    (cosine_restarts(0.3, 1, 3), "CosineAnnealingWarmRestarts", 800, {"T_0": 1, "T_mult": 3}),
    (one_cycle(0.3, steps=100), "OneCycleLR", 100, CYCLE | {"total_steps": 100}),
    (one_cycle(0.3, steps=97), "OneCycleLR", 97, CYCLE | {"total_steps": 97}),
    (
        one_cycle(0.3, 0.95, 5.0, 30.0, 41), "OneCycleLR", 41,
        CYCLE | {"total_steps": 41, "pct_start": 0.95, "div_factor": 5.0, "final_div_factor": 30.0},
    ),
    (one_cycle(0.3, 0.1, steps=7), "OneCycleLR", 7, CYCLE | {"total_steps": 7, "pct_start": 0.1}),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("schedule", "kind", "steps", "settings"), TORCH)
def test_the_whole_course_is_that_of_pytorch(backend, schedule, kind, steps, settings):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    wanted = list(torch_rates(torch, kind, steps, dict(settings)))
    found = rates(schedule, backend, range(steps), None)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


BAD = [
    (lambda: step(0.1, 0), ValueError, r"every must lie in \(0, 1\], a share.* from 1 on.* got 0$"),
    (lambda: step(0.1, 2.5), ValueError, r"every must lie in \(0, 1\].* got 2\.5"),
    (lambda: step(0.1, 0.0), ValueError, r"every must lie in \(0, 1\].* got 0\.0"),
    (lambda: step(0.1, True), TypeError, r"every must be a number, got True"),
    (lambda: step(0.1, 3, [0.1, 0.2]), TypeError, r"gamma must be a number, got \[0\.1, 0\.2\]"),
    (lambda: exponential(0.1, -0.5), ValueError, r"gamma must lie in \[0, inf\), got -0\.5"),
    (lambda: linear_warmup(0.1, -1), ValueError, r"warmup must lie in \(0, 1\].* from 0 on.* -1"),
    (lambda: linear(0.1, warmup="a"), TypeError, r"warmup must be a number, got 'a'"),
    (lambda: linear(0.1, steps=0), ValueError, r"steps must be at least 1, got 0"),
    (lambda: cosine(0.1, warmup=1.5), ValueError, r"warmup must lie in \(0, 1\].* got 1\.5"),
    (lambda: cosine(0.1, warmup=math.nan), ValueError, r"warmup must lie in .* got nan"),
    (lambda: cosine(0.1, final=1), ValueError, r"final must lie in \[0, 1\), got 1"),
    (lambda: cosine_restarts(0.1, 5, 1.5), TypeError, r"factor must be an integer, got 1\.5"),
    (lambda: one_cycle(0.1, div_factor=0), ValueError, r"div_factor must lie in \[1, inf\), got 0"),
    (lambda: one_cycle(-0.1), ValueError, r"learning rate must lie in \[0, inf\), got -0\.1"),
]


@pytest.mark.parametrize(("build", "error", "message"), BAD)
def test_bad_settings_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
