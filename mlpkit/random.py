"""Random numbers as a pure function of (seed, purpose, step, element).

There is no generator with a hidden state: a key stands for (seed, purpose, index), and every number
under it is found by its step and its position.  The same key gives the same bits on every backend,
nothing but counts has to be saved, and two purposes or two seeds never share numbers.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array, Backend
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.threefry import WORD, threefry2x32

Key = tuple[int, int]

_host = NumPyBackend()


class Purpose(IntEnum):
    """What a stream is for.  The numbers are part of the result: never renumber them."""

    WEIGHTS = 0
    DROPOUT = 1
    ORDER = 2
    DIGITS = 3
    CHECK = 4
    BUFFERS = 5


def make_key(seed: int, purpose: Purpose, index: int = 0) -> Key:
    """The key of stream `index` (a layer, say) of one purpose under a seed in [0, 2**64)."""
    return threefry2x32((seed & WORD, seed >> 32), (int(purpose), index))


def inner_key(key: Key, index: int) -> Key:
    """The key of stream `index` among those within the stream of `key`."""
    return threefry2x32(key, (index, WORD))  # no step of the stream itself is as high


def check_seed(seed: Any) -> int:
    """`seed` as an int, or a ValueError that says what came."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"a seed is an integer in [0, 2**64), got {seed!r}")
    return int(seed)


def member_seeds(seed: Any, members: int | None) -> list[int]:
    """One seed per member."""
    if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
        if len(seed) != members:
            raise ValueError(f"got {len(seed)} seeds, but members={members}")
        return [check_seed(s) for s in seed]
    return [check_seed(check_seed(seed) + k) for k in range(members or 1)]


def uniform(key: Key, size: int, step: int = 0) -> NDArray[np.float64]:
    """`size` float64 numbers in the open interval (0, 1), on the host."""
    bits = _host.random_bits(np.asarray(key), np.asarray(step), size)
    return (bits + 0.5) * 2.0**-32  # type: ignore[no-any-return]


def normal(key: Key, size: int, step: int = 0) -> NDArray[np.float64]:
    """`size` float64 standard normal numbers, on the host, by the Box-Muller transform."""
    pairs = (size + 1) // 2
    u = uniform(key, 2 * pairs, step)
    radius = np.sqrt(-2.0 * np.log(u[:pairs]))
    angle = 2.0 * np.pi * u[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def shuffled(backend: Backend, key: Array, step: Array, n: int) -> Array:
    """A permutation of 0..n-1 (n,), int64 on the device: the stable order of n random words."""
    words = backend.random_bits(key, step, n)
    return backend.xp.argsort(words, stable=True)


def drawn(backend: Backend, key: Array, step: Array, bounds: Array) -> Array:
    """n numbers of 0..n-1 (n,), int64 on the device, drawn with replacement.

    Number i has the share of 2**32 that lies between bounds[i - 1] and bounds[i], which (n,) rise
    from 0 or more to 2**32.
    """
    xp = backend.xp
    words = xp.astype(backend.random_bits(key, step, bounds.shape[0]), xp.int64)
    return xp.astype(xp.searchsorted(bounds, words, side="right"), xp.int64)
