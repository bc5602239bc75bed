"""Trainings that end after so many steps or seconds, in the middle of an epoch or not."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mlpkit

STEPS = 4  # an epoch: 8 + 8 + 8 + 6 samples

rng = np.random.default_rng(5)
X, Y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)


def trainer_of(backend="numpy", optimizer=None, **options):
    network = mlpkit.MLP([4, 6, 3], dropout=0.2, members=2, backend=backend)
    return mlpkit.Trainer(network, optimizer=optimizer or mlpkit.Adam(0.02), **options)


def fit(trainer, epochs=3, **options):
    return trainer.fit(X, Y, epochs, batch_size=8, **options)


class Batches:
    """Three batches, given anew every epoch, that do not say how many they are."""

    def __iter__(self):
        return iter([(X[i : i + 10], Y[i : i + 10]) for i in (0, 10, 20)])


def host(trainer):
    return trainer.network.backend.to_numpy(trainer.network.params)


class Losses(mlpkit.Callback):
    """The loss of each step."""

    def __init__(self):
        self.by_step = []

    def on_step_end(self, trainer):
        self.by_step.append(trainer.network.backend.to_numpy(trainer.last_loss))


@pytest.mark.parametrize(
    ("max_steps", "epochs"),
    [
        (1, [0.25]),
        (3, [0.75]),
        (4, [1]),
        (6, [1, 1.5]),
        (8, [1, 2]),
        (12, [1, 2, 3]),
        (99, [1, 2, 3]),
    ],
)
def test_max_steps_are_updates_in_all(max_steps, epochs):
    trainer = trainer_of()
    assert fit(trainer, max_steps=max_steps)["epoch"] == epochs
    assert trainer.steps == int(trainer.optimizer.count) == min(max_steps, 3 * STEPS)
    assert (trainer.epoch, trainer.batch) == divmod(trainer.steps, STEPS)


@pytest.mark.parametrize("cuts", [[1], [4], [6], [2, 3, 5, 9, 12]])
def test_the_next_fit_completes_what_a_budget_cut_short(backend, cuts):
    whole, cut = trainer_of(backend), trainer_of(backend)
    fit(whole)
    for max_steps in cuts:
        fit(cut, max_steps=max_steps)
    if cuts[-1] < 3 * STEPS:
        fit(cut)
    assert_array_equal(host(cut), host(whole))
    complete = [row for row in cut.history if row["epoch"] == int(row["epoch"])]
    for column in ("epoch", "loss", "lr"):
        assert [row[column] for row in complete] == whole.history[column]


def test_the_loss_of_a_part_is_of_its_steps_and_that_of_the_epoch_of_all():
    trainer, losses = trainer_of(), Losses()
    fit(trainer, 1, max_steps=3, callbacks=[losses])
    fit(trainer, 1, callbacks=[losses])
    part, whole = trainer.history["loss"]
    assert_allclose(part, np.average(losses.by_step[:3], axis=0, weights=[8, 8, 8]), rtol=1e-6)
    assert_allclose(whole, np.average(losses.by_step, axis=0, weights=[8, 8, 8, 6]), rtol=1e-6)


def test_a_part_is_validated_logged_and_shown(tmp_path):
    path, shown = tmp_path / "log", io.StringIO()
    trainer, callbacks = trainer_of(), [mlpkit.JSONLinesLog(path), mlpkit.Progress(shown)]
    rows = fit(trainer, max_steps=6, validation=(X, Y), callbacks=callbacks).rows
    assert rows[-1]["val_loss"] == trainer.evaluate(X, Y)["loss"]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert [line[:11] for line in shown.getvalue().splitlines()] == ["epoch   1  ", "epoch 1.5  "]


@pytest.mark.parametrize(
    ("max_steps", "moments"),
    [(3, [("break", 0.75)]), (4, [("end", 1)]), (6, [("end", 1), ("break", 1.5)])],
)
def test_an_epoch_ends_or_is_broken_off(max_steps, moments):
    seen, trainer = [], trainer_of()

    class Moments(mlpkit.Callback):
        def on_epoch_end(self, trainer, row):
            seen.append(("end", row))

        def on_break(self, trainer, row):
            seen.append(("break", row))

    rows = fit(trainer, max_steps=max_steps, callbacks=[Moments()]).rows
    assert [(moment, row["epoch"]) for moment, row in seen] == moments
    assert [row for _, row in seen] == rows


def remembering():
    """Callbacks to which no epoch is good enough: one halves the rate, one stops after four."""
    return [
        mlpkit.ReduceOnPlateau("loss", factor=0.5, patience=0, threshold=0.9),
        mlpkit.EarlyStopping("loss", patience=3, min_delta=9.0),
    ]


@pytest.mark.parametrize("cuts", [[1], [4], [6], [3, 5, 8, 9, 14]])
def test_plateaus_are_of_whole_epochs_and_go_on_with_the_next_fit(cuts):
    whole, cut = trainer_of(), trainer_of()
    fit(whole, 5, callbacks=remembering()[:1])
    for max_steps in (*cuts, None):
        fit(cut, 5, max_steps=max_steps, callbacks=remembering()[:1])
    assert_array_equal(host(cut), host(whole))
    assert cut.history["lr"][-1] == whole.history["lr"][-1] == [0.02 / 8] * 2


@pytest.mark.parametrize("cuts", [[1], [4], [6], [3, 5, 8, 9, 14], [16], [18]])
def test_an_early_stop_comes_with_the_same_epoch_where_the_state_goes_on(tmp_path, cuts):
    """The weights are those of the state, for the best ones are put in at the end of a `fit`."""
    path, whole, expected = tmp_path / "state", trainer_of(), remembering()
    fit(whole, 9, callbacks=expected)
    for max_steps in (*cuts, None):
        cut, found = trainer_of(), remembering()
        if path.exists():
            mlpkit.restore_state(cut, path)
        fit(cut, 9, max_steps=max_steps, callbacks=[*found, mlpkit.Checkpoint(path)])
    assert cut.epoch == whole.epoch == 4
    assert_array_equal(host(cut), host(whole))
    np.testing.assert_equal(*([each.state() for each in given] for given in (found, expected)))


def test_the_next_fit_counts_on_to_an_early_stop():
    trainer = trainer_of()
    for max_steps in (6, 9, None):
        fit(trainer, 9, max_steps=max_steps, callbacks=remembering())
    assert trainer.epoch == 4


@pytest.mark.parametrize(("max_steps", "run"), [(6, 6), (99, 12), (None, 12)])
def test_a_schedule_ends_where_the_training_does(max_steps, run):
    trainer = trainer_of(optimizer=mlpkit.SGD(mlpkit.schedules.cosine(0.2)))
    last = fit(trainer, max_steps=max_steps)["lr"][-1]
    expected = 0.1 * (1 + np.cos(np.pi * (run - 1) / run))
    assert_allclose(last, [expected] * 2, rtol=1e-12)


@pytest.mark.parametrize("max_steps", [5, np.int64(5)])
def test_steps_that_are_made_already_are_refused(max_steps):
    trainer = trainer_of()
    fit(trainer, max_steps=5)
    with pytest.raises(ValueError, match=r"max_steps=5, but this trainer has made 5"):
        fit(trainer, max_steps=max_steps)
    assert trainer.steps == 5


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second a step, with a callback that does it."""
    clock = SimpleNamespace(now=100.0, perf_counter=lambda: clock.now)

    class Tick(mlpkit.Callback):
        def on_step_end(self, trainer):
            clock.now += 1.0

    clock.tick = Tick()
    for module in ("trainer", "budget"):
        monkeypatch.setattr(f"mlpkit.{module}.time", clock)
    return clock


def test_max_seconds_are_of_this_call_and_looked_at_after_every_step(clock):
    whole, trainer = trainer_of(), trainer_of()
    fit(whole, callbacks=[clock.tick])
    fit(trainer, max_seconds=2.5, callbacks=[clock.tick])
    assert (trainer.steps, trainer.history["epoch"]) == (3, [0.75])
    assert trainer.history["seconds"] == [3]
    assert trainer.history["samples_per_second"] == [8]
    fit(trainer, max_seconds=5, callbacks=[clock.tick])
    assert (trainer.steps, trainer.history["epoch"]) == (8, [0.75, 1, 2])
    fit(trainer, max_seconds=1000, callbacks=[clock.tick])
    assert_array_equal(host(trainer), host(whole))


def test_the_first_budget_to_be_spent_ends_the_training(clock):
    for seconds, steps in ((2, 2), (9, 5)):
        trainer = trainer_of()
        fit(trainer, max_seconds=seconds, max_steps=5, callbacks=[clock.tick])
        assert trainer.steps == steps


def test_no_seconds_are_no_steps():
    trainer = trainer_of()
    assert fit(trainer, max_seconds=0).rows == []
    assert trainer.steps == 0


def test_batches_without_a_length_keep_to_the_steps():
    whole, cut = trainer_of(), trainer_of()
    whole.fit(Batches(), epochs=2)
    for max_steps in (2, 3, 5):
        cut.fit(Batches(), epochs=2, max_steps=max_steps)
        assert cut.steps == max_steps
    cut.fit(Batches(), epochs=2)
    assert (cut.epoch, cut.steps) == (2, 6)
    assert_array_equal(host(cut), host(whole))
    assert cut.history["loss"][-1] == whole.history["loss"][-1]


def test_an_epoch_with_no_batch_left_has_the_rate_of_its_last_step(tmp_path):
    """Nobody knows that the epoch is over until its batches are asked for one more."""
    first, resumed = trainer_of(), trainer_of()
    first.fit(Batches(), epochs=1, max_steps=3)
    assert (first.epoch, first.batch) == (0, 3)
    mlpkit.save_state(first, tmp_path / "state")
    mlpkit.restore_state(resumed, tmp_path / "state")
    (_, row) = resumed.fit(Batches(), epochs=1).rows
    assert row["lr"] == [0.02] * 2
