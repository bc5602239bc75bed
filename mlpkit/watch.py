"""What callbacks that watch a column of the history have in common."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.callbacks import Callback
from mlpkit.history import Row

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer

BETTER = {
    "min": r"loss|log_loss|rmse|mae|calibration_error",
    "max": r"accuracy|top_\d+|precision|recall|f1|r2",
}


class Watch(Callback):
    """Watches a figure, for each member by itself.

    Parameters
    ----------
    monitor : the column, such as "val_loss"
    mode : "min" or "max", what is better; by default as the metric has it.  A metric of your own
        needs it.
    """

    def __init__(self, monitor: str, mode: str | None) -> None:
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode is 'min' or 'max', got {mode!r}")
        name = re.sub(r"^(val_)?(average_)?", "", monitor)
        known = (better for better, names in BETTER.items() if re.fullmatch(names, name))
        mode = mode or next(known, None)
        if mode is None:
            raise ValueError(f"say what is better for {monitor!r}: mode='min' or mode='max'")
        self.monitor = monitor
        self._sign = -1.0 if mode == "max" else 1.0
        self._state: dict[str, NDArray[Any]] = {}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        if self.monitor not in trainer.columns:
            raise ValueError(
                f"{type(self).__name__} watches {self.monitor!r}, but an epoch gives "
                f"{trainer.columns}; val_ columns need validation data"
            )

    def figure(self, row: Row, members: int | None) -> NDArray[np.float64]:
        """The figure of each member (K,), or of the network (1,), negated where more is better."""
        value = np.asarray(row[self.monitor], np.float64)
        if value.shape not in ((), (members or 1,)):
            raise ValueError(
                f"{type(self).__name__} watches one figure per network, but {self.monitor!r} has "
                f"the shape {value.shape} for {members or 1}"
            )
        return np.broadcast_to(self._sign * value, (members or 1,))

    def state(self) -> dict[str, NDArray[Any]]:
        return self._state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = dict(state)
