"""Streams of the stand-in for CuPy, and the graphs that are recorded on them."""

import numpy as np

from emulated.arrays import no_reading
from emulated.memory import state


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
        state.recording, state.broken = [], False

    def end_capture(self):
        nodes, state.recording = state.recording, None
        if state.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        return Graph(nodes)

    def synchronize(self):
        no_reading()


DEFAULT_STREAM = Stream()


def current_stream():
    return state.streams[-1] if state.streams else DEFAULT_STREAM
