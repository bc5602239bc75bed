"""A step recorded as a CUDA graph, which a GPU runs without Python between its kernels.

Recording is CuPy's stream capture: the step runs once in Python, and its kernels, with the
addresses of their arrays and the values of their numbers, become nodes of a graph instead of
running.
"""

import gc
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mlpkit.backends.cublas import Handles

if TYPE_CHECKING:
    from mlpkit.backends.cuda import CuPyBackend

MOST_GRAPHS = 8  # graphs of a step: more sets of shapes than that are not worth their memory
LOCK = threading.RLock()  # of recording: the garbage collector is switched off for all threads
log = logging.getLogger("mlpkit")


@contextmanager
def uncollected() -> Generator[None, None, None]:
    """Without the garbage collector, which might free a CUDA object in between."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Recorder:
    """What the graphs of a step are recorded with: a stream, its cuBLAS handle, and memory.

    They run one after another, and so may use the same memory for what the step throws away.
    """

    def __init__(self, cupy: Any, handles: Handles) -> None:
        self.cupy, self._handles = cupy, handles
        self.stream = cupy.cuda.Stream(non_blocking=True)  # which the handle knows
        chunks: list[Any] = []

        def chunk(size: int) -> Any:
            """Memory from the driver, kept: a pool that runs out would free what graphs use."""
            chunks.append(cupy.cuda.Memory(size))
            return cupy.cuda.MemoryPointer(chunks[-1], 0)

        self._pool = cupy.cuda.MemoryPool(chunk)  # what it has used, nobody else is given
        with self.stream, cupy.cuda.using_allocator(self._pool.malloc):
            self._handle = handles.make()  # which cannot be made while recording

    @contextmanager
    def active(self) -> Generator[None, None, None]:
        """Arrays and products within are of its memory and on its stream."""
        allocator = self.cupy.cuda.using_allocator(self._pool.malloc)
        with LOCK, self.stream, allocator, self._handles.using(self._handle), uncollected():
            yield


class Graph:
    """A recorded step.  It keeps what its nodes use, but for what the step itself keeps.

    Parameters
    ----------
    recorder : of all graphs of the step
    step : takes arrays on the device, or None, and returns one
    arrays : as the step will be given; their shapes and dtypes count
    """

    def __init__(
        self, recorder: Recorder, step: Callable[..., Any], arrays: tuple[Any, ...]
    ) -> None:
        self._recorder, stream = recorder, recorder.stream
        with recorder.active():
            self._inputs = [None if a is None else recorder.cupy.empty_like(a) for a in arrays]
            stream.begin_capture()
            try:
                self._output = step(*self._inputs)
            except BaseException:
                with suppress(Exception):  # which would say no more than that there was an error
                    stream.end_capture()
                raise
            self._graph = stream.end_capture()

    def __call__(self, *arrays: Any) -> Any:
        """Run it on the current stream; the result is a copy, which the next run leaves alone."""
        for own, given in zip(self._inputs, arrays, strict=True):
            if own is not None:
                own[...] = given
        self._graph.launch()
        return self._output.copy()


class Recorded:
    """A step that is run at first, and recorded when it comes with the same shapes again.

    The first run compiles its kernels and uploads its constants, which cannot be recorded.  A step
    that cannot be recorded at all goes on being run, and the log says why.
    """

    def __init__(self, backend: "CuPyBackend", step: Callable[..., Any]) -> None:
        self._backend, self._step = backend, step
        self._seen: set[Any] = set()  # devices, shapes and dtypes
        self._runs: dict[Any, Callable[..., Any]] = {}  # how to run it, by those
        self._recorders: dict[int, Recorder] = {}  # by device

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy records anew: a graph belongs to a device and to its arrays."""
        return Recorded, (self._backend, self._step)

    def __call__(self, *arrays: Any) -> Any:
        if not all(a is None or self._backend.owns(a) for a in arrays):
            return self._step(*arrays)
        shapes = (None if a is None else (a.shape, a.dtype.char) for a in arrays)
        kind = (self._backend.device(), *shapes)
        if kind not in self._runs:
            if kind not in self._seen or len(self._runs) == MOST_GRAPHS:
                result = self._step(*arrays)
                self._seen.add(kind)
                return result
            self._runs[kind] = self._record(arrays)
        return self._runs[kind](*arrays)

    def _record(self, arrays: tuple[Any, ...]) -> Callable[..., Any]:
        backend, device = self._backend, self._backend.device()
        try:
            recorder = self._recorders.get(device) or Recorder(backend.cupy, backend.handles)
            graph = Graph(recorder, self._step, arrays)
        except Exception as error:  # whatever it is, the step itself will say it again
            log.warning("the step cannot be recorded as a CUDA graph, and is run: %s", error)
            return self._step
        self._recorders[device] = recorder
        return graph
