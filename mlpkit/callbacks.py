"""What may happen beside the training: stopping early, a log, checkpoints."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from mlpkit.checkpoint import save_state
from mlpkit.files import write_atomically
from mlpkit.history import Row

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer


class Callback:
    """The moments of a `fit`; a callback overrides those it needs.

    A callback ends the training after an epoch by setting `trainer.stop`.  One that remembers
    something forgets it in `on_fit_begin`, gives it as named arrays in `state` and, in a training
    that is resumed, takes it back in `restore` right after `on_fit_begin`.

    Attributes
    ----------
    every_step : whether an `on_step_end` has to come after each step; where it is False it may come
        after several, which a GPU then makes without waiting for Python
    """

    every_step: ClassVar[bool] = True

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Before the first epoch of this call."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After a step; reading a device array here makes the device wait."""

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        """After an epoch and its validation, with its row of the history."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """After the last epoch, unless an error ended the training."""

    def on_break(self, trainer: "Trainer", row: Row | None) -> str | None:
        """Where the training is broken off between two steps; how to go on, if it knows.

        By a budget, with the row of the epoch so far, or by Ctrl-C, without one.
        """
        return None

    def close(self) -> None:
        """However the training ended: let go of what is held."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What has to be saved for a resumed training to be exact."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave."""


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

    def on_break(self, trainer: "Trainer", row: Row | None) -> None:
        if row is not None:
            self.on_epoch_end(trainer, row)


def _line(row: Row) -> str:
    """A row as JSON; the loss of a member that has diverged is null, for JSON has no NaN."""
    finite = json.loads(json.dumps(row, default=float), parse_constant=lambda constant: None)
    return json.dumps(finite) + "\n"


class Checkpoint(Callback):
    """Save the state of the training before the first epoch, after each, and where it breaks off.

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

    def on_break(self, trainer: "Trainer", row: Row | None) -> str:
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
