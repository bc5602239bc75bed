"""Trainings that are saved, interrupted and resumed: bit for bit, or not at all."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_training import fit, host, trainer_of

import mlpkit

# Other settings, and what is said of the first that differs.
CHANGES = {
    "network": ({"dropout": 0.1}, r"network layers 1 rate: 0\.3, this trainer has 0\.1"),
    "loss": (
        {"loss": mlpkit.SoftmaxCrossEntropy(label_smoothing=0.1)},
        r"loss label_smoothing: 0\.0, this trainer has 0\.1",
    ),
    "optimizer": ({"lr": 0.04}, r"optimizer lr rate: 0\.05, this trainer has 0\.04"),
    "seed": ({"seed": 1}, "seed: 0, this trainer has 1"),
    "several": ({"loss": "focal", "seed": 1}, "loss type: 'SoftmaxCrossEntropy', .* 'Focal'"),
}


class InterruptionError(Exception):
    pass


class InterruptAfter(mlpkit.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, trainer, row):
        if trainer.epoch == self.epoch:
            raise InterruptionError


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize("name", ["numpy", "array_api_strict"])
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, name, epoch):
    backend = mlpkit.get_backend(name if name == "numpy" else pytest.importorskip(name))
    whole, state = trainer_of(backend), tmp_path / "state"
    expected = fit(whole, tmp_path / "other", patience=4)
    last = InterruptAfter(epoch)
    if epoch == 0:
        last.on_fit_begin = lambda trainer: last.on_epoch_end(trainer, {})
    with pytest.raises(InterruptionError):
        fit(trainer_of(backend), state, 4, last)

    resumed = trainer_of(backend)
    mlpkit.restore_state(resumed, state)
    assert resumed.epoch == epoch
    stopping = fit(resumed, state, patience=4)
    assert_array_equal(host(resumed.network), host(whole.network))
    for column in ("epoch", "loss", "val_loss", "lr"):
        assert resumed.history[column] == whole.history[column]
    assert sorted(stopping.state()) == ["best", "buffers", "params", "wait"]
    for key, array in expected.state().items():
        assert_array_equal(stopping.state()[key], array)


def test_a_training_that_had_stopped_stays_so(tmp_path):
    whole, resumed = trainer_of(lr=0.5), trainer_of(lr=0.5)
    fit(whole, tmp_path / "state", patience=1)
    assert whole.epoch < 6
    mlpkit.restore_state(resumed, tmp_path / "state")
    fit(resumed, tmp_path / "state", patience=1)
    assert resumed.history.rows == whole.history.rows
    assert_array_equal(host(resumed.network), host(whole.network))


@pytest.mark.parametrize(("options", "difference"), CHANGES.values(), ids=CHANGES)
def test_a_training_with_other_settings_is_refused(tmp_path, options, difference):
    fit(trainer_of(), tmp_path / "state")
    other = trainer_of(**options)
    before = host(other.network)
    with pytest.raises(ValueError, match=f"is of a training with another {difference}$"):
        mlpkit.restore_state(other, tmp_path / "state")
    assert_array_equal(host(other.network), before)
    assert (other.epoch, other.history.rows, other.restored) == (0, [], None)
    fit(other, tmp_path / "state")


def test_a_model_is_no_state_but_a_state_has_a_model(tmp_path):
    trainer = trainer_of()
    mlpkit.save(trainer.network, tmp_path / "model")
    with pytest.raises(ValueError, match=r"model holds a network, but no state of a training"):
        mlpkit.restore_state(trainer, tmp_path / "model")
    mlpkit.save_state(trainer, tmp_path / "state")
    assert_array_equal(host(mlpkit.load(tmp_path / "state")), host(trainer.network))


class Remembering(mlpkit.Callback):
    """Has a state with a dotted name, and forgets it when a fit begins."""

    def __init__(self):
        self.seen = np.zeros(1)

    def on_fit_begin(self, trainer):
        self.seen = np.zeros(1)

    def on_epoch_end(self, trainer, row):
        self.seen = self.seen + 1

    def state(self):
        return {"epochs.seen": self.seen}

    def restore(self, state):
        self.seen = state["epochs.seen"]


def test_a_fit_that_is_refused_leaves_the_restored_state_for_the_next(tmp_path):
    x, y = np.eye(4), [0, 1, 2, 0]
    first = trainer_of()
    callbacks = [Remembering(), mlpkit.Checkpoint(tmp_path / "state")]
    first.fit(x, y, 2, callbacks=callbacks)

    resumed, remembering = trainer_of(), Remembering()
    mlpkit.restore_state(resumed, tmp_path / "state")
    with pytest.raises(ValueError, match=r"callbacks that are missing: \['Remembering.0'\]"):
        resumed.fit(x, y, 4, callbacks=[])
    resumed.fit(x, y, 4, callbacks=[remembering])
    assert remembering.seen == 4
    assert resumed.epoch == 4


def test_a_state_that_is_saved_before_the_fit_has_what_callbacks_remember(tmp_path):
    x, y = np.eye(4), [0, 1, 2, 0]
    first, second = trainer_of(), trainer_of()
    first.fit(x, y, 2, callbacks=[Remembering(), mlpkit.Checkpoint(tmp_path / "state")])
    mlpkit.restore_state(second, tmp_path / "state")
    mlpkit.save_state(second, tmp_path / "copy")
    resumed, remembering = trainer_of(), Remembering()
    mlpkit.restore_state(resumed, tmp_path / "copy")
    resumed.fit(x, y, 4, callbacks=[remembering])
    assert remembering.seen == 4


def test_a_checkpoint_before_a_callback_with_a_state_is_refused(tmp_path):
    callbacks = [mlpkit.Checkpoint(tmp_path / "state"), mlpkit.EarlyStopping("loss")]
    with pytest.raises(ValueError, match="give EarlyStopping before Checkpoint"):
        trainer_of().fit(np.eye(4), [0, 1, 2, 0], 2, callbacks=callbacks)
    assert not (tmp_path / "state").exists()


def test_a_fit_refused_by_a_callback_leaves_the_restored_state_too(tmp_path):
    x, y = np.eye(4), [0, 1, 2, 0]
    path = tmp_path / "state"
    trainer_of().fit(x, y, 2, callbacks=[Remembering(), mlpkit.Checkpoint(path)])
    resumed, remembering = trainer_of(), Remembering()
    mlpkit.restore_state(resumed, path)
    with pytest.raises(ValueError, match="give Remembering before Checkpoint"):
        resumed.fit(x, y, 4, callbacks=[mlpkit.Checkpoint(path), remembering])
    resumed.fit(x, y, 4, callbacks=[remembering])
    assert remembering.seen == 4


def test_updates_made_by_hand_are_saved_and_restored(tmp_path):
    trainer = trainer_of()
    scores, backward = trainer.network.forward(np.eye(4))  # without dropout: no training pass
    backward(np.ones_like(scores))
    trainer.optimizer.begin_run(9)
    trainer.optimizer.step()
    mlpkit.save_state(trainer, tmp_path / "state")
    again = trainer_of()
    mlpkit.restore_state(again, tmp_path / "state")
    assert int(again.optimizer.count) == 1
    assert int(again.network.passes) == 0


@pytest.mark.parametrize("budget", [{"max_steps": 6}, {"max_steps": 8}])
def test_a_training_whose_steps_are_spent_stays_so(tmp_path, budget):
    """Like one that has made its epochs: the same call of fit has nothing left to do."""
    x, y = np.eye(4), [0, 1, 2, 0]
    path = tmp_path / "state"
    whole, resumed = trainer_of(), trainer_of()
    whole.fit(x, y, 4, 1, callbacks=[mlpkit.Checkpoint(path)], **budget)
    mlpkit.restore_state(resumed, path)
    resumed.fit(x, y, 4, 1, callbacks=[mlpkit.Checkpoint(path)], **budget)
    assert resumed.history.rows == whole.history.rows
    assert_array_equal(host(resumed.network), host(whole.network))


def test_weights_sampling_and_parts_of_batches_are_resumed_exactly(tmp_path):
    rng = np.random.default_rng(2)
    x, y, weights = rng.standard_normal((20, 4)), rng.integers(0, 3, 20), rng.random((2, 20))
    given = {"epochs": 3, "batch_size": 6, "weights": weights, "sampling": "balanced"}

    def accumulating():
        network = mlpkit.MLP([4, 8, 3], dropout=0.3, members=2)
        return mlpkit.Trainer(network, accumulate=2, average=(0.5, 0.9))

    whole, first, second = (accumulating() for _ in range(3))
    whole.fit(x, y, **given)
    first.fit(x, y, max_steps=6, **given)
    mlpkit.save_state(first, tmp_path / "state")
    mlpkit.restore_state(second, tmp_path / "state")
    second.fit(x, y, **given)
    assert second.history["loss"][-1] == whole.history["loss"][-1]
    assert_array_equal(host(second.network), host(whole.network))
    assert_array_equal(host(second.average.network()), host(whole.average.network()))


OTHER_DATA = [
    ((np.eye(4), [0, 1, 2, 0]), {"batch_size": 3}),
    ((np.eye(4), [0, 1, 2, 0]), {"batch_size": 2, "sampling": "balanced"}),
    ((np.eye(4)[:3], [0, 1, 2]), {"batch_size": 2}),
    (([(np.eye(4), [0, 1, 2, 0])],), {}),
]


@pytest.mark.parametrize(("data", "options"), OTHER_DATA)
@pytest.mark.parametrize("saved", [False, True])
def test_an_epoch_goes_on_with_batches_like_those_it_began_with(tmp_path, data, options, saved):
    x, y = np.eye(4), [0, 1, 2, 0]
    whole, cut = trainer_of(), trainer_of()
    whole.fit(x, y, 2, 2)
    cut.fit(x, y, 2, 2, max_steps=1)
    if saved:
        mlpkit.save_state(cut, tmp_path / "state")
        cut = trainer_of()
        mlpkit.restore_state(cut, tmp_path / "state")
    begun = r"begun with {'samples': 4, 'batch_size': 2, 'sampling': False}, and cannot go on with"
    with pytest.raises(ValueError, match=begun):
        cut.fit(*data, epochs=2, **options)
    assert cut.steps == 1
    cut.fit(x, y, 2, 2)
    assert_array_equal(host(cut.network), host(whole.network))


@pytest.mark.parametrize(("data", "options"), OTHER_DATA)
def test_the_next_epoch_may_have_other_batches(data, options):
    trainer = trainer_of()
    trainer.fit(np.eye(4), [0, 1, 2, 0], 1, 2)
    trainer.fit(*data, epochs=2, **options)
    assert trainer.epoch == 2
