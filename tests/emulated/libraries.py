"""What the stand-in for CuPy launches: kernels by the shim, products of cuBLAS by NumPy."""

import itertools

import numpy as np

from emulated import emulator
from emulated.arrays import Address, ndarray, no_reading
from emulated.memory import state
from emulated.streams import current_stream


class RawModule:
    build = staticmethod(emulator.build)

    def __init__(self, code, options):
        macros = dict(o[2:].split("=", 1) for o in options if o.startswith("-D"))
        self.library = self.build(code, macros)

    def get_function(self, name):
        return lambda grid, block, arguments: launch(self.library, name, grid, block, arguments)


SEEDS = iter(range(10**9))


def launch(library, name, grid, block, arguments):
    grid = tuple(max(1, size) for size in grid)  # as CuPy does
    if max(grid[1:], default=1) > 65_535 or np.prod(block) > 1024:
        raise ValueError(f"a grid of {grid}, blocks of {block}")
    values = []
    for argument in arguments:
        if isinstance(argument, ndarray):
            argument = np.uintp(argument.ctypes.data)
        elif isinstance(argument, bool):
            raise TypeError("a bool is one byte for CuPy")
        elif isinstance(argument, int):
            argument = np.int64(argument)
        values.append(np.array(argument))

    def node():
        emulator.launch(library, name, grid, block, values, seed=next(SEEDS))

    if state.recording is None:
        node()
    else:
        state.recording.append(node)


class CublasLibrary:
    """The functions of cuBLAS that `backends/cublas.py` calls, on NumPy."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.handles = {}  # the stream of each, and its workspace

    def cublasCreate_v2(self, handle):  # noqa: N802
        no_reading()
        handle._obj.value = next(self.numbers)
        self.handles[handle._obj.value] = 0, None
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self.handles[handle.value] = stream.value or 0, None
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, size):  # noqa: N802
        stream, _ = self.handles[handle.value]
        self.handles[handle.value] = stream, workspace.value
        return 0

    def cublasGemmStridedBatchedEx(  # noqa: N802
        self, handle, transpose_a, transpose_b, m, n, k, alpha, a, type_a, lda, stride_a,
        b, type_b, ldb, stride_b, beta, c, type_c, ldc, stride_c, count, compute, algorithm,
    ):  # fmt: skip
        """C = A B by columns, as documented for cublasGemmStridedBatchedEx."""
        stream, workspace = self.handles[handle.value]
        if stream != current_stream().ptr or workspace is None:
            return 1
        dtype = np.dtype({0: "f", 1: "d"}[type_a.value])
        if compute.value not in {"f": (68, 74, 75, 77), "d": (70,)}[dtype.char]:
            return 15
        m, n, k, count = m.value, n.value, k.value, count.value

        def matrices(at, rows, columns, distance, member):
            if distance.value < rows:
                return None
            address = Address(np.empty(0))
            address.ptr, address.dtype = at.value, dtype
            address.shape = count, rows, columns
            steps = member.value, 1, distance.value
            address.strides = tuple(dtype.itemsize * step for step in steps)
            return address

        of_a = matrices(a, *((k, m) if transpose_a.value else (m, k)), lda, stride_a)
        of_b = matrices(b, *((n, k) if transpose_b.value else (k, n)), ldb, stride_b)
        of_c = matrices(c, m, n, ldc, stride_c)
        if None in (of_a, of_b, of_c):
            return 7

        def node():
            A, B = of_a.array(), of_b.array()
            A, B = A.mT if transpose_a.value else A, B.mT if transpose_b.value else B
            of_c.array()[...] = A @ B

        if state.recording is None:
            node()
        else:
            state.recording.append(node)
        return 0
