"""The IDX reader: what it reads, what it refuses, and that no damage makes it slow or greedy."""

import gzip
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlpkit.data import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def pack(array):
    header = struct.pack(
        f">HBB{array.ndim}I", 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


GOOD = pack(np.arange(24, dtype="u1").reshape(2, 3, 4))
GOOD_GZIP = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize("packing", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(5,), (0,), (2, 3, 4), (0, 28, 28), (1,) * 64])
def test_reads_what_was_written(tmp_path, code, shape, packing):
    want = np.linspace(-100, 100, int(np.prod(shape))).astype(code).reshape(shape)
    file = tmp_path / "any.name"
    file.write_bytes(packing(pack(want)))
    got = read_idx(str(file))
    assert got.shape == shape
    assert got.dtype == np.dtype(code)
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.writeable
    assert got.flags.owndata
    np.testing.assert_array_equal(got, want)


def test_reads_gzip_of_several_members(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]))
    assert read_idx(file).shape == (2, 3, 4)


HUGE = struct.pack(">HBB2I", 0, 8, 2, 2**20, 2**20) + bytes(88)
MALFORMED = {
    "empty": (b"", "ends inside its header: expected 4 bytes, got 0"),
    "three bytes": (GOOD[:3], "expected 4 bytes, got 3"),
    "no sizes": (GOOD[:10], "expected 12 bytes, got 6"),
    "text": (b"P5 28 28\n", "begins with two zero bytes, got 50 35"),
    "type": (
        b"\0\0\x0a\x01" + bytes(8),
        "unknown type code 0x0a, expected one of 0x08, 0x09, 0x0b",
    ),
    "no axes": (b"\0\0\x08\0\x07", "expected 1 to 64 axes, got 0"),
    "65 axes": (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\0", "expected 1 to 64 axes, got 65"),
    "header alone": (
        GOOD[:16],
        r"promises 24 bytes of data, shape \(2, 3, 4\); the file has room for 0 at most",
    ),
    "one byte short": (GOOD[:-1], "promises 24 bytes of data, .* has room for 23 at most"),
    "one byte over": (GOOD + b"\0", "promises 24 bytes of data, .* more bytes follow"),
    "a tebibyte": (HUGE, "promises 1099511627776 bytes of data, .* has room for 88 at most"),
    "zero times too much": (struct.pack(">HBB4I", 0, 14, 4, 0, *[2**32 - 1] * 3), ""),
    "gzip, a tebibyte": (gzip.compress(HUGE), "promises 1099511627776 bytes"),
    "gzip, short": (gzip.compress(GOOD[:-1]), "ends after 23"),
    "gzip, over": (gzip.compress(GOOD + bytes(10**6)), "more bytes follow"),
    "gzip, magic alone": (GOOD_GZIP[:2], "damaged gzip data"),
    "gzip, cut": (GOOD_GZIP[:-9], "damaged gzip data: .*ended before"),
    "gzip, trailer cut": (GOOD_GZIP[:-1], "damaged gzip data: .*ended before"),
    "gzip, checksum": (GOOD_GZIP[:-8] + b"\1\2\3\4" + GOOD_GZIP[-4:], "damaged gzip data: CRC"),
    "gzip, method": (
        b"\x1f\x8b\7" + GOOD_GZIP[3:],
        "damaged gzip data: Unknown compression method",
    ),
    "gzip, block type": (
        GOOD_GZIP[:10] + b"\xff" + GOOD_GZIP[11:],
        "damaged gzip data: .*block type",
    ),
    "gzip, trailing text": (GOOD_GZIP + b"text", "damaged gzip data: Not a gzipped file"),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_named_and_explained(tmp_path, content, message):
    file = tmp_path / "broken-idx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken-idx: .*{message}"):
        read_idx(file)


def test_unreadable_path_stays_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "missing")
    with pytest.raises(OSError, match=tmp_path.name):
        read_idx(tmp_path)


@st.composite
def damaged(draw):
    """The bytes of an IDX file, plain or gzip, damaged before or after it was packed."""
    code = draw(st.sampled_from(sorted(CODES)))
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    content = bytearray(pack(np.full(shape, draw(st.integers(0, 100)), code)))
    if draw(st.booleans()):
        position = draw(st.integers(0, min(3 + 4 * len(shape), 20)))
        content[position] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        content = bytearray(gzip.compress(content, mtime=0))
    for bit in draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=4)):
        content[bit // 8] ^= 1 << bit % 8
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content) + draw(st.binary(max_size=8))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("idx") / "damaged"


@settings(deadline=None, max_examples=1000, suppress_health_check=list(HealthCheck))
@given(content=damaged())
def test_damage_is_refused_quickly_and_in_little_memory(scratch, content):
    scratch.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        array = read_idx(scratch)
    except ValueError as error:
        assert str(scratch) in str(error)  # noqa: PT017 - a valid array is as good an outcome
    else:
        assert array.size == np.prod(array.shape)
        assert array.dtype.str[1:] in CODES
    finally:
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < 1
    # The buffers of gzip and of the reader, and what deflate can make of the file.
    assert peak < 300 * 1024 + 1100 * len(content)
