"""What may happen beside the training: stopping early, a log, checkpoints."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.checkpoint import save_state
from mlpkit.files import write_atomically
from mlpkit.history import Row
from mlpkit.settings import number, positive_int

if TYPE_CHECKING:
    from mlpkit.network import Network
    from mlpkit.trainer import Trainer


class Callback:
    """The moments of a `fit`; a callback overrides those it needs.

    A callback ends the training after an epoch by setting `trainer.stop`.  One that remembers
    something forgets it in `on_fit_begin`, gives it as named arrays in `state` and, in a training
    that is resumed, takes it back in `restore` right after `on_fit_begin`.
    """

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Before the first epoch of this call."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After a step; reading a device array here makes the device wait."""

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        """After an epoch and its validation, with its row of the history."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """After the last epoch, unless an error ended the training."""

    def on_interrupt(self, trainer: "Trainer") -> str | None:
        """After Ctrl-C, between two steps; how to go on, in words, if the callback knows."""
        return None

    def close(self) -> None:
        """However the training ended: let go of what is held."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What has to be saved for a resumed training to be exact."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave."""


class EarlyStopping(Callback):
    """Stop when a figure has stopped improving, and restore the best weights.

    Each member has its own best epoch: one that has stopped keeps its best weights, and the
    training ends when all have stopped.

    Parameters
    ----------
    monitor : the column of the history to watch
    patience : epochs without an improvement before stopping, at least 1
    min_delta : what counts as an improvement, not negative
    mode : "min" or "max"; by default "max" for an accuracy and "min" for anything else

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
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode is 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.patience = positive_int("patience", patience)
        self.min_delta = number("min_delta", min_delta)
        maximize = mode == "max" or (mode is None and monitor.endswith("accuracy"))
        self._sign = -1.0 if maximize else 1.0
        self._state: dict[str, NDArray[Any]] = {}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        self._state = {}

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        if self.monitor not in row:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, but an epoch gives {sorted(row)}; "
                "val_ columns need validation data"
            )
        network = trainer.network
        value = self._sign * np.atleast_1d(np.asarray(row[self.monitor], np.float64))  # (K,)
        if not self._state:
            best, wait = np.full(len(value), np.inf), np.zeros(len(value), np.int64)
            self._state = self._weights(network, len(value)) | {"best": best, "wait": wait}
        best, wait = self._state["best"], self._state["wait"]

        active = wait < self.patience
        better = active & (value < best - self.min_delta)
        if better.any():
            for name, now in self._weights(network, len(value)).items():
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

    def _weights(self, network: "Network", members: int) -> dict[str, NDArray[Any]]:
        """What the network is now, (K, P) and (K, B) on the host."""
        flats = {"params": network.params, "buffers": network.buffers}
        to_numpy = network.backend.to_numpy
        return {name: to_numpy(flat).reshape(members, -1) for name, flat in flats.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        return self._state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = dict(state)


class JSONLinesLog(Callback):
    """One JSON object a line for each epoch: the rows of the history.

    The file is begun anew with the rows that the history holds, so that a resumed run leaves out
    what came after its checkpoint.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_fit_begin(self, trainer: "Trainer") -> None:
        write_atomically(self.path, "".join(map(_line, trainer.history.rows)).encode())

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def _line(row: Row) -> str:
    """A row as JSON; the loss of a member that has diverged is null, for JSON has no NaN."""
    finite = json.loads(json.dumps(row, default=float), parse_constant=lambda constant: None)
    return json.dumps(finite) + "\n"


class Checkpoint(Callback):
    """Save the state of the training after every epoch, before the first, and after Ctrl-C.

    It comes after the callbacks that have a state, for it saves what they remember of the epoch.

    Parameters
    ----------
    path : the file, replaced whole each time
    notes : JSON-able, kept in the file for whoever resumes
    """

    def __init__(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.notes = dict(notes or {})

    def on_fit_begin(self, trainer: "Trainer") -> None:
        callbacks = list(trainer.callbacks.values())
        for later in callbacks[callbacks.index(self) :]:
            if type(later).state is not Callback.state:
                raise ValueError(f"give {type(later).__name__} before Checkpoint, which saves it")
        save_state(trainer, self.path, self.notes)

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        save_state(trainer, self.path, self.notes)

    def on_interrupt(self, trainer: "Trainer") -> str:
        save_state(trainer, self.path, self.notes)
        return (
            f"the state is in {self.path}: restore_state(trainer, {str(self.path)!r}) and the same "
            "call of fit go on from there"
        )


def named_callbacks(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """The callbacks by the names of their types, numbered where a type comes more than once."""
    named: dict[str, Callback] = {}
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is a list of Callbacks, got {callbacks!r}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"expected a Callback, got {callback!r}")
        kind = type(callback).__name__
        earlier = sum(type(other).__name__ == kind for other in named.values())
        named[f"{kind}.{earlier}"] = callback
    return named
