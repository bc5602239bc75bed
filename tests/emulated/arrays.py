"""Arrays of the stand-in for CuPy, and the recording of what is done with them."""

import ctypes
from types import SimpleNamespace

import numpy as np

from emulated.memory import state


def allocate(shape, dtype):
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = state.allocators[-1](max(1, size))
    return np.frombuffer(memory, np.uint8)[:size].view(dtype).reshape(shape).view(ndarray)


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
        if getattr(index, "dtype", None) == np.bool:
            no_reading()  # how many elements it has
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
        state.broken = True
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


# ---- recording -----------------------------------------------------------------------------------


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
