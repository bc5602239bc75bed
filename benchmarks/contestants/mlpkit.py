"""mlpkit, with its compiled kernels and without."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import mlpkit
from benchmarks.contestants.base import Contestant, NotOfferedError, Training, with_cuda
from benchmarks.workload import BATCH, LR, MOMENTUM, SIZES, Batch, Floats
from mlpkit.backends import Backend
from mlpkit.backends.cpu import NumPyBackend


class OnBackend(Contestant):
    """Either of the two."""

    backend: Backend

    def place(self, batches: Sequence[Batch]) -> list[tuple[Any, Any]]:
        put = self.backend.asarray
        return [(put(x), put(y)) for x, y in batches]

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> Training:
        return _Training(self.built(None), params, optimizer, seed)

    def networks(self, params: Floats, optimizer: str) -> Training:
        return _Training(self.built(len(params)), params, optimizer, seed=0)

    def built(self, members: int | None) -> mlpkit.Network:
        precision = None if self.precision == "float32" else self.precision
        return mlpkit.MLP(SIZES, members=members, backend=self.backend, precision=precision)

    def products(self, size: int) -> Callable[[], object]:
        """Forward, dW, and dx of all layers but the first."""
        backend, rng = self.backend, np.random.default_rng(0)

        def draw(*shape: int) -> Any:
            return backend.asarray(rng.random(shape, np.float32))

        calls = []
        for i, (n_in, n_out) in enumerate(pairwise(SIZES)):
            x, W, dy = draw(size, n_in), draw(n_in, n_out), draw(size, n_out)
            calls.append((x, W, False, False, draw(size, n_out)))
            calls.append((x, dy, True, False, draw(n_in, n_out)))
            if i > 0:
                calls.append((dy, W, False, True, draw(size, n_in)))

        def products() -> None:
            for call in calls:
                backend.matmul(*call)
            backend.synchronize()

        return products

    def event(self) -> Any | None:
        if self.device == "cpu":
            return None
        import cupy

        event = cupy.cuda.Event()
        event.record()
        return event

    def elapsed(self, begin: Any, end: Any) -> float:
        import cupy

        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000


class Fast(OnBackend):
    """With the extra "fast"; on a GPU, CuPy."""

    requirement = "mlpkit[fast]"
    imports = "from mlpkit import MLP, Adam, Trainer, get_backend; get_backend('numpy')"
    how = "trainer.step, compiled on a GPU, trainer.fit and predict; members=K"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def __init__(self, device: str, precision: str) -> None:
        super().__init__(device, precision)
        if device == "cuda":
            self.requirement = with_cuda("mlpkit", "cupy-cuda{}x")
            self.imports = self.imports.replace("numpy", "cupy")
        self.backend = mlpkit.get_backend("numpy" if device == "cpu" else "cupy")
        if type(self.backend) is NumPyBackend:
            raise NotOfferedError("the extra mlpkit[fast] is not installed")


class Plain(OnBackend):
    """NumPy alone."""

    requirement = "mlpkit"
    imports = "from mlpkit import MLP, Adam, Trainer; from mlpkit.backends.cpu import NumPyBackend"
    how = "as mlpkit, with backend=NumPyBackend()"

    def __init__(self, device: str, precision: str) -> None:
        super().__init__(device, precision)
        self.backend = NumPyBackend()


class _Training(Training):
    def __init__(self, network: mlpkit.Network, params: Floats, optimizer: str, seed: int) -> None:
        lr = LR[optimizer]
        rule = mlpkit.SGD(lr, momentum=MOMENTUM) if optimizer == "SGD" else mlpkit.Adam(lr)
        network.params[...] = network.backend.asarray(params)
        self.backend = network.backend
        self.trainer = mlpkit.Trainer(network, optimizer=rule, seed=seed)
        self.step = network.backend.compile(self.trainer.step)
        self.data: tuple[Any, Any] | None = None

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        for _ in range(rounds):
            losses = [self.step(x, y) for x, y in placed]
        self.backend.synchronize()
        return np.stack([self.backend.to_numpy(loss) for loss in losses])

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        if self.data is None:  # on a GPU they stay there: what was recorded is for these arrays
            put = self.backend.asarray
            self.data = (x, y) if self.backend.name == "numpy" else (put(x), put(y, np.int64))
        history = self.trainer.fit(*self.data, epochs=self.trainer.epoch + 1, batch_size=BATCH)
        return float(history.rows[-1]["loss"])

    def classes(self, x: Floats) -> NDArray[Any]:
        return self.backend.to_numpy(self.trainer.network.predict(x))
