"""Memory of the stand-in for CuPy: full of garbage when it is handed out, with margins to watch."""

import ctypes
import threading
import weakref
from collections import defaultdict
from contextlib import contextmanager

import numpy as np

MARGIN = 64  # bytes
GARBAGE = 0xFF  # as float: NaN


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
        self.streams = []
        self.allocators = [DEFAULT_POOL.malloc]
        self.recording = None  # the nodes of a graph


DEFAULT_POOL = MemoryPool()
state = State()


@contextmanager
def using_allocator(malloc):
    state.allocators.append(malloc)
    try:
        yield
    finally:
        state.allocators.pop()
