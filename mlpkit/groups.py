"""Several steps of an epoch in one function, which the backend compiles as a whole."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlpkit.backends import Array
from mlpkit.batches import ArrayBatches, Batch, IterableBatches
from mlpkit.budget import Budget
from mlpkit.callbacks import Callback

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer


class Groups:
    """The steps of a trainer in groups, where its backend is faster with more of them at once.

    What was compiled is kept for as long as the data are the same arrays.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self._data: Batch | None = None
        self._steps: Callable[[Array], Array] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a trainer has no part in the data."""
        return Groups, (self._trainer,)

    def parts(
        self, source: ArrayBatches | IterableBatches, budget: Budget
    ) -> Generator[Any, None, None]:
        """What is left of the epoch: batches, or the rows of several, (S, n), for `run`."""
        trainer = self._trainer
        count = trainer.network.backend.steps_at_once
        alone = count == 1 or not trainer.records or budget.timed
        alone = alone or any(map(looks_at_every_step, trainer.callbacks.values()))
        if alone or not isinstance(source, ArrayBatches) or isinstance(source.data.x, np.memmap):
            return source.epoch(trainer.epoch, trainer.batch)
        if self._data is None or any(
            a is not b for a, b in zip(self._data, source.data, strict=True)
        ):
            self._data = source.data
            self._steps = trainer.network.backend.compile(self._on_rows(source))
        until = None
        if budget.max_steps is not None:
            until = trainer.batch + budget.max_steps - trainer.steps
        return source.in_groups(trainer.epoch, trainer.batch, until, count)

    def run(self, rows: Array) -> tuple[Array, Array | int]:
        """Steps on the batches of rows (S, n): losses (S,) or (S, K), and what each counts."""
        assert self._steps is not None
        found = self._steps(rows)
        if found.ndim == 1 + (self._trainer.network.members is not None):
            return found, rows.shape[-1]
        return found[0, ...], found[1, ...]

    def _on_rows(self, source: ArrayBatches) -> Callable[[Array], Array]:
        trainer = self._trainer
        backend, xp = trainer.network.backend, trainer.network.backend.xp

        def steps(rows: Array) -> Array:
            """The losses (S, ...); or with what they count, (2, S, ...), unless that is n."""
            found = None
            for i in range(rows.shape[0]):
                batch = source.take(rows[i, :])
                loss = trainer.step(*batch)
                mass = trainer.loss.mass(backend, batch.targets, batch.weights)
                counted = () if isinstance(mass, int) else (2,)
                if found is None:
                    found = xp.zeros((*counted, rows.shape[0], *loss.shape), dtype=loss.dtype)
                if counted:
                    found[0, i, ...], found[1, i, ...] = loss, mass
                else:
                    found[i, ...] = loss
            return found

        return steps


def looks_at_every_step(callback: Callback) -> bool:
    own = getattr(callback.on_step_end, "__func__", None) is not Callback.on_step_end
    return callback.every_step and own
