"""Damaged, foreign and hostile files: a clear error, at once, and nothing allocated for them."""

import json
import re
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file
from small_training import fit, host, trainer_of

import mlpkit


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
    "updates a string": ("state", put("progress", "updates", value="many")),
    "updates beyond 64 bits": ("state", put("progress", "updates", value=2**70)),
    "negative batch": ("state", put("progress", "batch", value=-1)),
    "batch without losses": ("state", put("progress", "batch", value=2)),
    "epoch a string": ("state", put("progress", "epoch", value="3")),
    "form a list": ("state", put("progress", "form", value=["samples", 30])),
    "history a number": ("state", put("progress", "history", value=5)),
}


@pytest.mark.parametrize(("kind", "change"), HOSTILE.values(), ids=HOSTILE)
def test_settings_that_make_no_sense_are_refused(tmp_path, good, kind, change):
    path = tmp_path / "hostile"
    rewritten(path, (good / kind).read_bytes(), change)
    with pytest.raises(ValueError, match="hostile"):
        READERS[kind](path)


def without(name):
    """The change that takes a tensor away."""
    return lambda tensors: {n: tensor for n, tensor in tensors.items() if n != name}


def reshaped(name, *shape):
    """The change that gives a tensor another shape, or adds it."""
    return lambda tensors: tensors | {name: np.zeros(shape)}


LOSSES = "the losses of the epoch under way do not fit"
TENSORS = {
    "no losses": (without("epoch.losses"), LOSSES),
    "no sizes": (without("epoch.sizes"), LOSSES),
    "one loss too few": (reshaped("epoch.losses", 2, 2), LOSSES),
    "one size too many": (reshaped("epoch.sizes", 4), LOSSES),
    "losses of other members": (reshaped("epoch.losses", 3, 5), LOSSES),
    "losses of one network": (reshaped("epoch.losses", 3), LOSSES),
    "sizes of other members": (reshaped("epoch.sizes", 3, 5), LOSSES),
    "no moment": (without("optimizer.mean"), "optimizer.mean is missing or has another shape"),
    "a longer moment": (reshaped("optimizer.mean", 2, 9), "optimizer.mean is missing or has ano"),
    "no scale": (without("optimizer.scale"), "optimizer.scale is missing"),
    "another scale": (reshaped("optimizer.scale"), "optimizer.scale is missing or has another"),
    "no weight": (without("0.weight"), r"missing \['0.weight'\]"),
    "another weight": (reshaped("0.weight", 2, 8, 4), r"0.weight has shape \(2, 8, 4\), expected"),
    "an unknown weight": (reshaped("7.weight", 2, 8, 4), r"unknown \['7.weight'\]"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_a_state_with_other_tensors_leaves_the_trainer_as_it_was(tmp_path, change, message):
    """Of a training that has made 3 steps of its epoch."""
    path, trainer = tmp_path / "state", trainer_of()
    rng = np.random.default_rng(9)
    trainer.fit(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), batch_size=8, max_steps=3)
    mlpkit.save_state(trainer, path)
    content, tensors = mlpkit.checkpoint.read(path)
    mlpkit.checkpoint._write(path, change(tensors), content)
    with pytest.raises(ValueError, match=message):
        restore(path)


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
