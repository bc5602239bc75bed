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
        self._losses: list[Array] = []  # (S, ...) of some steps each
        self._sizes: list[Any] = []
        self._earlier: tuple[NDArray[Any], ...] = ()

    def add(self, loss: Array, mass: Array | int) -> None:
        """Take in the loss () or (K,) of a batch, and what it counts, see `Loss.mass`."""
        self.add_all(loss[None, ...], mass if isinstance(mass, int) else mass[None, ...])

    def add_all(self, losses: Array, masses: Array | int) -> None:
        """Take in those of several batches, each (S,) or (S, K), or a number for all."""
        self._losses.append(losses)
        self._sizes.append(masses)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The losses (S,) or (S, K), and what each counts, as many, on the host."""
        if not self._losses:
            return self._earlier
        losses, sizes = self._read(self._losses), self._sizes
        if not all(isinstance(size, int) for size in sizes):
            zeros_like = self._backend.xp.zeros_like
            parts = zip(self._losses, sizes, strict=True)
            of_size = self._read([zeros_like(part) + size for part, size in parts])
        else:
            by_step = np.repeat(np.array(sizes, np.float64), [a.shape[0] for a in self._losses])
            of_size = np.broadcast_to(by_step.reshape(-1, *[1] * (losses.ndim - 1)), losses.shape)
        now = losses, of_size
        if not self._earlier:
            return now
        return tuple(np.concatenate(parts) for parts in zip(self._earlier, now, strict=True))

    def _read(self, values: list[Any]) -> NDArray[np.float64]:
        return np.asarray(self._backend.to_numpy(self._backend.xp.concat(values)), np.float64)

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
