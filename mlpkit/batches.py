"""Where the batches of a training come from: arrays, files larger than memory, or an iterable."""

from collections.abc import Callable, Generator, Iterable, Sized
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array, Backend
from mlpkit.losses import sample_axis
from mlpkit.network import Network
from mlpkit.prefetch import prefetch
from mlpkit.random import Purpose, drawn, make_key, shuffled


class Batch(NamedTuple):
    """Data on the device: x (..., N, D), targets as the loss takes them, weights (..., N)."""

    x: Any
    targets: Any
    weights: Any

    def part(self, backend: Backend, start: int, stop: int) -> "Batch":
        """The samples from `start` up to `stop`."""
        behind = () if sample_axis(backend.xp, self.targets) == -1 else (slice(None),)
        of_targets = self.targets[(..., slice(start, stop), *behind)]
        weights = None if self.weights is None else self.weights[..., start:stop]
        return Batch(self.x[..., start:stop, :], of_targets, weights)


class ArrayBatches:
    """Batches from arrays, in a new order every epoch.

    Parameters
    ----------
    data : on the device and checked; x may be a `numpy.memmap`, whose rows are read batch by batch,
        one batch ahead
    batch_size : the last batch of an epoch may be smaller
    seed : of the order, a function of (seed, epoch)
    sampling : None for every sample once; else the weights (N,) by which N samples are drawn, with
        replacement

    Attributes
    ----------
    steps : of an epoch
    form : what an epoch that was broken off has to go on with
    once : whether there is but one epoch in it
    """

    once = False

    def __init__(
        self,
        network: Network,
        data: Batch,
        batch_size: int,
        seed: int,
        sampling: NDArray[np.float64] | None,
    ) -> None:
        self.network, self.data, self.batch_size = network, data, batch_size
        self.steps: int = -(-data.x.shape[-2] // batch_size)
        self.form = {
            "samples": int(data.x.shape[-2]),
            "batch_size": batch_size,
            "sampling": sampling is not None,
        }
        backend = network.backend
        self._key = backend.asarray(np.array(make_key(seed, Purpose.ORDER), np.int64))
        self._bounds = None
        if sampling is not None:
            below = np.cumsum(sampling / np.max(sampling))
            # In integers, which are the same on every backend.
            bounds = np.floor(below / below[-1] * 2.0**32)
            self._bounds = backend.asarray(bounds.astype(np.int64))

    def smallest(self) -> int:
        """The rows of the smallest batch."""
        n: int = self.data.x.shape[-2]
        return n % self.batch_size or min(n, self.batch_size)

    def epoch(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        """The batches of an epoch from number `first` on."""
        network, x, n = self.network, self.data.x, self.data.x.shape[-2]
        starts = range(first * self.batch_size, n, self.batch_size)
        order = self._order(epoch, n)
        parts = (_slice(order, i, self.batch_size, n) for i in starts)
        if not isinstance(x, np.memmap):
            yield from map(self.take, parts)
            return
        host = np.arange(n) if order is None else network.backend.to_numpy(order)
        ahead = prefetch(read_rows(x, host[i : i + self.batch_size]) for i in starts)
        for part, rows in zip(ahead, parts, strict=True):
            yield self._take(network.rows(network.place(part)), rows)

    def in_groups(
        self, epoch: int, first: int, until: int | None, count: int
    ) -> Generator[Array | Batch, None, None]:
        """As `epoch`, but the rows (count, n) of so many batches in one, for `take`.

        Batches of another size, and what is left until the number `until`, come one by one.
        """
        n, size = self.data.x.shape[-2], self.batch_size
        order, number = self._order(epoch, n), first
        until = self.steps if until is None else min(until, self.steps)
        while number < self.steps:
            start, stop = number * size, (number + count) * size
            if order is not None and stop <= n and number + count <= until:
                yield self.network.backend.xp.reshape(order[start:stop], (count, size))
                number += count
            else:
                yield self.take(_slice(order, start, size, n))
                number += 1

    def take(self, rows: Array | None) -> Batch:
        """The samples of the rows (n,); None for all of them."""
        return self._take(self.network.rows(self.data.x, rows), rows)

    def _take(self, x: Array, rows: Array | None) -> Batch:
        """x with the targets and weights of its rows."""
        xp, (_, targets, weights) = self.network.backend.xp, self.data
        if rows is None:
            return Batch(x, targets, weights)
        targets = xp.take(targets, rows, axis=sample_axis(xp, targets))
        return Batch(x, targets, None if weights is None else xp.take(weights, rows, axis=-1))

    def _order(self, epoch: int, n: int) -> Array | None:
        """The samples of an epoch (n,); None for all of them as they stand, in one batch."""
        backend = self.network.backend
        step = backend.xp.asarray(epoch, dtype=backend.xp.int64)
        if self._bounds is not None:
            return drawn(backend, self._key, step, self._bounds)
        if self.batch_size >= n:
            return None
        return shuffled(backend, self._key, step, n)


def _slice(order: Array | None, start: int, size: int, n: int) -> Array | None:
    return None if order is None else order[start : min(start + size, n)]


def read_rows(x: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a file, in memory."""
    part = np.take(x, rows, axis=-2)
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        bad = rows[~np.isfinite(part).all(axis=-1).reshape(-1, len(rows)).all(axis=0)]
        raise ValueError(f"x holds NaN or infinite values, in row {bad[0]}")
    return part


class IterableBatches:
    """Batches (x, targets) or (x, targets, weights) from something that is iterated every epoch."""

    def __init__(self, batches: Iterable[Any], check: Callable[..., Batch]) -> None:
        self.batches, self.check = batches, check
        self.steps: int | None = len(batches) if isinstance(batches, Sized) else None
        self.form = {"batches": self.steps}
        self.once = iter(batches) is batches

    def epoch(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        """The batches of an epoch from number `first` on."""
        for number, batch in enumerate(prefetch(islice(self.batches, first, None)), first):
            if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
                raise TypeError(
                    f"batch {number} is {type(batch).__name__}, expected (x, targets) or "
                    "(x, targets, weights)"
                )
            yield self.check(*batch)


def sampling_weights(
    sampling: Any, targets: Array, n: int, backend: Backend
) -> NDArray[np.float64]:
    """The weights (n,) by which samples are drawn: given, or "balanced" from the labels."""
    if isinstance(sampling, str):
        if sampling != "balanced":
            raise ValueError(f"sampling is 'balanced' or weights (N,), got {sampling!r}")
        labels = backend.to_numpy(targets)
        if labels.shape == (n, 1) and np.isin(labels, (0, 1)).all():  # of one output
            labels = labels[:, 0].astype(np.int64)
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise ValueError(
                "balanced sampling needs integer labels (N,), the same for all members"
            )
        return np.asarray(1.0 / np.bincount(labels)[labels])
    try:
        weights = np.asarray(sampling, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"sampling weights are numbers (N,): {error}") from error
    if weights.shape != (n,):
        raise ValueError(f"sampling weights have shape {weights.shape}, expected ({n},)")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("sampling weights must be finite, not negative, and not all 0")
    return weights
