"""The kernels of layers and data compiled, with the shapes of `Backend`; formulas: `base.py`."""

from typing import Any

import numpy as np
from numba import prange

from mlpkit.backends.pieces import columns_of, in_columns, in_rows, piece_of, stacked
from mlpkit.backends.threads import parallel, serial

# ---- bias and activation -------------------------------------------------------------------------


@serial
def _add_bias(z: Any, bias: Any) -> None:
    row = bias[0].copy()  # a member's lies in the flat vector, which the compiler does not know
    for n in range(z.shape[0]):
        for h in range(z.shape[1]):
            z[n, h] += row[h]


@parallel
def add_bias(threads: int, z: Any, bias: Any) -> None:
    """z += bias."""
    pieces, parts = in_rows(z, threads)
    if pieces == 1:
        _add_bias(piece_of(z, 0, parts), stacked(bias)[0])
    else:
        for i in prange(pieces):
            _add_bias(piece_of(z, i, parts), stacked(bias)[i // parts])


@serial
def _add_bias_relu(z: Any, bias: Any, y: Any) -> None:
    row, zero = bias[0].copy(), z.dtype.type(0)
    for n in range(z.shape[0]):
        for h in range(z.shape[1]):
            s = z[n, h] + row[h]
            z[n, h] = s
            y[n, h] = zero if s <= zero else s


@parallel
def add_bias_relu(threads: int, z: Any, bias: Any, y: Any) -> None:
    """z += bias and y = max(z, 0); NaN stays NaN."""
    pieces, parts = in_rows(z, threads)
    if pieces == 1:
        _add_bias_relu(piece_of(z, 0, parts), stacked(bias)[0], piece_of(y, 0, parts))
    else:
        for i in prange(pieces):
            _add_bias_relu(piece_of(z, i, parts), stacked(bias)[i // parts], piece_of(y, i, parts))


@serial
def _relu_gradient(i: int, parts: int, dy: Any, y: Any, dz: Any, dbias: Any) -> None:
    k, first, last = columns_of(y, i, parts)
    all_dy, all_y, all_dz = stacked(dy)[k], stacked(y)[k], stacked(dz)[k]
    total, zero, one = np.zeros(last - first, y.dtype), y.dtype.type(0), y.dtype.type(1)
    for n in range(len(all_y)):
        of_dy, of_y, of_dz = all_dy[n][first:last], all_y[n][first:last], all_dz[n][first:last]
        for h in range(len(total)):
            s = of_dy[h] * (one if of_y[h] > zero else zero)
            of_dz[h] = s
            total[h] += s
    stacked(dbias)[k, 0, first:last] = total


@parallel
def relu_gradient(threads: int, dy: Any, y: Any, dz: Any, dbias: Any) -> None:
    """dz = dy times 1 where y > 0 and 0 elsewhere, and its sum over the batch."""
    pieces, parts = in_columns(y, threads)
    if pieces == 1:
        _relu_gradient(0, parts, dy, y, dz, dbias)
    else:
        for i in prange(pieces):
            _relu_gradient(i, parts, dy, y, dz, dbias)


@serial
def _sum_rows(i: int, parts: int, dz: Any, dbias: Any) -> None:
    k, first, last = columns_of(dz, i, parts)
    own, total = stacked(dz)[k], np.zeros(last - first, dz.dtype)
    for n in range(len(own)):
        row = own[n][first:last]
        for h in range(len(total)):
            total[h] += row[h]
    stacked(dbias)[k, 0, first:last] = total


@parallel
def sum_rows(threads: int, dz: Any, dbias: Any) -> None:
    """The sum of dz over the batch."""
    pieces, parts = in_columns(dz, threads)
    if pieces == 1:
        _sum_rows(0, parts, dz, dbias)
    else:
        for i in prange(pieces):
            _sum_rows(i, parts, dz, dbias)


# ---- data ----------------------------------------------------------------------------------------


@serial
def _all_within(rows: Any, size: int) -> bool:
    for row in rows:  # noqa: SIM110  (a generator expression is not compiled)
        if not -size <= row < size:
            return False
    return True


@serial
def _gather(i: int, parts: int, data: Any, rows: Any, scale: float, out: Any) -> None:
    own, part, taken = stacked(data)[i // parts], i % parts, piece_of(out, i, parts)
    first, factor = len(rows) * part // parts, out.dtype.type(scale)
    for n in range(len(taken)):
        row = rows[first + n]
        source, target = own[row + len(own) if row < 0 else row], taken[n]
        for d in range(len(target)):
            target[d] = out.dtype.type(source[d]) * factor


@parallel
def gather(threads: int, data: Any, rows: Any, scale: float, out: Any) -> bool:
    """out = data at the rows, times scale; false where there is no such row."""
    if not _all_within(rows, data.shape[-2]):
        return False
    pieces, parts = in_rows(out, threads)
    if pieces == 1:
        _gather(0, parts, data, rows, scale, out)
    else:
        for i in prange(pieces):
            _gather(i, parts, data, rows, scale, out)
    return True
