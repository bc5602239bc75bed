"""Ctrl-C: the step is finished, the state saved, and the training goes on as if it had not been."""

import re
import signal
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal, assert_equal

import mlpkit

STEPS = 4  # an epoch
EPOCHS = 3


@pytest.fixture(autouse=True)
def handler():
    """Python's own handler, which a process in the background may not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


class PressAfter(mlpkit.Callback):
    """Presses Ctrl-C after a number of steps in all."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, trainer):
        if trainer.steps == self.steps:
            press()


class Watch(mlpkit.Callback):
    """The handler of Ctrl-C after each step."""

    def __init__(self):
        self.handlers = []

    def on_step_end(self, trainer):
        self.handlers.append(signal.getsignal(signal.SIGINT))


def trainer_of():
    network = mlpkit.MLP([4, 6, 3], dropout=0.2, members=2)
    optimizer = mlpkit.Adam(mlpkit.schedules.cosine(0.05, warmup=0.2))
    return mlpkit.Trainer(network, optimizer=optimizer, metrics=["accuracy"], average=0.8)


def remembering():
    """Callbacks to which no epoch is good enough: one halves the rate, one stops after three."""
    return [
        mlpkit.ReduceOnPlateau("loss", factor=0.5, patience=0, threshold=0.9),
        mlpkit.EarlyStopping("val_loss", patience=2, min_delta=9.0),
    ]


def fit(trainer, *callbacks, epochs=EPOCHS):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    options = {"batch_size": 8, "validation": (x[30:], y[30:])}
    return trainer.fit(x[:30], y[:30], epochs, callbacks=callbacks, **options)


def rows(trainer):
    """The history without its times."""
    times = ("seconds", "samples_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in trainer.history]


def assert_same(trainer, other):
    assert_array_equal(trainer.network.params, other.network.params)
    assert_array_equal(trainer.average.network().params, other.average.network().params)
    assert rows(trainer) == rows(other)


@pytest.mark.parametrize("at", [1, 3, STEPS, STEPS + 2, EPOCHS * STEPS])
def test_a_training_interrupted_and_restored_is_one_that_was_not(tmp_path, at):
    whole, broken, resumed = trainer_of(), trainer_of(), trainer_of()
    stopping = mlpkit.EarlyStopping("loss", patience=2)
    fit(whole, stopping)
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(
            broken,
            mlpkit.EarlyStopping("loss", patience=2),
            mlpkit.Checkpoint(path),
            PressAfter(at),
        )
    said = f"interrupted after {at} steps; the state is in {path}: restore_state(trainer, "
    assert str(caught.value).startswith(said)
    assert broken.steps == at

    mlpkit.restore_state(resumed, path)
    again = mlpkit.EarlyStopping("loss", patience=2)
    fit(resumed, again, mlpkit.Checkpoint(path))
    assert_same(resumed, whole)
    for name, array in stopping.state().items():
        assert_array_equal(again.state()[name], array)


@pytest.mark.parametrize("at", [3, STEPS, STEPS + 2, 2 * STEPS])
@pytest.mark.parametrize("callbacks", [list, remembering])
def test_without_a_checkpoint_the_same_call_goes_on(at, callbacks):
    whole, broken = trainer_of(), trainer_of()
    fit(whole, *callbacks())
    said = f"^interrupted after {at} steps; the same call of fit goes on from there$"
    again = [*callbacks(), PressAfter(at)]
    with pytest.raises(KeyboardInterrupt, match=said):
        fit(broken, *again)
    assert broken.steps == at
    fit(broken, *again)
    assert_same(broken, whole)


def test_what_callbacks_remember_is_given_to_new_ones_too():
    whole, broken, expected, found = trainer_of(), trainer_of(), remembering(), remembering()
    fit(whole, *expected)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, *remembering(), PressAfter(6))
    fit(broken, *found)
    assert_equal(*([callback.state() for callback in each] for each in (found, expected)))
    assert_same(broken, whole)


@pytest.mark.parametrize("saved", [False, True])
def test_a_training_that_stops_early_at_ctrl_c_stays_so(tmp_path, saved):
    whole, broken, path = trainer_of(), trainer_of(), tmp_path / "state"
    fit(whole, *remembering(), epochs=9)
    assert whole.epoch == 3
    callbacks = [*remembering(), PressAfter(3 * STEPS), *[mlpkit.Checkpoint(path)] * saved]
    said = "after 12 steps; " + ("the state is in" if saved else "the training was complete")
    with pytest.raises(KeyboardInterrupt, match=said):
        fit(broken, *callbacks, epochs=9)
    if saved:
        broken = trainer_of()
        mlpkit.restore_state(broken, path)
    fit(broken, *callbacks, epochs=9)
    assert_same(broken, whole)


def test_a_training_may_be_interrupted_again_and_again(tmp_path):
    whole, path = trainer_of(), tmp_path / "state"
    fit(whole)
    for at in (2, 3, 7, 9):
        trainer = trainer_of()
        if path.exists():
            mlpkit.restore_state(trainer, path)
        with pytest.raises(KeyboardInterrupt, match=f"after {at} steps"):
            fit(trainer, mlpkit.Checkpoint(path), PressAfter(at))
    trainer = trainer_of()
    mlpkit.restore_state(trainer, path)
    fit(trainer)
    assert_same(trainer, whole)


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_ctrl_c_between_two_epochs_is_heeded_there(epoch):
    class PressBetween(mlpkit.Callback):
        def on_epoch_end(self, trainer, row):
            if trainer.epoch == epoch:
                press()

    trainer = trainer_of()
    with pytest.raises(KeyboardInterrupt, match=f"interrupted after {epoch * STEPS} steps"):
        fit(trainer, PressBetween())
    assert trainer.history["epoch"] == list(range(1, epoch + 1))


def test_a_second_ctrl_c_interrupts_at_once():
    class PressTwice(mlpkit.Callback):
        pressed = 0

        def on_step_end(self, trainer):
            press()
            self.pressed = 1
            press()
            self.pressed = 2

    callback = PressTwice()
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(trainer_of(), callback)
    assert callback.pressed == 1
    assert str(caught.value) == ""


def test_callbacks_are_closed_after_ctrl_c():
    class Closing(mlpkit.Callback):
        closed = False

        def close(self):
            self.closed = True

    closing = Closing()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), closing, PressAfter(2))
    assert closing.closed


def test_the_first_callback_that_knows_says_how_to_go_on():
    class Knowing(mlpkit.Callback):
        def on_break(self, trainer, row):
            assert row is None
            return "ask Ada"

    trainer = trainer_of()
    with pytest.raises(KeyboardInterrupt, match=re.escape("after 2 steps; ask Ada")):
        fit(trainer, PressAfter(2), Knowing())
    assert trainer.history.rows == []


def test_the_handler_is_the_old_one_again(handler):
    watch = Watch()
    fit(trainer_of(), watch)
    assert handler not in watch.handlers
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), PressAfter(2))
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(ValueError, match="EarlyStopping watches"):
        fit(trainer_of(), mlpkit.EarlyStopping("val_f1"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_handler_of_somebody_else_is_left_alone():
    pressed, watch = [], Watch()

    def theirs(number, frame):
        pressed.append(number)

    signal.signal(signal.SIGINT, theirs)
    trainer = trainer_of()
    fit(trainer, PressAfter(2), watch)
    assert pressed == [signal.SIGINT]
    assert set(watch.handlers) == {theirs}
    assert trainer.epoch == EPOCHS
    assert signal.getsignal(signal.SIGINT) is theirs


def test_a_thread_installs_nothing(handler):
    watch, trainer = Watch(), trainer_of()
    thread = threading.Thread(target=fit, args=(trainer, watch))
    thread.start()
    thread.join()
    assert watch.handlers == [handler] * (EPOCHS * STEPS)
