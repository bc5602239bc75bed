"""Threefry-2x32 with 20 rounds: the counter-based generator behind every random number.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011. It only adds, rotates and xors, so it runs on every array library, in any integer that
holds 64 bits, and gives the same bits on each.
"""

from typing import Any

WORD = 0xFFFFFFFF
PARITY = 0x1BD11BDA
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Encrypt the counter under the key: two 32-bit words in, two out.

    Each word is a Python int or an int64 array with values in [0, 2**32), and the four broadcast
    against each other.  A sum is masked back to 32 bits at once, so nothing ever overflows.
    """
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0 = (counter[0] + k0) & WORD
    x1 = (counter[1] + k1) & WORD
    for group in range(5):
        for r in ROTATIONS[group % 2]:
            x0 = (x0 + x1) & WORD
            x1 = (((x1 << r) | (x1 >> (32 - r))) & WORD) ^ x0
        x0 = (x0 + schedule[(group + 1) % 3]) & WORD
        x1 = (x1 + schedule[(group + 2) % 3] + (group + 1)) & WORD
    return x0, x1
