"""Where a training ends at the moment that it is broken off."""

import signal

import numpy as np
import pytest

import mlpkit

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((20, 4)), rng.integers(0, 3, 20)  # four batches of five


class Stop(mlpkit.Callback):
    """Remembers nothing, and stops the training after so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, trainer):
        trainer.stop = trainer.stop or trainer.steps == self.steps


class Press(mlpkit.Callback):
    """Ctrl-C after so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, trainer):
        if trainer.steps == self.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def pythons_own_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def trainer():
    return mlpkit.Trainer(mlpkit.MLP([4, 3]))


def fit(trainer, epochs, *callbacks, **more):
    trainer.fit(X, Y, epochs, 5, callbacks=callbacks, **more)
    return trainer


def test_a_restored_training_that_was_stopped_stays_stopped(tmp_path):
    fit(trainer(), 6, Stop(8), mlpkit.Checkpoint(tmp_path / "state"))
    restored = trainer()
    mlpkit.restore_state(restored, tmp_path / "state")
    assert fit(restored, 6, Stop(8), mlpkit.Checkpoint(tmp_path / "state")).epoch == 2


def test_ctrl_c_in_the_last_epoch_leaves_the_best_weights():
    def stopping():
        return mlpkit.EarlyStopping("loss", patience=2, min_delta=9.0)

    whole, broken = fit(trainer(), 3, stopping()), trainer()
    with pytest.raises(KeyboardInterrupt, match="after 12 steps; the training was complete"):
        fit(broken, 3, stopping(), Press(12))
    np.testing.assert_array_equal(broken.network.params, whole.network.params)


def test_an_epoch_that_is_to_be_the_last_is_completed():
    broken = trainer()
    with pytest.raises(KeyboardInterrupt, match="the same call of fit goes on"):
        fit(broken, 9, Stop(5), Press(6))
    assert fit(broken, 9, Stop(5), Press(6)).steps == 8
    budgeted = fit(trainer(), 9, Stop(5), max_steps=6)
    assert (budgeted.steps, budgeted.batch) == (6, 2)
    assert fit(budgeted, 9, Stop(5)).steps == 8


def test_a_refused_fit_in_between_forgets_nothing(tmp_path):
    def plateau():
        return mlpkit.ReduceOnPlateau("loss", patience=0, threshold=0.9)

    whole, broken, restored = fit(trainer(), 5, plateau()), trainer(), trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, 5, plateau(), Press(10))
    with pytest.raises(ValueError, match="watches 'val_loss'"):
        fit(broken, 5, mlpkit.ReduceOnPlateau("val_loss"))
    mlpkit.save_state(broken, tmp_path / "state")
    mlpkit.restore_state(restored, tmp_path / "state")
    for gone_on in (fit(broken, 5, plateau()), fit(restored, 5, plateau(), Press(99))):
        np.testing.assert_array_equal(gone_on.network.params, whole.network.params)


def test_an_iterator_is_not_gone_on_with_in_the_middle_of_an_epoch():
    batches = iter([(X[i : i + 5], Y[i : i + 5]) for i in range(0, 20, 5)])
    broken = trainer()
    broken.fit(batches, epochs=1, max_steps=2)
    with pytest.raises(TypeError, match="gives its batches once"):
        broken.fit(batches, epochs=1, max_steps=4)
