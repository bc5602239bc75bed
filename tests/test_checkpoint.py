"""Files of networks and trainings: exact, whole or not at all, and refused where damaged."""

import dataclasses
import json
import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
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


class InterruptionError(Exception):
    pass


class InterruptAfter(mlpkit.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, trainer, row):
        if trainer.epoch == self.epoch:
            raise InterruptionError


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
    with pytest.raises(InterruptionError):
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


# ---- damaged and hostile files -------------------------------------------------------------------


def restore(path):
    trainer = trainer_of()
    before = host(trainer.network)
    try:
        mlpkit.restore_state(trainer, path)
    except BaseException:
        assert_array_equal(host(trainer.network), before)
        assert (trainer.epoch, trainer.stop, trainer.history.rows) == (0, False, [])
        raise


READERS = {"model": mlpkit.load, "state": restore}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with a small model and a small state."""
    folder = tmp_path_factory.mktemp("good")
    trainer = trainer_of()
    fit(trainer, folder / "state")
    mlpkit.save(trainer.network, folder / "model")
    for kind, read in READERS.items():
        read(folder / kind)
    return folder


def rewritten(path, data, change):
    """Write the file with its settings changed, or another text, and a checksum that agrees."""
    path.write_bytes(data)
    content, tensors = mlpkit.checkpoint.read(path)
    changed = change(content)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    digest = mlpkit.checkpoint._digest(text, tensors)
    save_file(tensors, path, metadata={"mlpkit": text, "sha256": digest})


def put(*keys, value):
    """The change that sets content[keys[0]][keys[1]]... to the value."""

    def change(content):
        if not keys:
            return value
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return content

    return change


FOREIGN = {
    "empty": lambda data: b"",
    "text": lambda data: b"once upon a time\n" * 9,
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "header of 2**63 bytes": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "no metadata": lambda data: b"\x08" + bytes(7) + b"{}      ",
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("damage", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_file_of_ours_is_refused_by_name(tmp_path, good, kind, damage):
    path = tmp_path / "broken"
    path.write_bytes(damage((good / kind).read_bytes()))
    with pytest.raises(ValueError, match=r"broken is (damaged|a safetensors file, but)"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_of_another_library_is_refused(tmp_path, kind):
    save_file({"0.weight": np.ones((3, 2))}, tmp_path / "foreign", {"format": "pt"})
    with pytest.raises(ValueError, match=r"foreign is a safetensors file, but not one of mlpkit's"):
        READERS[kind](tmp_path / "foreign")


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_and_a_folder_are_os_errors(tmp_path, kind):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            READERS[kind](path)


def test_a_changed_bit_is_noticed_wherever_it_is(tmp_path, good):
    path, data = tmp_path / "flipped", (good / "model").read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="flipped is "):
            mlpkit.load(path)


LAYER = ("network", "layers", 0)
HOSTILE = {
    "not an object": ("model", put(value=[])),
    "a number": ("model", put(value=7)),
    "another format": ("model", put("format", value=2)),
    "no JSON": ("model", lambda content: "{"),
    "nested deeply": ("model", lambda content: "[" * 100_000),
    "enormous n_in": ("model", put(*LAYER, "n_in", value=10**15)),
    "n_in of 5,000 digits": ("model", put(*LAYER, "n_in", value=int("9" * 4000))),
    "negative n_out": ("model", put(*LAYER, "n_out", value=-8)),
    "n_in a string": ("model", put(*LAYER, "n_in", value="4")),
    "unknown layer": ("model", put(*LAYER, "type", value="os.system")),
    "layer without fields": ("model", put(*LAYER, value={"type": "Dense"})),
    "layers a string": ("model", put("network", "layers", value="Dense")),
    "no layers": ("model", put("network", "layers", value=[])),
    "members negative": ("model", put("network", "members", value=-2)),
    "members enormous": ("model", put("network", "members", value=10**12)),
    "members a list": ("model", put("network", "members", value=[2])),
    "network a number": ("model", put("network", value=3)),
    "network missing": ("model", lambda content: {"format": 1}),
    "dtype a list": ("model", put("network", "dtype", value=["float32"])),
    "seeds too few": ("model", put("network", "seed", value=[1])),
    "activation a list": ("model", put(*LAYER, "activation", value=[])),
    "progress a list": ("state", put("progress", value=[])),
    "progress null": ("state", put("progress", value=None)),
    "step a string": ("state", put("progress", "step", value="many")),
    "step beyond 64 bits": ("state", put("progress", "step", value=2**70)),
    "epoch a string": ("state", put("progress", "epoch", value="3")),
    "history a number": ("state", put("progress", "history", value=5)),
}


@pytest.mark.parametrize(("kind", "change"), HOSTILE.values(), ids=HOSTILE)
def test_settings_that_make_no_sense_are_refused(tmp_path, good, kind, change):
    path = tmp_path / "hostile"
    rewritten(path, (good / kind).read_bytes(), change)
    with pytest.raises(ValueError, match="hostile"):
        READERS[kind](path)


@st.composite
def damage(draw):
    """A function that damages the bytes of a file."""
    spot = st.floats(0, 1, exclude_max=True)  # a share of the length
    kinds = ["flips", "cut", "splice", "text", "length", "nested", "settings", "settings"]
    kind = draw(st.sampled_from(kinds))
    if kind == "flips":
        flips = draw(st.lists(st.tuples(spot, st.integers(1, 255)), min_size=1, max_size=8))

        def flip(path, data):
            changed = bytearray(data)
            for place, mask in flips:
                changed[int(place * len(data))] ^= mask
            path.write_bytes(changed)

        return flip
    if kind == "settings":
        share = draw(spot)
        value = draw(
            NUMBERS | st.recursive(SCALARS, lambda inner: st.lists(inner) | objects(inner))
        )

        def replace(content):
            places = list(places_in(content))
            return put(*places[int(share * len(places))], value=value)(content)

        return lambda path, data: rewritten(path, data, replace)
    if kind == "nested":
        # Python recurses about 1000 deep.
        depth = draw(st.integers(1, 1000) | st.sampled_from([2000, 100_000]))
        text = '{"format": 1, "network": {"layers": [%s]}}' % ("[" * depth + "]" * depth)
        return lambda path, data: rewritten(path, data, lambda content: text)
    a, b, c = draw(spot), draw(spot), draw(spot)
    old, new = draw(st.permutations(WORDS))[:2]
    length = draw(st.integers(0, 2**64 - 1) | st.integers(0, 4000))

    def other(path, data):
        i, j, k = (int(share * len(data)) for share in (a, b, c))
        path.write_bytes({
            "cut": data[:i],
            "splice": data[:i] + data[j:k] + data[i:],
            "text": data.replace(old, new, 1 + 2 * (i % 2)),
            "length": length.to_bytes(8, "little") + data[8:],
        }[kind])  # fmt: skip

    return other


WORDS = [
    b"F32", b"F64", b"I64", b"U16", b"C64", b"BF16", b"F8_E4M3", b"BOOL", b"[2,8,3]", b"[2,3,8]",
    b"[0]", b"[0,0]", b"[2,4,8]", b"[2,-4,8]", b"[4294967296,4294967296]", b"0.bias", b"1.bias",
    b"mlpkit", b"sha256", b"__metadata__", b"data_offsets", b"shape", b"dtype", b"optimizer.mean",
]  # fmt: skip
NAMES = st.sampled_from(["type", "Dense", "Dropout", "rate", "n_in", "n_out", "ReLU", "members"])
NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 1, 10**9, 10**18, 10**300])
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | NAMES | st.text()


def objects(inner):
    return st.dictionaries(NAMES | st.text(max_size=3), inner)


def places_in(content, *keys):
    """The keys of everything in the settings, but for the rows of the history."""
    yield keys
    if isinstance(content, dict | list) and keys[-1:] != ("history",):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places_in(content[key], *keys, key)


# Without shrinking, which would take minutes and make a small file no smaller.
@settings(max_examples=1000, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from([*READERS]), damage=damage())
def test_no_damage_does_more_than_an_error(tmp_path_factory, good, kind, damage):
    path = tmp_path_factory.getbasetemp() / "damaged"
    damage(path, (good / kind).read_bytes())
    tracemalloc.start()
    start = time.process_time()
    try:
        READERS[kind](path)
    except (ValueError, OSError):
        pass  # refused; a change without effect may also succeed
    finally:
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 2**20 + 20 * path.stat().st_size


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


def test_a_checkpoint_before_a_callback_with_a_state_is_refused(tmp_path):
    callbacks = [mlpkit.Checkpoint(tmp_path / "state"), mlpkit.EarlyStopping("loss")]
    with pytest.raises(ValueError, match="give EarlyStopping before Checkpoint"):
        trainer_of().fit(np.eye(4), [0, 1, 2, 0], 2, callbacks=callbacks)
    assert not (tmp_path / "state").exists()
