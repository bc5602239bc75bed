"""Compiles CUDA sources for the CPU with g++, and launches their kernels there."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
USER = os.getuid() if hasattr(os, "getuid") else ""  # Windows has a folder for each user anyway
FOLDER = Path(tempfile.gettempdir()) / f"mlpkit-tests-{USER}"  # of the libraries
FLAGS = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-w"]
LAUNCHER = """
extern "C" const char* launch_{0}(
    dim3 g, dim3 b, unsigned seed, unsigned count, void* const* arguments, const unsigned* sizes)
{{ return shim::launch({0}, g, b, seed, count, arguments, sizes); }}
"""
DUMP = """
extern "C" void __gcov_dump();
extern "C" void dump_coverage() { __gcov_dump(); }
"""


class Dim3(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class KernelError(RuntimeError):
    """What the shim reports."""


def compiler():
    """The path of g++; None where there is none, or no ELF, whose sections the shim needs."""
    return shutil.which("g++") if sys.platform == "linux" else None


def build(source, macros, folder=FOLDER, flags=()):
    """A library of the kernels in `source`; kept in the folder, since most tests want the same."""
    shim = (HERE / "shim.h").read_text()
    kernels = re.findall(r"^KERNEL (\w+)\(", source, re.MULTILINE)
    text = "".join(
        [
            '#include "shim.h"\n',
            *(f"#define {name} {value}\n" for name, value in macros.items()),
            '#line 1 "kernels.cu"\n',
            source,
            *map(LAUNCHER.format, kernels),
            DUMP if "--coverage" in flags else "",
        ]
    )
    key = hashlib.sha256("\0".join([text, shim, *FLAGS, *flags]).encode()).hexdigest()[:20]
    library = folder / f"{key}.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        own = folder / f"{key}-{uuid.uuid4().hex}.cc"  # another process may be at it, too
        own.write_text(text)
        command = ["g++", *FLAGS, *flags, "-I", HERE, own, "-o", own.with_suffix(".so")]
        done = subprocess.run(command, text=True, capture_output=True, cwd=folder)
        if done.returncode:
            raise KernelError(done.stderr)
        own.with_suffix(".so").replace(library)
    return ctypes.CDLL(str(library))


def launch(library, name, grid, block, arguments, seed=0):
    """Run a kernel; arguments are NumPy scalars or structures, passed as they lie in memory."""
    function = getattr(library, f"launch_{name}")
    function.restype = ctypes.c_char_p
    values = [np.atleast_1d(np.asarray(argument)) for argument in arguments]
    addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    sizes = (ctypes.c_uint * len(values))(*(value.nbytes for value in values))
    by_axis = [Dim3(*grid, *(1,) * (3 - len(grid))), Dim3(*block, *(1,) * (3 - len(block)))]
    error = function(*by_axis, ctypes.c_uint(seed), len(values), addresses, sizes)
    if error:
        raise KernelError(f"{name}: {error.decode()}")
