"""The moving average of the weights, against the sums written out in NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mlpkit

rng = np.random.default_rng(6)
X, Y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)


def trainer_of(average, members=None, backend="numpy", dtype="float64", lr=0.05):
    layers = [mlpkit.Dense(4, 6), mlpkit.BatchNorm(6), mlpkit.ReLU(), mlpkit.Dense(6, 3)]
    network = mlpkit.Network(layers, members, backend, dtype)
    return mlpkit.Trainer(network, optimizer=mlpkit.Adam(lr), metrics=["accuracy"], average=average)


def fit(trainer, epochs=2, **options):
    return trainer.fit(X, Y, epochs, batch_size=10, **options)


def state(network):
    """Parameters and buffers (P + B,) or (K, P + B) on the host."""
    flats = (network.params, network.buffers)
    return np.concatenate([network.backend.to_numpy(flat) for flat in flats], axis=-1)


class Weights(mlpkit.Callback):
    """What the network was after each step."""

    def __init__(self):
        self.by_step = []

    def on_step_end(self, trainer):
        self.by_step.append(state(trainer.network))


def averaged(by_step, decay):
    """sum_i d^(t - i) w_i / sum_i d^(t - i), in float64."""
    decay = np.asarray(decay, np.float64)[..., None]  # (1,) or (K, 1)
    t = len(by_step)
    shares = [decay ** (t - 1 - i) for i in range(t)]
    return sum(s * w for s, w in zip(shares, by_step, strict=True)) / sum(shares)


@pytest.mark.parametrize(("members", "decay"), [(None, 0.9), (3, 0.9), (3, (0.0, 0.5, 0.99))])
def test_it_is_the_weighted_mean_of_the_weights_seen(backend, dtype, members, decay):
    trainer, weights = trainer_of(decay, members, backend, dtype), Weights()
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for epochs in (1, 2):
        fit(trainer, epochs, callbacks=[weights])
        expected = averaged(weights.by_step, decay)
        assert_allclose(state(trainer.average.network()), expected, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("decay", [0.999, 0.9999, 0.99999])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_stand_still_are_their_own_average(backend, dtype, decay):
    """From the first update on, though 1 - decay has few digits in float32."""
    trainer = trainer_of(decay, backend=backend, dtype=dtype, lr=0.0)
    for _ in range(3):
        trainer.step(X, Y)
        average = backend.to_numpy(trainer.average.network().params)
        rtol = 1e-12 if dtype == "float64" else 1e-6
        assert_allclose(average, backend.to_numpy(trainer.network.params), rtol=rtol)


def test_before_the_first_update_it_is_the_network(backend):
    trainer = trainer_of(0.9, backend=backend)
    assert_array_equal(state(trainer.average.network()), state(trainer.network))


def test_without_memory_it_is_the_last_network():
    trainer = trainer_of(0.0)
    fit(trainer)
    assert_array_equal(state(trainer.average.network()), state(trainer.network))


def test_it_changes_nothing_in_the_training():
    with_average, without = trainer_of(0.9, members=2), trainer_of(None, members=2)
    fit(with_average)
    with_average.average.network()
    fit(with_average, 3)
    fit(without, 3)
    assert_array_equal(state(with_average.network), state(without.network))


@pytest.mark.parametrize("members", [None, 2])
def test_it_is_evaluated_beside_the_network(members):
    trainer = trainer_of(0.9, members)
    row = fit(trainer, validation=(X[:9], Y[:9])).rows[-1]
    figures = trainer.evaluate(X[:9], Y[:9])
    assert list(figures) == ["loss", "accuracy", "average_loss", "average_accuracy"]
    assert {f"val_{name}": value for name, value in figures.items()}.items() <= row.items()
    alone = mlpkit.Trainer(trainer.average.network(), metrics=["accuracy"]).evaluate(X[:9], Y[:9])
    assert (figures["average_loss"], figures["average_accuracy"]) == (*alone.values(),)
    assert figures["average_loss"] != figures["loss"]
    assert trainer.columns == list(row)


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("monitor", ["val_average_loss", "val_loss"])
def test_early_stopping_on_a_figure_of_it_restores_averaged_weights(backend, members, monitor):
    """No epoch is better than the first one by as much as min_delta."""
    trainer, after = trainer_of(0.9, members, backend), []

    class After(mlpkit.Callback):
        def on_epoch_end(self, trainer, row):
            network = trainer.average.network() if "average" in monitor else trainer.network
            after.append(state(network))

    stopping = mlpkit.EarlyStopping(monitor, patience=2, min_delta=9.0)
    fit(trainer, 9, validation=(X, Y), callbacks=[After(), stopping])
    assert trainer.epoch == 3
    assert_array_equal(state(trainer.network), after[0])


@pytest.mark.parametrize(("members", "decay"), [(None, 0.9), (2, (0.5, 0.99))])
def test_it_is_saved_and_resumed_exactly(tmp_path, members, decay):
    whole, first, second = (trainer_of(decay, members) for _ in range(3))
    fit(whole, 3)
    fit(first, max_steps=4)
    mlpkit.save_state(first, tmp_path / "state")
    mlpkit.restore_state(second, tmp_path / "state")
    assert_array_equal(state(second.average.network()), state(first.average.network()))
    fit(second, 3)
    assert_array_equal(state(second.average.network()), state(whole.average.network()))


@pytest.mark.parametrize("other", [None, 0.8])
def test_a_training_with_another_average_is_refused(tmp_path, other):
    mlpkit.save_state(trainer_of(0.9), tmp_path / "state")
    with pytest.raises(ValueError, match=r"training with another average: 0\.9, this trainer"):
        mlpkit.restore_state(trainer_of(other), tmp_path / "state")


def test_a_file_of_it_predicts_like_it(tmp_path):
    trainer = trainer_of(0.9, members=2)
    fit(trainer)
    mlpkit.save(trainer.average.network(), tmp_path / "average")
    loaded = mlpkit.load(tmp_path / "average")
    assert_array_equal(loaded.predict_scores(X), trainer.average.network().predict_scores(X))
    assert not np.array_equal(loaded.predict_scores(X), trainer.network.predict_scores(X))
