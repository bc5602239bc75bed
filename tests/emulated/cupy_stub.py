"""A stand-in for CuPy: arrays in host memory, kernels on the CPU, and what recording may break.

It has what `backends/cuda.py` and the Array API need of CuPy, and keeps its rules.  While a stream
is recorded nothing runs, results hold garbage, and a read on the host is an error.  A replay finds
its arrays by their addresses, and numbers as they were.  Memory is filled with garbage when it is
handed out, has a margin on both sides that nobody may write to, and goes back where it came from.
"""

import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import array_api_compat
import numpy as np

from emulated.arrays import allocate, ndarray, no_reading, plain, run
from emulated.libraries import CublasLibrary, RawModule
from emulated.memory import Memory, MemoryPointer, MemoryPool, using_allocator
from emulated.streams import Stream, current_stream
from mlpkit.backends.cuda import CuPyBackend


class Namespace(ModuleType):
    """The functions of NumPy's namespace, which is the Array API's, on arrays of the device."""

    ndarray = ndarray

    def __getattr__(self, name):
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **settings: run(found, arguments, settings)

    @staticmethod
    def empty(shape, dtype=float):
        return allocate(shape, dtype)

    @staticmethod
    def empty_like(array):
        return allocate(array.shape, array.dtype)

    @staticmethod
    def asarray(values, dtype=None, copy=None):
        if isinstance(values, ndarray):
            if dtype in (None, values.dtype) and not copy:
                return values
            return values.astype(dtype or values.dtype)
        no_reading()  # nor writing: a transfer
        host = np.asarray(values, dtype=dtype)
        array = allocate(host.shape, host.dtype)
        plain(array)[...] = host
        return array

    @staticmethod
    def ascontiguousarray(array):
        return array if array.flags.c_contiguous else run(np.array, (array,), {"order": "C"})

    @staticmethod
    def asnumpy(array):
        return array.get() if isinstance(array, ndarray) else np.asarray(array)

    isdtype = staticmethod(np.isdtype)


def sign(a):
    """As array-api-compat has it for CuPy."""
    found = run(np.sign, (a,), {})
    found[run(np.isnan, (a,), {})] = np.nan
    return found


def backend():
    """A CuPyBackend on the stand-in, which is where CuPy is looked for while that is made."""
    cupy, namespace = Namespace("cupy"), Namespace("array_api_compat.cupy")
    cuda = ModuleType("cupy.cuda")
    cuda.runtime = SimpleNamespace(getDevice=lambda: 0)
    cuda.Device = lambda: SimpleNamespace(id=0)
    cuda.Stream, cuda.MemoryPool = Stream, MemoryPool
    cuda.Memory, cuda.MemoryPointer = Memory, MemoryPointer
    cuda.using_allocator, cuda.get_current_stream = using_allocator, current_stream
    cupy.__version__, cupy.cuda, cupy.RawModule = "stand-in", cuda, RawModule
    vars(namespace).update({name: getattr(namespace, name) for name in dir(np)} | {"sign": sign})
    modules = {"cupy": cupy, "cupy.cuda": cuda, "array_api_compat.cupy": namespace}
    with (
        patch.dict(sys.modules, modules),
        patch.object(array_api_compat, "cupy", namespace, create=True),
        patch("mlpkit.backends.cuda.library", CublasLibrary),
    ):
        return CuPyBackend()
