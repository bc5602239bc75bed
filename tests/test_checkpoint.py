"""Files of networks and trainings: exact, whole or not at all, and refused where damaged."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

import mlpkit
from mlpkit import Dense, Dropout, Identity, ReLU, Sigmoid, Tanh

LAYERS = {
    "all kinds": [
        Tanh(), Dense(3, 5, "relu"), Dropout(0.1), Dense(5, 4, "sigmoid", bias=False),
        Dense(4, 4, "tanh", init="lecun_normal"), ReLU(), Sigmoid(), Dense(4, 2), Identity(),
    ],
    "one layer": [Dense(3, 2)],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cube(mlpkit.Activation):
    name: ClassVar[str] = "cube"

    def value(self, xp, z):
        return z**3

    def gradient(self, xp, dy, z, y):
        return 3 * dy * z**2


@dataclasses.dataclass(frozen=True)
class Scale(mlpkit.Layer):
    size: int
    factor: float = 2.0

    def shapes(self):
        return {"scale": (self.size,)}

    def forward(self, context, x, train):
        return self.factor * x * context.params["scale"], None


def host(network):
    return network.backend.to_numpy(network.params)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("members", [None, 3])
def test_a_network_comes_back_bit_for_bit(tmp_path, draw, backend, dtype, members, layers):
    network = mlpkit.Network(layers, members, backend, dtype, seed=5)
    drawn = draw(*network.params.shape)
    network.params[...] = backend.asarray(drawn, network.dtype)
    mlpkit.save(network, tmp_path / "model", {"of": "the test"})
    loaded = mlpkit.load(tmp_path / "model")
    assert loaded.backend.name == "numpy"
    assert loaded.settings() == network.settings()
    assert loaded.params.dtype == dtype
    assert_array_equal(host(loaded), drawn.astype(dtype))
    assert mlpkit.checkpoint.read(tmp_path / "model")[0]["notes"] == {"of": "the test"}


def test_a_network_is_loaded_onto_any_backend(tmp_path, backend):
    saved = mlpkit.MLP([3, 4, 2], seed=1)
    mlpkit.save(saved, tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", backend)
    assert loaded.backend is backend
    assert_array_equal(host(loaded), host(saved))


def test_layer_types_of_ones_own_are_given_to_load(tmp_path):
    network = mlpkit.Network([Dense(3, 2, Cube()), Scale(2, 0.5)])
    network.params[...] = np.arange(10)
    mlpkit.save(network, tmp_path / "model")
    with pytest.raises(ValueError, match=r"no network .* unknown type 'Cube'"):
        mlpkit.load(tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", custom=[Cube, Scale])
    assert loaded.layers == network.layers
    assert_array_equal(loaded.predict_scores(np.ones((2, 3))), network.forward(np.ones((2, 3)))[0])


# ---- trainings -----------------------------------------------------------------------------------

CHANGES = {
    "network": {"dropout": 0.1},
    "loss": {"loss": mlpkit.SoftmaxCrossEntropy(label_smoothing=0.1)},
    "optimizer": {"lr": 0.04},
    "seed": {"seed": 1},
}


class InterruptedError_(Exception):
    pass


class InterruptAfter(mlpkit.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, trainer, row):
        if trainer.epoch == self.epoch:
            raise InterruptedError_


def trainer_of(backend="numpy", lr=0.05, dropout=0.3, loss="softmax_cross_entropy", seed=0):
    network = mlpkit.MLP([4, 8, 3], dropout=dropout, members=2, backend=backend)
    optimizer = mlpkit.Adam(mlpkit.schedules.cosine(lr, warmup=0.1), weight_decay=1e-3)
    return mlpkit.Trainer(network, loss, optimizer, seed=seed)


def fit(trainer, path, patience=2, last=None):
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    stopping = mlpkit.EarlyStopping(patience=patience)
    callbacks = [stopping, mlpkit.Checkpoint(path), *([last] if last else [])]
    trainer.fit(x[:30], y[:30], 6, batch_size=8, validation=(x[30:], y[30:]), callbacks=callbacks)
    return stopping


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize("name", ["numpy", "array_api_strict"])
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, name, epoch):
    backend = mlpkit.get_backend(name if name == "numpy" else pytest.importorskip(name))
    whole, state = trainer_of(backend), tmp_path / "state"
    expected = fit(whole, tmp_path / "other", patience=4)
    last = InterruptAfter(epoch)
    if epoch == 0:
        last.on_fit_begin = lambda trainer: last.on_epoch_end(trainer, {})
    with pytest.raises(InterruptedError_):
        fit(trainer_of(backend), state, 4, last)

    resumed = trainer_of(backend)
    mlpkit.restore_state(resumed, state)
    assert resumed.epoch == epoch
    stopping = fit(resumed, state, patience=4)
    assert_array_equal(host(resumed.network), host(whole.network))
    for column in ("epoch", "loss", "val_loss", "lr"):
        assert resumed.history[column] == whole.history[column]
    assert sorted(stopping.state()) == ["best", "params", "wait"]
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


@pytest.mark.parametrize("part", CHANGES)
def test_a_training_with_other_settings_is_refused(tmp_path, part):
    fit(trainer_of(), tmp_path / "state")
    other = trainer_of(**CHANGES[part])
    before = host(other.network)
    with pytest.raises(ValueError, match=rf"is of a training with another {part}: "):
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


# ---- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [(os, "fsync"), (Path, "replace")], ids=["fsync", "replace"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old file", "a new file"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, target, old):
    def fail(*args):
        raise OSError("no space left")

    path = tmp_path / "model"
    if old:
        mlpkit.save(mlpkit.MLP([3, 2]), path)
    before = path.read_bytes() if old else b""
    monkeypatch.setattr(*target, fail)
    with pytest.raises(OSError, match="no space left"):
        mlpkit.save(mlpkit.MLP([4, 2]), path)
    assert list(tmp_path.iterdir()) == ([path] if old else [])
    assert not old or path.read_bytes() == before


def test_a_file_is_as_readable_as_any_other(tmp_path):
    mlpkit.save(mlpkit.MLP([3, 2]), tmp_path / "model")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_is_pickled():
    folders = {Path(mlpkit.__file__).parent, Path(mlpkit.backends.__file__).parent}
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    pickles = r"\b(import|from)\s+(c?[pP]ickle|dill|joblib|marshal|shelve)\b|allow_pickle"
    assert len(sources) > 20
    assert [path for path in sources if re.search(pickles, path.read_text(encoding="utf-8"))] == []
