"""Stopping early."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.history import Row
from mlpkit.network import Network
from mlpkit.settings import one_number, whole
from mlpkit.watch import Watch

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer


class EarlyStopping(Watch):
    """Stop when a figure has stopped improving, and restore the best weights.

    Each member has its own best epoch: one that has stopped keeps its best weights, and the
    training ends when all have stopped.  For an average_ figure they are averaged weights.

    Parameters
    ----------
    monitor : the column of the history to watch
    patience : epochs without an improvement before stopping, at least 1
    min_delta : what counts as an improvement, not negative
    mode : "min" or "max", what is better; by default as the metric has it

    >>> from mlpkit import MLP, Adam, Trainer
    >>> trainer, x = Trainer(MLP([1, 2]), optimizer=Adam(0.1)), [[0.0], [1.0]]
    >>> history = trainer.fit(
    ...     x, [0, 1], epochs=50, validation=(x, [1, 0]), callbacks=[EarlyStopping(patience=3)]
    ... )
    >>> len(history) < 50
    True
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.patience = whole("patience", patience)
        self.min_delta = one_number("min_delta", min_delta)

    def on_fit_begin(self, trainer: "Trainer") -> None:
        super().on_fit_begin(trainer)
        self._state = {}

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        network = trainer.network
        value = self.figure(row, network.members)
        if "average_" in self.monitor and trainer.average is not None:
            network = trainer.average.network()
        if not self._state:
            best, wait = np.full(len(value), np.inf), np.zeros(len(value), np.int64)
            self._state = _weights(network) | {"best": best, "wait": wait}
        best, wait = self._state["best"], self._state["wait"]

        active = wait < self.patience
        better = active & (value < best - self.min_delta)
        if better.any():
            for name, now in _weights(network).items():
                self._state[name][better] = now[better]
            best[better] = value[better]
        wait += 1
        wait[better] = 0
        trainer.stop = bool((wait >= self.patience).all())

    def on_fit_end(self, trainer: "Trainer") -> None:
        if self._state:
            network = trainer.network
            for flat, name in ((network.params, "params"), (network.buffers, "buffers")):
                best = self._state[name].reshape(flat.shape)
                flat[...] = network.backend.asarray(best, network.dtype)


def _weights(network: Network) -> dict[str, NDArray[Any]]:
    """What the network is now, (K, P) and (K, B) on the host."""
    flats = {"params": network.params, "buffers": network.buffers}
    to_numpy, members = network.backend.to_numpy, network.members or 1
    return {name: to_numpy(flat).reshape(members, -1) for name, flat in flats.items()}
