"""CuPy's backend without a GPU: its kernels on the CPU, launched by a stand-in for CuPy."""

from functools import cache

import pytest

from emulated import cupy_stub, emulator

needs_compiler = pytest.mark.skipif(emulator.compiler() is None, reason="no g++ on Linux")


@cache
def emulated_backend():
    return cupy_stub.backend()
