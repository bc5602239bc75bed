"""The IDX format, in which MNIST is published, plain or packed by gzip.

A file is two zero bytes, a type code, the number of axes, the length of each axis as a big-endian
unsigned 32-bit integer, and then the elements, big-endian, the last axis fastest.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
# Deflate spends at least two bits on 258 bytes, so it unpacks to at most 1032 times its size.
MAX_EXPANSION = 1032
MAX_AXES = 64  # of a NumPy array
CHUNK = 1 << 16


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array in an IDX file.

    Parameters
    ----------
    path : file, plain or gzip; its first two bytes decide which, not its name.

    Returns
    -------
    A writable array in C order that owns its memory; uint8, int8, int16, int32, float32 or float64
    in native byte order, as the file says.

    Raises
    ------
    ValueError
        The file is not well-formed; the message names it and what is wrong. A length that the file
        cannot hold is refused before any memory is taken for it.
    OSError
        The file cannot be read.
    """
    try:
        with unpacked(path) as (stream, limit):
            return _parse(stream, limit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def unpacked(path: str | Path) -> Iterator[tuple[BufferedIOBase, int]]:
    """The content of a file, gzip taken off, and a bound on its number of bytes.

    Damage to the gzip layer met inside the `with` block comes out of it as a ValueError.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not packed:
            yield file, size
            return
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream, MAX_EXPANSION * size
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"damaged gzip data: {error}") from error


def _parse(stream: BufferedIOBase, limit: int) -> NDArray[Any]:
    zeros, code, axes = struct.unpack(">HBB", _read_header(stream, 4))
    if zeros != 0:
        raise ValueError(
            f"an IDX file begins with two zero bytes, got {zeros.to_bytes(2).hex(' ')}"
        )
    if code not in DTYPES:
        known = ", ".join(f"{each:#04x}" for each in DTYPES)
        raise ValueError(f"unknown type code {code:#04x}, expected one of {known}")
    if not 1 <= axes <= MAX_AXES:
        raise ValueError(f"expected 1 to {MAX_AXES} axes, got {axes}")
    shape = struct.unpack(f">{axes}I", _read_header(stream, 4 * axes))

    dtype = np.dtype(DTYPES[code])
    expected = math.prod(shape) * dtype.itemsize
    claim = f"the header promises {expected} bytes of data, shape {shape}"
    room = limit - 4 - 4 * axes
    if expected > room:
        raise ValueError(f"{claim}; the file has room for {room} at most")
    data = bytearray()  # grows with what is there, not with what was promised
    while chunk := stream.read(min(CHUNK, expected + 1 - len(data))):
        data += chunk
    if len(data) < expected:
        raise ValueError(f"{claim}; the file ends after {len(data)}")
    if len(data) > expected:
        raise ValueError(f"{claim}; more bytes follow")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_header(stream: BufferedIOBase, size: int) -> bytes:
    header = stream.read(size)
    if len(header) < size:
        raise ValueError(
            f"the file ends inside its header: expected {size} bytes, got {len(header)}"
        )
    return header
