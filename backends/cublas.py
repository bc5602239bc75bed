"""Matrix products by cuBLAS, on handles of our own, which a CUDA graph can record.

CuPy refuses to use its own while a stream is recorded; in batched products it copies operands that
are transposed, and knows no TF32.  Formats and names: cublas_api.h.
"""

import ctypes
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

NUMBERS = {"f": 0, "d": 1}  # CUDA_R_32F and CUDA_R_64F, by the character of a dtype
# CUBLAS_COMPUTE_32F and its faster kin, which round float32 operands on their way into the tensor
# cores and sum in float32.
COMPUTE = {None: 68, "tf32": 77, "bfloat16": 75, "float16": 74}
COMPUTE_DOUBLE = 70
DEFAULT_ALGORITHM = -1
RECORDING = threading.RLock()  # one thread at a time
WORKSPACE = 32 << 20  # bytes, what the manual advises on Hopper


class CublasError(RuntimeError):
    """cuBLAS has refused a call; the message holds its status."""


def library() -> Any:
    """cuBLAS, wherever CuPy finds it."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


class Cublas:
    """A handle for one stream.

    It is given its workspace here, so that cuBLAS never allocates while the stream is recorded, and
    no other stream's products use the same one.
    """

    def __init__(self, cupy: Any, library: Any, stream: int) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        self._workspace = cupy.empty(WORKSPACE, "u1")
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))  # before the next
        workspace = ctypes.c_void_p(self._workspace.data.ptr), ctypes.c_size_t(WORKSPACE)
        self._call("cublasSetWorkspace_v2", self._handle, *workspace)

    def __del__(self) -> None:
        if self._handle and not sys.is_finalizing():  # when the driver may be gone
            with RECORDING:  # which it would end, for it waits for the whole device
                self._library.cublasDestroy_v2(self._handle)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CublasError(f"{name} has returned status {status}")

    def product(
        self,
        a: Any,
        b: Any,
        transpose_a: bool,
        transpose_b: bool,
        c: Any,
        precision: str | None,
    ) -> None:
        """c = a b for matrices by rows, (M, N) or (K, M, N); an operand without K is for all.

        cuBLAS takes matrices by columns, and so sees each one transposed: c^T = b^T a^T.
        """
        m, n = c.shape[-2:]
        k = a.shape[-2] if transpose_a else a.shape[-1]
        members = len(c) if c.ndim == 3 else 1
        double = c.dtype.char == "d"
        one, zero = ((ctypes.c_double if double else ctypes.c_float)(value) for value in (1, 0))
        compute = COMPUTE_DOUBLE if double else COMPUTE[precision]
        of_a, of_b, of_c = (self._operand(matrix) for matrix in (a, b, c))
        self._call(
            "cublasGemmStridedBatchedEx", self._handle,
            *map(ctypes.c_int, (transpose_b, transpose_a, n, m, k)),
            ctypes.byref(one), *of_b, *of_a, ctypes.byref(zero), *of_c,
            *map(ctypes.c_int, (members, compute, DEFAULT_ALGORITHM)),
        )  # fmt: skip

    def _operand(self, matrix: Any) -> tuple[Any, ...]:
        """Address, type, distance from row to row and from member to member."""
        size = matrix.itemsize
        row = max(matrix.strides[-2] // size, matrix.shape[-1])
        member = matrix.strides[0] // size if matrix.ndim == 3 else 0
        return (
            ctypes.c_void_p(matrix.data.ptr),
            ctypes.c_int(NUMBERS[matrix.dtype.char]),
            ctypes.c_int(row),
            ctypes.c_longlong(member),
        )


class Handles(threading.local):
    """The handles that each thread uses, by device and stream."""

    def __init__(self, cupy: Any, library: Any) -> None:
        self._cupy, self._library = cupy, library
        self._by_stream: dict[tuple[int, int], Cublas] = {}

    def _key(self) -> tuple[int, int]:
        return self._cupy.cuda.Device().id, self._cupy.cuda.get_current_stream().ptr

    def make(self) -> Cublas:
        """One for the current stream, which is not kept here."""
        return Cublas(self._cupy, self._library, self._key()[1])

    def current(self) -> Cublas:
        """That of the current stream."""
        key = self._key()
        if key not in self._by_stream:
            self._by_stream[key] = self.make()
        return self._by_stream[key]

    @contextmanager
    def using(self, handle: Cublas) -> Generator[None, None, None]:
        """With a handle for the current stream that somebody else keeps."""
        key = self._key()
        self._by_stream[key] = handle
        try:
            yield
        finally:
            del self._by_stream[key]
