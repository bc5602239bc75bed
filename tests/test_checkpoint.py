"""Files of networks: exact, and whole or not at all."""

import dataclasses
import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_training import host

import mlpkit
from mlpkit import BatchNorm, Dense, Dropout, LayerNorm, Residual
from mlpkit.activations import KINDS

LAYERS = {
    "all kinds": [
        *(kind() for kind in KINDS), Dense(3, 5, "relu"), Dropout(0.1), LayerNorm(5, eps=0.01),
        Dense(5, 4, mlpkit.LeakyReLU(0.2), bias=False), BatchNorm(4, momentum=0.3),
        Residual([Dense(4, 4, mlpkit.ELU(0.5), init="lecun_normal"), Residual([BatchNorm(4)])]),
        Dense(4, 2, init=0.5), *(kind() for kind in KINDS),
    ],
    "one layer": [Dense(3, 2)],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cubic(mlpkit.Activation):
    name: ClassVar[str] = "cubic function"

    slope: float = 0.0

    def value(self, xp, z):
        return z**3 + self.slope * z

    def gradient(self, xp, dy, z, y):
        return dy * (3 * z**2 + self.slope)


@dataclasses.dataclass(frozen=True)
class Scale(mlpkit.Layer):
    size: int
    factor: float = 2.0

    def shapes(self):
        return {"scale": (self.size,)}

    def forward(self, context, x, train):
        return self.factor * x * context.params["scale"], None


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("members", [None, 3])
def test_a_network_comes_back_bit_for_bit(tmp_path, draw, backend, dtype, members, layers):
    network = mlpkit.Network(layers, members, backend, dtype, seed=5)
    drawn = draw(*network.params.shape)
    network.params[...] = backend.asarray(drawn, network.dtype)
    buffers = draw(*network.buffers.shape)
    network.buffers[...] = backend.asarray(buffers, network.dtype)
    mlpkit.save(network, tmp_path / "model", {"of": "the test"})
    loaded = mlpkit.load(tmp_path / "model")
    assert loaded.backend.name == "numpy"
    assert loaded.layers == network.layers
    assert loaded.settings() == network.settings()
    assert loaded.params.dtype == dtype
    assert_array_equal(host(loaded), drawn.astype(dtype))
    assert_array_equal(loaded.buffers, buffers.astype(dtype))
    assert mlpkit.checkpoint.read(tmp_path / "model")[0]["notes"] == {"of": "the test"}


def test_a_network_is_loaded_onto_any_backend(tmp_path, backend):
    saved = mlpkit.MLP([3, 4, 2], seed=1)
    mlpkit.save(saved, tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", backend)
    assert loaded.backend is backend
    assert_array_equal(host(loaded), host(saved))


@pytest.mark.parametrize("members", [None, 3])
def test_layer_types_of_ones_own_are_given_to_load(tmp_path, members):
    inner = Residual([Scale(2, 0.5), Cubic(-1.5)])
    network = mlpkit.Network([Dense(3, 2, Cubic(0.1)), Scale(2), inner], members)
    network.params[...] = np.arange(12)
    mlpkit.save(network, tmp_path / "model")
    with pytest.raises(ValueError, match=r"no network .* unknown type 'Cubic'.*custom=\["):
        mlpkit.load(tmp_path / "model", custom=[Scale])
    loaded = mlpkit.load(tmp_path / "model", custom=[Cubic, Scale])
    assert loaded.layers == network.layers
    assert loaded.layers[2].layers[1] == Cubic(-1.5) != Cubic()
    assert_array_equal(loaded.predict_scores(np.ones((2, 3))), network.forward(np.ones((2, 3)))[0])


@pytest.mark.parametrize("how", [{"multilabel": True}, {"precision": "tf32"}])
def test_what_a_network_is_for_is_kept(tmp_path, backend, how):
    network = mlpkit.MLP([3, 4, 2], **how)
    mlpkit.save(network, tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", backend)
    assert loaded.settings() == network.settings()
    assert loaded.settings() | how == loaded.settings()


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
