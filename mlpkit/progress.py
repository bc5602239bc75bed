"""What a training shows while it runs: a live bar on a terminal, a line an epoch elsewhere."""

import sys
import time
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlpkit.callbacks import Callback
from mlpkit.history import Row

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer

REFRESH = 0.5  # seconds between two looks at the loss, each of which waits for the device
PLAIN = ("epoch", "seconds", "samples_per_second")  # written by `describe` in its own way


class Progress(Callback):
    """A bar with the loss, the last figures and the speed (Rich) on a terminal, else plain lines.

    Parameters
    ----------
    stream : where to write, standard error by default
    """

    every_step = False

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream
        self._out: Any = None
        self._bar: Any = None
        self._looked = 0.0
        self._judged = ""  # the validation of the last epoch

    def on_fit_begin(self, trainer: "Trainer") -> None:
        self._out = self.stream or sys.stderr
        if not self._out.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._bar = Bar(*columns, console=Console(file=self._out), transient=True)
        per_epoch = trainer.steps_per_epoch
        steps = None if per_epoch is None else per_epoch * trainer.epochs
        done = trainer.steps
        fields = {"epoch": trainer.epoch + 1, "epochs": trainer.epochs, "figures": ""}
        self._task = self._bar.add_task("", total=steps, completed=done, **fields)
        self._bar.start()

    def on_step_end(self, trainer: "Trainer") -> None:
        if self._bar is None:
            return
        self._bar.update(self._task, completed=trainer.steps)
        now = time.monotonic()
        if now - self._looked > REFRESH:
            self._looked = now
            loss = show(trainer.network.backend.to_numpy(trainer.last_loss))
            speed = self._bar.tasks[0].speed  # None until there are two steps to tell it from
            pace = f"{speed:,.0f} steps/s" if speed else ""
            figures = f"loss {loss}  {self._judged}{pace}"
            self._bar.update(self._task, epoch=trainer.epoch + 1, figures=figures)

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        line = describe(row)
        if self._bar is None:
            print(line, file=self._out, flush=True)
            return
        self._bar.console.print(line, highlight=False)
        judged = [f"{name} {show(v)}  " for name, v in row.items() if name.startswith("val_")]
        self._judged = "".join(judged)

    def on_break(self, trainer: "Trainer", row: Row | None) -> None:
        if row is not None:
            self.on_epoch_end(trainer, row)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._out = None


def describe(row: Row) -> str:
    """A row of the history as one line of text."""
    figures = [f"{name} {show(v)}" for name, v in row.items() if name not in PLAIN]
    speed = f"{row['seconds']:.2f} s  {row['samples_per_second']:,.0f} samples/s"
    return "  ".join([f"epoch {row['epoch']:>3.4g}", *figures, speed])


def show(value: Any) -> str:
    """A number, or the mean and the range of the members' numbers."""
    values = np.asarray(value, np.float64).ravel()
    if len(values) > 1 and np.isfinite(values).any():
        values = values[np.isfinite(values)]  # of those that have not diverged
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{values.mean():.4g} [{values.min():.4g}, {values.max():.4g}]"
