"""Matrix products, cut into pieces that run side by side, each of them one call of OpenBLAS."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic

from mlpkit.backends.pieces import COLUMNS, count_parts
from mlpkit.backends.threads import parallel, serial

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # as in cblas.h
BLOCK = 8  # pieces are multiples of so many rows or columns, for the inner loop of the BLAS
GRAIN = 500_000  # multiplications that are worth a thread of their own
WEIGHTS = 1_000_000  # weights that are, for a single sample
INTEGER, INT, ADDRESS = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()


# ---- calls of functions of the BLAS, given by their addresses ------------------------------------


def _gemm_of(real: Any) -> Any:
    """A compiled function that calls cblas_?gemm for one type of numbers, C = A B."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, packed = arguments
        trans_a, trans_b, m, n, k, a, lda, b, ldb, c, ldc = unpack_tuple(builder, packed)
        # Integers of 64 bits also suit a BLAS that takes 32: it looks at their lower halves.
        kinds = [INTEGER] * 6 + [real, ADDRESS, INTEGER, ADDRESS, INTEGER, real, ADDRESS, INTEGER]
        gemm = ir.FunctionType(ir.VoidType(), kinds).as_pointer()
        a, b, c = (builder.inttoptr(at, ADDRESS) for at in (a, b, c))
        order = INTEGER(ROW_MAJOR)
        given = [order, trans_a, trans_b, m, n, k, real(1), a, lda, b, ldb, real(0), c, ldc]
        builder.call(builder.inttoptr(address, gemm), given)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def gemm(typing: Any, address: Any, numbers: Any) -> Any:
        return types.void(types.intp, types.UniTuple(types.intp, 11)), generate

    return gemm


@intrinsic  # type: ignore[untyped-decorator]
def _get_threads(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.inttoptr(arguments[0], ir.FunctionType(INT, []).as_pointer())
        return builder.sext(builder.call(function, []), INTEGER)

    return types.intp(types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _set_threads(typing: Any, address: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [INT]).as_pointer()
        function = builder.inttoptr(arguments[0], kind)
        builder.call(function, [builder.trunc(arguments[1], INT)])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_sgemm, _dgemm = _gemm_of(ir.FloatType()), _gemm_of(ir.DoubleType())


# ---- a product in pieces -------------------------------------------------------------------------


@serial
def _suits_blas(a: Any) -> Any:
    """Whether the matrices (..., M, N) lie in memory by rows, with nothing between the columns."""
    row, column, size = a.strides[-2], a.strides[-1], a.itemsize
    return column == size and row >= a.shape[-1] * size and row % size == 0


@serial
def _layout(a: Any) -> Any:
    """Address, distance in bytes from member to member, and from row to row; always of one type."""
    return a.ctypes.data, np.intp(0) if a.ndim == 2 else a.strides[0], a.strides[-2]


@serial
def _cut(size: int, part: int, parts: int) -> int:
    """Where part `part` of `parts` of 0..size begins."""
    return size if part == parts else size * part // parts // BLOCK * BLOCK


@serial
def _piece(i: int, parts: int, gemm: int, size: int, shape: Any, a: Any, b: Any, c: Any) -> None:
    """Piece i of all: a share of the rows of one member's C, or of its columns if it has more."""
    (m, n, k, transpose_a, transpose_b), member, part = shape, i // parts, i % parts
    (a_at, a_member, a_row), (b_at, b_member, b_row), (c_at, c_member, c_row) = a, b, c
    a_at, b_at, c_at = a_at + member * a_member, b_at + member * b_member, c_at + member * c_member
    if m >= n:
        first, last = _cut(m, part, parts), _cut(m, part + 1, parts)
        a_at += first * (size if transpose_a else a_row)
        c_at += first * c_row
        m = last - first
    else:
        first, last = _cut(n, part, parts), _cut(n, part + 1, parts)
        b_at += first * (b_row if transpose_b else size)
        c_at += first * size
        n = last - first
    if first == last:
        return
    numbers = (
        TRANSPOSED if transpose_a else PLAIN, TRANSPOSED if transpose_b else PLAIN,
        m, n, k, a_at, a_row // size, b_at, b_row // size, c_at, c_row // size,
    )  # fmt: skip
    if size == 4:
        _sgemm(gemm, numbers)
    else:
        _dgemm(gemm, numbers)


@parallel
def _pieces(
    threads: int, blas: Any, members: int, size: int, shape: Any, a: Any, b: Any, c: Any
) -> None:
    """All products, from the layouts of their operands: compiled once, whatever those are."""
    gemm, get_threads, set_threads = blas
    held = _get_threads(get_threads)
    m, n, k, _, _ = shape
    parts = count_parts(threads if held > 1 else 1, members, m * n * k, GRAIN)
    if held > 1:
        _set_threads(set_threads, 1)
    if members * parts == 1:
        _piece(0, parts, gemm, size, shape, a, b, c)
    else:
        for i in prange(members * parts):
            _piece(i, parts, gemm, size, shape, a, b, c)
    if held > 1:
        _set_threads(set_threads, held)


@serial
def product(
    threads: int, blas: Any, a: Any, b: Any, transpose_a: bool, transpose_b: bool, c: Any
) -> bool:
    """c = a b for (..., M, N); false, and nothing done, where shapes or memory do not suit BLAS.

    blas holds the addresses of gemm for this dtype, and of the functions that get and set the
    number of its threads.  It is held to one meanwhile, so only one product may run at a time; if
    it was set to one before, the product is not cut, either.
    """
    m, k = (a.shape[-1], a.shape[-2]) if transpose_a else (a.shape[-2], a.shape[-1])
    k_of_b, n = (b.shape[-1], b.shape[-2]) if transpose_b else (b.shape[-2], b.shape[-1])
    members = np.intp(1) if c.ndim == 2 else len(c)
    of_a, of_b = members if a.ndim == 2 else len(a), members if b.ndim == 2 else len(b)
    fit = m == c.shape[-2] and n == c.shape[-1] and k == k_of_b and of_a == of_b == members
    suit = _suits_blas(a) and _suits_blas(b) and _suits_blas(c)
    if not fit or not suit or m * n * k == 0:
        return False
    shape = m, n, k, int(transpose_a), int(transpose_b)
    _pieces(threads, blas, members, c.itemsize, shape, _layout(a), _layout(b), _layout(c))
    return True


# ---- one sample of one network: a pass over the weights, which BLAS does on one thread -----------


@serial
def _row_times_matrix(part: int, parts: int, x: Any, w: Any, y: Any) -> None:
    """A part of y (1, H) = x (1, D) w (D, H): some of the columns."""
    width = y.shape[1]
    first, last = width * part // parts, width * (part + 1) // parts
    total = np.zeros(last - first, y.dtype)
    for d in range(len(w)):
        x_d, row = x[0, d], w[d][first:last]
        for h in range(len(total)):
            total[h] += x_d * row[h]
    y[0, first:last] = total


@serial
def _column_times_row(part: int, parts: int, x: Any, dz: Any, dw: Any) -> None:
    """A part of dw (D, H) = x^T dz, for x (1, D) and dz (1, H): some of the rows."""
    for d in range(len(dw) * part // parts, len(dw) * (part + 1) // parts):
        x_d, row = x[0, d], dw[d]
        for h in range(len(row)):
            row[h] = x_d * dz[0, h]


@serial
def _of_one_sample(part: int, parts: int, a: Any, b: Any, transpose_a: bool, c: Any) -> None:
    if transpose_a:
        _column_times_row(part, parts, a, b, c)
    else:
        _row_times_matrix(part, parts, a, b, c)


@parallel
def one_sample(threads: int, a: Any, b: Any, transpose_a: bool, c: Any) -> bool:
    """As `product`, for a (1, D), and b (D, H) or, where a is transposed, (1, H)."""
    inner, rows = (1, a.shape[1]) if transpose_a else (a.shape[1], 1)
    if b.shape[0] != inner or c.shape[0] != rows or c.shape[1] != b.shape[1]:
        return False
    parts = count_parts(threads, 1, a.size * b.shape[1], WEIGHTS)
    if not transpose_a:
        parts = min(parts, max(1, b.shape[1] // COLUMNS))
    if parts == 1:
        _of_one_sample(0, parts, a, b, transpose_a, c)
    else:
        for part in prange(parts):
            _of_one_sample(part, parts, a, b, transpose_a, c)
    return True
