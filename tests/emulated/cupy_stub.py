"""A stand-in for CuPy: arrays in host memory, kernels on the CPU, and what recording may break.

It has what `backends/cuda.py` and the Array API need of CuPy, and keeps its rules.  While a stream
is recorded nothing runs, results hold garbage, and a read on the host is an error.  A replay finds
its arrays by their addresses, and numbers as they were.  Memory is filled with garbage when it is
handed out, has a margin on both sides that nobody may write to, and goes back where it came from.
"""

import ctypes
import sys
import threading
import weakref
from collections import defaultdict
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import array_api_compat
import numpy as np

from emulated import emulator
from mlpkit.backends.cuda import CuPyBackend

MARGIN = 64  # bytes
GARBAGE = 0xFF  # as float: NaN


# ---- memory --------------------------------------------------------------------------------------


class MemoryPool:
    """Memory by addresses; what is given back is handed out again."""

    def __init__(self):
        self.free = defaultdict(list)  # by size
        self.blocks = {}  # address -> the array that it lies in

    def malloc(self, size):
        if self.free[size]:
            address = self.free[size].pop()
        else:
            block = np.full(size + 2 * MARGIN, GARBAGE, np.uint8)
            address = block.ctypes.data + MARGIN
            self.blocks[address] = block
        ctypes.memset(address, GARBAGE, size)
        memory = (ctypes.c_char * size).from_address(address)
        memory.pool = self
        weakref.finalize(memory, self.free[size].append, address)
        return memory

    def check(self):
        """Raise where a margin has been written to."""
        for block in self.blocks.values():
            edges = block[:MARGIN], block[-MARGIN:]
            if any((edge != GARBAGE).any() for edge in edges):
                raise AssertionError("a kernel has written outside its arrays")


class State(threading.local):
    """Of each thread."""

    def __init__(self):
        self.streams = [DEFAULT_STREAM]
        self.allocators = [DEFAULT_POOL.malloc]
        self.recording = None  # the nodes of a graph


DEFAULT_POOL = MemoryPool()


def allocate(shape, dtype):
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = state.allocators[-1](max(1, size))
    return np.frombuffer(memory, np.uint8)[:size].view(dtype).reshape(shape).view(ndarray)


# ---- arrays --------------------------------------------------------------------------------------


class ndarray(np.ndarray):  # noqa: N801
    """An array on the device."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self):
        no_reading()
        return np.array(self)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        function = getattr(ufunc, method)
        if out is not None:
            settings["out"] = out[0]
        return run(function, inputs, settings)

    def __array_function__(self, function, types, arguments, settings):
        return run(function, arguments, settings)

    def __setitem__(self, index, value):
        target = plain(self)[index]
        if not isinstance(target, np.ndarray):  # one element
            target = plain(self)[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        if target.size:
            assert np.may_share_memory(target, plain(self)), "the stand-in writes through views"
            run(np.copyto, (target.view(ndarray), value), {})

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if any(getattr(i, "dtype", None) == np.bool or isinstance(i, list) for i in index):
            no_reading()  # the shape depends on values; or the index is uploaded
        if Ellipsis not in index:
            index = (*index, ...)  # an array also where it has no axes
        return run(np.ndarray.__getitem__, (self, index), {})


def method_of(name):
    def method(self, *arguments, **settings):
        return run(getattr(np.ndarray, name), (self, *arguments), settings)

    return method


METHODS = (
    "astype copy sum max min mean all any argmax argsort cumsum take prod clip std var dot repeat"
)
for name in METHODS.split():
    setattr(ndarray, name, method_of(name))


def reading(name):
    def method(self, *arguments):
        no_reading()
        return getattr(plain(self), name)(*arguments)

    return method


for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist"):
    setattr(ndarray, name, reading(name))


def no_reading():
    if state.recording is not None:
        raise RuntimeError("an array is read on the host while a stream is recorded")


def plain(value):
    """A value, and those in a list, as NumPy knows it."""
    if isinstance(value, ndarray):
        return value.view(np.ndarray)
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value


def run(function, arguments, settings):
    """Call a function of NumPy's on arrays of the device; record it where a stream is recorded."""
    out = settings.get("out")
    target = arguments[0] if function is np.copyto else out
    if any(type(value) is np.ndarray and value.ndim for value in (*arguments, *settings.values())):
        raise TypeError(f"{function.__name__}: an array of NumPy's is not on the device")
    if function in (np.stack, np.concatenate):
        no_reading()  # CuPy uploads the addresses of what it puts together
    if target is not None:
        if state.recording is None:
            function(*plain(arguments), **plain_values(settings))
        else:
            record(function, arguments, settings)
        return out
    known = [plain(value) for value in arguments]
    with np.errstate(all="ignore"):  # while recording it is garbage: for its shape and dtype
        result = function(*known, **plain_values(settings))
    for value, own in zip(arguments, known, strict=True):
        if result is own:
            return value
    return on_device(result, function, arguments, settings)


def plain_values(settings):
    return {name: plain(value) for name, value in settings.items()}


def on_device(result, function, arguments, settings):
    if not isinstance(result, np.ndarray | np.generic | bool):
        return result
    owners = [plain(value) for value in arguments if isinstance(value, ndarray)]
    if isinstance(result, np.ndarray) and any(np.may_share_memory(result, a) for a in owners):
        return result.view(ndarray)  # a view of it
    new = allocate(np.shape(result), np.asarray(result).dtype)
    if state.recording is None:
        plain(new)[...] = result
    else:
        record(function, arguments, settings, new)
    return new


# ---- streams and graphs --------------------------------------------------------------------------


class Address:
    """An array as a graph knows it."""

    def __init__(self, array):
        self.ptr, self.shape = array.ctypes.data, array.shape
        self.strides, self.dtype = array.strides, array.dtype

    def array(self):
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        size = reach + self.dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.ptr)
        return np.ndarray(self.shape, self.dtype, memory, strides=self.strides)


def frozen(value):
    if isinstance(value, ndarray):
        return Address(value)
    if isinstance(value, list | tuple):
        return type(value)(map(frozen, value))
    return value


def thawed(value):
    if isinstance(value, Address):
        return value.array()
    if isinstance(value, list | tuple):
        return type(value)(map(thawed, value))
    return value


def record(function, arguments, settings, result=None):
    arguments = frozen(arguments)
    settings = {name: frozen(value) for name, value in settings.items()}
    result = None if result is None else Address(result)

    def node():
        found = function(
            *thawed(arguments), **{name: thawed(value) for name, value in settings.items()}
        )
        if result is not None:
            result.array()[...] = found

    state.recording.append(node)


class Graph:
    def __init__(self, nodes):
        self.nodes = nodes

    def launch(self, stream=None):
        if state.recording is not None:
            raise RuntimeError("a graph is launched while a stream is recorded")
        with np.errstate(all="ignore"):
            for node in self.nodes:
                node()


class Stream:
    def __init__(self, non_blocking=False):
        self.ptr = id(self) if non_blocking else 0

    def __enter__(self):
        state.streams.append(self)
        return self

    def __exit__(self, *_):
        state.streams.pop()

    def begin_capture(self):
        state.recording = []

    def end_capture(self):
        nodes, state.recording = state.recording, None
        return Graph(nodes)

    def synchronize(self):
        no_reading()


DEFAULT_STREAM = Stream()
state = State()


@contextmanager
def using_allocator(malloc):
    state.allocators.append(malloc)
    try:
        yield
    finally:
        state.allocators.pop()


# ---- kernels and cuBLAS --------------------------------------------------------------------------


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

    def cublasCreate_v2(self, handle):  # noqa: N802
        no_reading()
        handle._obj.value = 1
        return 0

    def cublasDestroy_v2(self, handle):  # noqa: N802
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, size):  # noqa: N802
        return 0 if workspace.value else 7

    def cublasGemmStridedBatchedEx(  # noqa: N802
        self, handle, transpose_a, transpose_b, m, n, k, alpha, a, type_a, lda, stride_a,
        b, type_b, ldb, stride_b, beta, c, type_c, ldc, stride_c, count, compute, algorithm,
    ):  # fmt: skip
        """C = A B by columns, as documented for cublasGemmStridedBatchedEx."""
        dtype = np.dtype({0: "f", 1: "d"}[type_a.value])
        if compute.value not in {"f": (68, 75, 77), "d": (70,)}[dtype.char]:
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


# ---- the modules ---------------------------------------------------------------------------------


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

    isdtype = staticmethod(np.isdtype)


def backend():
    """A CuPyBackend on the stand-in, which is where CuPy is looked for while that is made."""
    cupy, namespace = Namespace("cupy"), Namespace("array_api_compat.cupy")
    cuda = ModuleType("cupy.cuda")
    cuda.runtime = SimpleNamespace(getDevice=lambda: 0)
    cuda.Device = lambda: SimpleNamespace(id=0)
    cuda.Stream, cuda.MemoryPool = Stream, MemoryPool
    cuda.using_allocator, cuda.get_current_stream = using_allocator, lambda: state.streams[-1]
    cupy.__version__, cupy.cuda, cupy.RawModule = "stand-in", cuda, RawModule
    namespace.cuda = cuda
    modules = {"cupy": cupy, "cupy.cuda": cuda, "array_api_compat.cupy": namespace}
    with (
        patch.dict(sys.modules, modules),
        patch.object(array_api_compat, "cupy", namespace, create=True),
        patch("mlpkit.backends.cuda.library", CublasLibrary),
    ):
        return CuPyBackend()
