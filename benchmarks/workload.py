"""The job that all contestants do, and the data that it is done on.

Sizes 784-256-128-10, ReLU, linear output, mean softmax cross-entropy, float32, no weight decay.
The driver writes data and initial weights into a folder, so that no contestant needs another's
library to read them.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Layers = list[tuple[Floats, Floats]]  # W (D, H) and b (H,) of each layer
Batch = tuple[Floats, NDArray[np.int64]]  # x (N, 784) in [0, 1], labels (N,)

SIZES = (784, 256, 128, 10)
LR = {"SGD": 0.05, "Adam": 1e-3}
MOMENTUM = 0.9  # v = momentum v + g, w -= lr v
BETAS, EPS = (0.9, 0.999), 1e-8
BATCH = 128  # where a job does not vary it
GATE_STEPS = 20
TARGET, MAX_EPOCHS = 0.98, 20  # of the accuracy job


def unflatten(params: Floats) -> Layers:
    """Copies of W and b of each layer, from a flat vector (P,) that holds them in this order."""
    layers, start = [], 0
    for n_in, n_out in pairwise(SIZES):
        middle, stop = start + n_in * n_out, start + (n_in + 1) * n_out
        layers.append(
            (params[start:middle].reshape(n_in, n_out).copy(), params[middle:stop].copy())
        )
        start = stop
    return layers


def scaled(images: NDArray[np.uint8]) -> Floats:
    """Pixels in [0, 1]."""
    return images * np.float32(1 / 255)


@dataclass(frozen=True)
class Workload:
    """uint8 images (N, 784) and labels (N,); initial weights (K, P) of the seeds 0 to K - 1."""

    x: NDArray[np.uint8]
    y: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]
    params: Floats

    @classmethod
    def read(cls, folder: Path) -> "Workload":
        return cls(*(np.load(folder / f"{name}.npy") for name in cls.__dataclass_fields__))

    def write(self, folder: Path) -> None:
        for name in self.__dataclass_fields__:
            np.save(folder / f"{name}.npy", getattr(self, name))

    def batches(self, size: int, count: int) -> list[Batch]:
        """The first `count` batches of the training set as it stands, from the start again after
        its end."""
        rows = np.arange(size * count).reshape(count, size) % len(self.x)
        return [(scaled(self.x[row]), self.y[row].astype(np.int64)) for row in rows]


def load(members: int) -> tuple[Workload, str]:
    """The workload with the weights of `members` seeds, and the name of its data set.

    MNIST from $MLPKIT_DATA, the cache or a mirror; where none has it, drawn digits.
    """
    from mlpkit import MLP
    from mlpkit.backends.cpu import NumPyBackend
    from mlpkit.data import DatasetUnavailableError, digits, mnist

    try:
        (train, test), name = mnist(), "MNIST"
    except DatasetUnavailableError:
        (train, test), name = (digits(12_000, seed=0), digits(2_000, seed=1)), "drawn digits"
    plain = NumPyBackend()
    params = [MLP(SIZES, backend=plain, seed=seed).params for seed in range(members)]
    return Workload(*train, *test, np.stack(params)), name
