"""What a library must do to take part.

A `Contestant` is a library on a device; it builds `Training`s, each one network (or K of them)
with the state of its optimizer.  A contestant has a process of its own and may set its library's
global options.  Data come in and results go out as NumPy arrays; what is returned has been
computed, and so has the update that it belongs to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import Batch, Floats


def with_cuda(name: str, library: str) -> str:
    """The requirement `name` with its extra for CUDA, by what is installed of a library.

    cuda13 where that is `library` with the 13 in it, else cuda12.
    """
    try:
        metadata.version(library.format(13))
    except metadata.PackageNotFoundError:
        return f"{name}[cuda12]"
    return f"{name}[cuda13]"


class NotOfferedError(Exception):
    """The library has no such thing; the message says what is missing, and voids the row."""


class Training(ABC):
    """One network, or K, under training."""

    @abstractmethod
    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        """A step on each of the n batches of `Contestant.place`, all of them `rounds` times.

        The losses of the last round, (n,) or (n, K).
        """

    @abstractmethod
    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        """An epoch over uint8 images (N, 784), scaled, in batches of 128 and an order of its own.

        The mean loss of the epoch's steps.
        """

    @abstractmethod
    def classes(self, x: Floats) -> NDArray[Any]:
        """The class (N,) of each row of x (N, 784)."""


class Contestant(ABC):
    """A library on a device.

    Attributes
    ----------
    requirement : what a user installs
    imports : the statement that brings in what a training needs
    how : in a sentence, how the library is used
    devices : it runs on
    eps_hat : which Adam it has, see `benchmarks.reference.losses`
    """

    requirement: str
    imports: str
    how: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    eps_hat: ClassVar[bool] = False

    def __init__(self, device: str, precision: str) -> None:
        self.device, self.precision = device, precision

    @abstractmethod
    def place(self, batches: Sequence[Batch]) -> Any:
        """Batches of one size where and how `Training.run` takes them."""

    @abstractmethod
    def network(self, params: Floats, optimizer: str, seed: int = 0) -> Training:
        """A training from the flat weights (P,); optimizer "SGD" or "Adam", seed of the order."""

    def networks(self, params: Floats, optimizer: str) -> Training:
        """K networks from the weights (K, P), at once if the library can."""
        return OneByOne([self.network(row, optimizer) for row in params])

    def products(self, size: int) -> Callable[[], object] | None:
        """A function that computes the matrix products of a step alone; None if there is none."""
        return None

    def event(self) -> Any | None:
        """A CUDA event, recorded now; None where the library has no such clock."""
        return None

    def elapsed(self, begin: Any, end: Any) -> float:
        """Seconds between two events."""
        raise NotImplementedError


class OneByOne(Training):
    """K networks, one after the other."""

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        return np.stack([training.run(placed, rounds) for training in self.trainings], axis=1)

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        return float(np.mean([training.epoch(x, y) for training in self.trainings]))

    def classes(self, x: Floats) -> NDArray[Any]:
        return np.stack([training.classes(x) for training in self.trainings])
