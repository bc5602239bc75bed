"""Matrix products by cuBLAS, on handles of our own, which a CUDA graph can record.

CuPy refuses to use its own while a stream is recorded; in batched products it copies operands that
are transposed, and knows no TF32.  Formats and names: cublas_api.h.
"""

import ctypes
import threading
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

DATA_TYPES = {"f": 0, "d": 1}  # CUDA_R_32F and CUDA_R_64F, by the character of a dtype
# CUBLAS_COMPUTE_32F and its faster kin, which round float32 operands on their way into the tensor
# cores and sum in float32.
COMPUTE = {None: 68, "tf32": 77, "bfloat16": 75, "float16": 74}
COMPUTE_DOUBLE = 70
DEFAULT_ALGORITHM = -1
WORKSPACE = 32 << 20  # bytes, what the manual advises on Hopper


class CublasError(RuntimeError):
    """cuBLAS has refused a call; the message holds its status."""


def library() -> Any:
    """cuBLAS, wherever CuPy finds it."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


class Cublas:
    """A handle, for one stream at a time.

    It is given its workspace here, so that cuBLAS never allocates while the stream is recorded, and
    no other stream's products use the same one.

    Parameters
    ----------
    free : handles of the device that nobody uses; it comes from there, and goes back.  Destroying
        one waits for the whole device, which would invalidate a recording on any of its streams.
    """

    def __init__(self, cupy: Any, library: Any, free: list[Any]) -> None:
        self._cupy, self._library, self._free = cupy, library, free
        self._stream: int | None = None
        self._handle: Any = None
        try:
            self._handle = free.pop()
        except IndexError:
            self._handle = self._created()

    def __del__(self) -> None:
        if self._handle is not None:
            self._free.append(self._handle)

    def _created(self) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(handle))
        return handle

    def bind(self, stream: int) -> None:
        """Let products run on a stream, with a workspace of its memory."""
        if stream == self._stream:
            return
        self._stream = None  # until all of it has succeeded
        self._workspace = self._cupy.empty(WORKSPACE, "u1")
        address = ctypes.c_void_p(self._workspace.data.ptr)
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        # After the stream, which resets it.
        self._call("cublasSetWorkspace_v2", self._handle, address, ctypes.c_size_t(WORKSPACE))
        self._stream = stream

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
            ctypes.c_int(DATA_TYPES[matrix.dtype.char]),
            ctypes.c_int(row),
            ctypes.c_longlong(member),
        )


class Handles:
    """The handle of each thread on each device."""

    def __init__(self, cupy: Any, library: Any) -> None:
        self._cupy, self._library = cupy, library
        self._free: dict[int, list[Any]] = defaultdict(list)
        self._own = threading.local()

    def make(self) -> Cublas:
        """One more, for the current device and stream."""
        handle = Cublas(self._cupy, self._library, self._free[self._device()])
        handle.bind(self._stream())
        return handle

    def current(self) -> Cublas:
        """That of this thread, for the current device and stream."""
        by_device, device = self._of_thread(), self._device()
        if device not in by_device:
            by_device[device] = self.make()
        by_device[device].bind(self._stream())
        return by_device[device]

    @contextmanager
    def using(self, handle: Cublas) -> Generator[None, None, None]:
        """With another handle for this thread on the current device."""
        by_device, device = self._of_thread(), self._device()
        before = by_device.get(device)
        by_device[device] = handle
        try:
            yield
        finally:
            del by_device[device]
            if before is not None:
                by_device[device] = before

    def _of_thread(self) -> dict[int, Cublas]:
        handles: dict[int, Cublas] = vars(self._own).setdefault("by_device", {})
        return handles

    def _device(self) -> int:
        return int(self._cupy.cuda.Device().id)

    def _stream(self) -> int:
        return int(self._cupy.cuda.get_current_stream().ptr)
