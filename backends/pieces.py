"""How compiled kernels cut arrays into pieces, which run side by side.

On as many threads as are given, and a single piece on the caller's, for to begin on the pool takes
longer than a small kernel.  A sum over the batch is taken in the same order by one piece or by
many, so that the number of threads changes no digit.
"""

from typing import Any

import numpy as np

from mlpkit.backends.threads import serial

GRAIN = 65_536  # elements that are worth a thread of their own
COLUMNS = 64  # of a piece of a sum over the batch, at least


@serial
def stacked(a: Any) -> Any:
    """(K, N, H) of (..., N, H), (1, 1, H) of (H,).

    The compiler has to see that the elements of a row are neighbours, so that it uses vectors: they
    are in a[k] and in a[k][n][first:last], not in a[:, first:last] or after `expand_dims`.
    """
    if a.ndim == 1:
        return a[np.newaxis, np.newaxis]
    if a.ndim == 2:
        return a[np.newaxis]
    return a


@serial
def flat(a: Any) -> Any:
    """(K, S) of (K, S) or (S,)."""
    if a.ndim == 1:
        return a[np.newaxis]
    return a


@serial
def of_member(setting: Any, k: int) -> Any:
    """A setting (1,) for all members or (K,), of one of them."""
    return setting[k % len(setting)]


@serial
def count_parts(threads: int, members: int, size: int, grain: int) -> int:
    """Parts of one member's share, of `size`, so that all threads have work that is worth it."""
    return max(1, -(-min(threads, members * size // grain) // members))


@serial
def in_rows(a: Any, threads: int) -> tuple[int, int]:
    """How many pieces (..., N, H) is cut into, and how many of them one member, by its rows."""
    members, rows, width = stacked(a).shape
    parts = count_parts(threads, members, rows * width, GRAIN)
    return members * parts, parts


@serial
def in_columns(a: Any, threads: int) -> tuple[int, int]:
    """How many pieces (..., N, H) is cut into, and how many of them one member, by its columns."""
    members, rows, width = stacked(a).shape
    parts = count_parts(threads, members, rows * width, GRAIN)
    parts = min(parts, max(1, width // COLUMNS))
    return members * parts, parts


@serial
def piece_of(a: Any, i: int, parts: int) -> Any:
    """Piece i of (..., N, H), some of the rows of one member."""
    own, part = stacked(a)[i // parts], i % parts
    return own[len(own) * part // parts : len(own) * (part + 1) // parts]


@serial
def columns_of(a: Any, i: int, parts: int) -> tuple[int, int, int]:
    """Piece i of (..., N, H): a member, and the first and the last of its columns."""
    width, part = a.shape[-1], i % parts
    return i // parts, width * part // parts, width * (part + 1) // parts
