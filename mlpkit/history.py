"""What a training writes down, on the host."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array, Backend

Row = dict[str, Any]


class History:
    """What each epoch gave: `rows` is a list of dicts, one value per member where there are any."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        """One column over the epochs, such as history["val_loss"]."""
        return [row[column] for row in self.rows]


class EpochLosses:
    """The losses of an epoch's steps, on the device until they are read."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._losses: list[Array] = []
        self._sizes: list[Any] = []
        self._earlier: tuple[NDArray[Any], ...] = ()

    def add(self, loss: Array, mass: Array | int) -> None:
        """Take in the loss () or (K,) of a batch, and what it counts, see `Loss.mass`."""
        self._losses.append(loss)
        self._sizes.append(mass)

    def add_all(self, losses: Array, masses: Array | int) -> None:
        """Take in those of several batches, each (S,) or (S, K), or a number for all."""
        for i in range(losses.shape[0]):
            self.add(losses[i, ...], masses if isinstance(masses, int) else masses[i, ...])

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The losses (S,) or (S, K), and what each counts, as many, on the host."""
        if not self._losses:
            return self._earlier
        losses, sizes = self._read(self._losses), self._sizes
        if not all(isinstance(size, int) for size in sizes):
            zero = self._backend.xp.zeros_like(self._losses[0])
            of_size = self._read([zero + size for size in sizes])
        else:
            by_step = np.array(sizes, np.float64).reshape(-1, *[1] * (losses.ndim - 1))
            of_size = np.broadcast_to(by_step, losses.shape)
        now = losses, of_size
        if not self._earlier:
            return now
        return tuple(np.concatenate(parts) for parts in zip(self._earlier, now, strict=True))

    def _read(self, values: list[Any]) -> NDArray[np.float64]:
        return np.asarray(self._backend.to_numpy(self._backend.xp.stack(values)), np.float64)

    def restore(self, losses: NDArray[Any], sizes: NDArray[Any]) -> None:
        """Begin with the steps that `arrays` gave."""
        self._earlier = (losses, sizes)


def mean_loss(losses: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float64]:
    """The mean over the samples, () or (K,), from (S,) or (S, K)."""
    share = sizes / np.maximum(sizes.sum(axis=0), np.finfo(np.float64).tiny)
    return np.asarray((losses * share).sum(axis=0))


def host_value(value: NDArray[Any]) -> Any:
    """A number, or nested lists of them, for the history."""
    return np.asarray(value, np.float64).tolist()


def read(backend: Backend, figures: dict[str, Array]) -> dict[str, Any]:
    """The figures of the device as `host_value`s, brought to the host in one transfer."""
    xp = backend.xp
    arrays = {name: backend.asarray(figure, xp.float64) for name, figure in figures.items()}
    flat = backend.to_numpy(xp.concat([xp.reshape(array, (-1,)) for array in arrays.values()]))
    ends = np.cumsum([math.prod(array.shape) for array in arrays.values()])
    parts = np.split(flat, ends[:-1])
    return {
        name: host_value(part.reshape(array.shape))
        for (name, array), part in zip(arrays.items(), parts, strict=True)
    }
