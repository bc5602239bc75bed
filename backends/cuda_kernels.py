"""The CUDA kernels of the folder `kernels`, compiled for the device at hand.

CuPy compiles them with NVRTC when they are first used, and keeps what it has compiled on the disk,
by source, architecture and version of the compiler.  Subnormal float32 numbers are flushed to
zero (-ftz=true).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "kernels"
TYPES = {"f": "float", "d": "double", "B": "unsigned char"}  # in C++, by the character of a dtype
SETTING = np.dtype([("at", np.uintp), ("step", np.int64)])  # the struct of device.h
NULL = np.uintp(0)
BLOCK = 256  # threads, where a kernel does not say otherwise
GRID_LIMIT = 65_535  # blocks along the second and third axis of a grid
MOST_BLOCKS = 4096  # of a kernel whose threads take more than one element


def source(name: str) -> str:
    """The text of a file of kernels, with what they share in front."""
    text = (FOLDER / f"{name}.cu").read_text()
    return text.replace('#include "device.h"', (FOLDER / "device.h").read_text())


class Kernels:
    """The kernels for the types that are asked for.  CuPy loads them on each device."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[Any, Any] = {}
        self._found: dict[Any, Callable[..., None]] = {}

    def __call__(self, file: str, name: str, dtype: Any, of: Any = None) -> Callable[..., None]:
        """A kernel for arrays of `dtype`, and data of the dtype `of`, as a cupy.RawKernel."""
        key = file, name, dtype, of
        if key not in self._found:
            self._found[key] = self._module(file, dtype, of).get_function(name)
        return self._found[key]

    def _module(self, file: str, dtype: Any, of: Any) -> Any:
        key = file, dtype, of
        if key not in self._modules:
            options = ["--std=c++17", f"-DREAL={TYPES[dtype.char]}"]
            if of is not None:
                options.append(f"-DSOURCE={TYPES[of.char]}")
            self._modules[key] = self._cupy.RawModule(code=source(file), options=tuple(options))
        return self._modules[key]


def blocks(size: int, members: int = 1) -> tuple[int, int]:
    """A grid with a thread for each of `size` elements, or for some, and a row for each member."""
    return min(-(-size // BLOCK), MOST_BLOCKS), members


def setting(value: Any) -> Any:
    """A hyper-parameter () or (K, 1, ...) in float64, or None, as a kernel takes it."""
    if value is None:
        return np.array((0, 0), SETTING)
    return np.array((value.data.ptr, int(value.size > 1)), SETTING)


def or_null(array: Any) -> Any:
    """An array, or the null pointer where it is left out, as a kernel takes it."""
    return NULL if array is None else array
