"""Threefry compiled: random words, and dropout without the words in memory."""

from typing import Any

import numpy as np
from numba import prange

from mlpkit.backends.pieces import count_parts, flat, of_member, stacked
from mlpkit.backends.threads import parallel, serial
from mlpkit.backends.threefry import PARITY, ROTATIONS

WORDS = 8_192  # pairs of words that are worth a thread of their own


@serial
def _rotate_four(x0: Any, x1: Any, rotations: Any) -> Any:
    for r in rotations:
        x0 = np.uint32(x0 + x1)
        x1 = np.uint32(np.uint32(x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
    return x0, x1


@serial
def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> Any:
    """`threefry2x32` in uint32, which wraps round by itself."""
    k2 = np.uint32(k0 ^ k1 ^ np.uint32(PARITY))
    x0, x1 = np.uint32(x0 + k0), np.uint32(x1 + k1)
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(1))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[1])
    x0, x1 = np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(2))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    x0, x1 = np.uint32(x0 + k0), np.uint32(x1 + k1 + np.uint32(3))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[1])
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(4))
    x0, x1 = _rotate_four(x0, x1, ROTATIONS[0])
    return np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(5))


@serial
def _in_pairs(members: int, pairs: int, threads: int) -> Any:
    """How many pieces the pairs of words are cut into, and how many of them one member's."""
    parts = count_parts(threads, members, pairs, WORDS)
    return members * parts, parts


@serial
def _words(i: int, parts: int, keys: Any, step: int, out: Any) -> None:
    key, words, counter = flat(keys)[i // parts], stacked(out)[i // parts], np.uint32(step)
    k0, k1, part = np.uint32(key[0]), np.uint32(key[1]), i % parts
    for pair in range(len(words) * part // parts, len(words) * (part + 1) // parts):
        words[pair, 0], words[pair, 1] = _threefry(k0, k1, np.uint32(pair), counter)


@parallel
def words(threads: int, keys: Any, step: int, out: Any) -> None:
    """`Backend.random_bits` into out (pairs, 2) or (K, pairs, 2), uint32."""
    pieces, parts = _in_pairs(len(stacked(out)), out.shape[-2], threads)
    if pieces == 1:
        _words(0, parts, keys, step, out)
    else:
        for i in prange(pieces):
            _words(i, parts, keys, step, out)


@serial
def _dropout(
    i: int, parts: int, keys: Any, step: int, threshold: Any, scale: Any, x: Any, y: Any, mask: Any
) -> None:
    k, part = i // parts, i % parts
    key, counter, given, kept, m = flat(keys)[k], np.uint32(step), x[k % len(x)], y[k], mask[k]
    k0, k1, pairs = np.uint32(key[0]), np.uint32(key[1]), len(m) // 2
    least, factor, zero = of_member(threshold, k), of_member(scale, k), m.dtype.type(0)
    for pair in range(pairs * part // parts, pairs * (part + 1) // parts):
        x0, x1 = _threefry(k0, k1, np.uint32(pair), counter)
        m[2 * pair] = factor if x0 >= least else zero
        m[2 * pair + 1] = factor if x1 >= least else zero
        kept[2 * pair] = given[2 * pair] * m[2 * pair]
        kept[2 * pair + 1] = given[2 * pair + 1] * m[2 * pair + 1]
    if part == parts - 1 and len(m) % 2:
        x0, _ = _threefry(k0, k1, np.uint32(pairs), counter)
        m[len(m) - 1] = factor if x0 >= least else zero
        kept[len(m) - 1] = given[len(m) - 1] * m[len(m) - 1]


@parallel
def dropout(
    threads: int, keys: Any, step: int, threshold: Any, scale: Any, x: Any, y: Any, mask: Any
) -> None:
    """`Backend.dropout` of x (1, S) or (K, S) into y and mask (K, S)."""
    pieces, parts = _in_pairs(len(y), y.shape[-1] // 2, threads)
    if pieces == 1:
        _dropout(0, parts, keys, step, threshold, scale, x, y, mask)
    else:
        for i in prange(pieces):
            _dropout(i, parts, keys, step, threshold, scale, x, y, mask)
