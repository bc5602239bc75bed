"""Who may use the cores: one pool of threads, whatever runs.

Two pools in one step fight: the idle threads of each spin while the other works.  So compiled
kernels and matrix products share one pool.  It is TBB's, whose idle threads sleep, and where a
thread of the pool does not come, the caller does its piece itself: where other programs keep the
cores busy, a step suffers less than on OpenBLAS's pool, whose threads wait for each other.
OpenBLAS computes the pieces of a product, held to one thread meanwhile (`product.py`).  That number
is the process's: another thread that reads it then, as `threadpoolctl.threadpool_limits` does to
restore it later, finds 1.

Without TBB, or with another BLAS, the compiled kernels run on the caller's thread, and products on
the pool of the BLAS, as they do without Numba.

`python -m benchmarks.threads` compares the policies, `benchmarks/results/threads_cpu.json` holds
what it gave.
"""

import ctypes
import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


class Blas(NamedTuple):
    """Addresses of functions of the OpenBLAS that NumPy uses, for calls from compiled code."""

    sgemm: int
    dgemm: int
    get_num_threads: int
    set_num_threads: int

    def by_dtype(self) -> dict[Any, tuple[int, int, int]]:
        """For float32 and float64: gemm, and how to get and set the number of threads."""
        pool = self.get_num_threads, self.set_num_threads
        return {np.dtype("f"): (self.sgemm, *pool), np.dtype("d"): (self.dgemm, *pool)}


def openblas() -> Blas | None:
    """NumPy's OpenBLAS; None where it uses another library, or one with the threads of OpenMP.

    Those have a number of threads for each caller, so that it cannot be held to one.
    """
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    beside = str(Path(np.__file__).resolve().parent)  # as in numpy.libs, or within numpy
    of_numpy = [lib for lib in found if lib.filepath.startswith(beside)] or found
    if len(of_numpy) != 1 or of_numpy[0].threading_layer != "pthreads":
        return None
    library = ctypes.CDLL(of_numpy[0].filepath)
    for prefix, suffix in ("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""):
        names = "cblas_sgemm", "cblas_dgemm", "openblas_get_num_threads", "openblas_set_num_threads"
        try:
            functions = [getattr(library, prefix + name + suffix) for name in names]
        except AttributeError:
            continue
        return Blas(*(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions))
    return None


def runs_on_tbb() -> bool:
    """Whether Numba's kernels run on TBB, which is looked for where pip puts it, too."""
    with suppress(importlib.metadata.PackageNotFoundError, OSError):
        for file in importlib.metadata.files("tbb") or []:
            if file.name in ("libtbb.so.12", "libtbb.12.dylib", "tbb12.dll"):
                ctypes.CDLL(str(file.locate()), ctypes.RTLD_GLOBAL)
    try:
        numba.get_num_threads()  # Numba chooses now
        return bool(numba.threading_layer() == "tbb")
    except ValueError:  # it has none, or none that the user's setting allows
        return False


class Threads(NamedTuple):
    """How many threads compiled kernels use, and the BLAS whose products run on them, too."""

    number: int
    blas: Blas | None

    def __str__(self) -> str:
        if self.blas is None:
            return "compiled kernels on one, matrix products on the pool of the BLAS"
        pool = "one" if self.number == 1 else f"{self.number}, in one pool (TBB)"
        return f"{pool}, for compiled kernels and matrix products"


def find_threads() -> Threads:
    """The policy on this machine: as many threads as Numba and the BLAS both were set to."""
    blas = openblas() if runs_on_tbb() else None
    if blas is None:
        return Threads(1, None)
    of_blas: Any = ctypes.CFUNCTYPE(ctypes.c_int)(blas.get_num_threads)
    return Threads(min(numba.get_num_threads(), of_blas()), blas)


THREADS = find_threads()


def serial(function: Callable[..., Any]) -> Any:
    """Compiled."""
    return _compiled(function, parallel=False)


def parallel(function: Callable[..., Any]) -> Any:
    """Compiled, its `prange` on the pool where there is one."""
    pooled = THREADS.number > 1
    if not pooled:
        function.__qualname__ += "_on_one_thread"  # the name that the compilation is kept under
    return _compiled(function, parallel=pooled)


def _compiled(function: Callable[..., Any], parallel: bool) -> Any:
    """Kept on the disk where there is a place for it, until the function's own file changes.

    Whoever changes a function that another file's kernels call removes `__pycache__`.
    """
    options = {"nogil": True, "error_model": "numpy", "parallel": parallel}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(**options)(function)
