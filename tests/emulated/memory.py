"""Memory of the stand-in for CuPy: full of garbage when it is handed out, with margins to watch."""

import ctypes
import threading
import weakref
from collections import defaultdict
from contextlib import contextmanager

import numpy as np

GARBAGE = 0xFF  # as a float: NaN
# NaN, too, and a signalling one as a double and, next to an array, as a float: a sum changes it.
MARGIN = np.tile(np.array([0x7FA5A5A5, 0x7FF4A5A5], np.uint32), 8).view(np.uint8)
UNCHECKED = set()  # the memory handed out since the margins were looked at


class Memory:
    """Of the driver, between two margins."""

    def __init__(self, size):
        self.bytes = np.concatenate([MARGIN, np.full(size, GARBAGE, np.uint8), MARGIN])
        self.ptr = self.bytes.ctypes.data + len(MARGIN)

    def mend(self):
        """Whether a margin was written to; both are as new afterwards."""
        damaged = False
        for margin in self.bytes[: len(MARGIN)], self.bytes[-len(MARGIN) :]:
            damaged |= bool((margin != MARGIN).any())
            margin[...] = MARGIN
        return damaged


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


def from_the_driver(size):
    return MemoryPointer(Memory(size), 0)


class MemoryPool:
    """Memory that is handed out again when it is given back.

    By sizes as they are, so that the margins lie next to the arrays; with an allocator of its own
    by powers of two, so that arrays of other shapes come where these were.
    """

    def __init__(self, allocator=None):
        self.allocator = allocator
        self.free = defaultdict(list)  # by size

    def malloc(self, size):
        if self.allocator is not None:
            size = 1 << (size - 1).bit_length()
        try:
            pointer = self.free[size].pop()
        except IndexError:
            pointer = (self.allocator or from_the_driver)(size)
        UNCHECKED.add(pointer.mem)
        ctypes.memset(pointer.ptr, GARBAGE, size)
        memory = (ctypes.c_char * size).from_address(pointer.ptr)
        memory.pool = self
        weakref.finalize(memory, self.free[size].append, pointer)
        return memory

    def free_all_blocks(self):
        for pointers in self.free.values():
            pointers.clear()


def check_margins():
    """Raise where something was written beside the arrays handed out since the last time."""
    damaged = [UNCHECKED.pop().mend() for _ in range(len(UNCHECKED))]
    if any(damaged):
        raise AssertionError("a kernel has written outside its arrays")


class State(threading.local):
    """Of each thread."""

    def __init__(self):
        self.streams = []
        self.allocators = [DEFAULT_POOL.malloc]
        self.recording = None  # the nodes of a graph
        self.broken = False  # whether there was an error while recording


DEFAULT_POOL = MemoryPool()
state = State()


@contextmanager
def using_allocator(malloc):
    state.allocators.append(malloc)
    try:
        yield
    finally:
        state.allocators.pop()
