"""A lower learning rate where a figure has stopped improving."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.callbacks import Callback
from mlpkit.history import Row
from mlpkit.settings import one_number

if TYPE_CHECKING:
    from mlpkit.optimizers import OptimizerState
    from mlpkit.trainer import Trainer


class ReduceOnPlateau(Callback):
    """Multiply the learning rate by `factor` after more than `patience` epochs without improvement.

    The rule is that of torch.optim.lr_scheduler.ReduceLROnPlateau, with eps = 0; each member has
    its own best figure and its own rate.  It comes on top of the optimizer's schedule, and the
    reduction stays with the optimizer after the `fit`.

    Parameters
    ----------
    monitor : the column of the history to watch
    factor : in [0, 1)
    patience : epochs in a row without an improvement that are borne, from 0 on
    threshold : in [0, 1); what falls below (1 - threshold) of the best figure is an improvement,
        or for "max" what rises above (1 + threshold) of it
    cooldown : epochs after a reduction that do not count
    min_lr : the rate is not reduced below it
    mode : "min" or "max"; by default "max" for an accuracy and "min" for anything else
    """

    _optimizer: "OptimizerState"  # of the training that is under way

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: str | None = None,
    ) -> None:
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode is 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.factor = one_number("factor", factor, below=1.0)
        self.patience = _count("patience", patience)
        self.threshold = one_number("threshold", threshold, below=1.0)
        self.cooldown = _count("cooldown", cooldown)
        self.min_lr = one_number("min_lr", min_lr)
        maximize = mode == "max" or (mode is None and monitor.endswith("accuracy"))
        self._sign = -1.0 if maximize else 1.0
        self._state: dict[str, NDArray[Any]] = {}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        self._optimizer = trainer.optimizer
        members = trainer.network.members or 1
        self._state = {
            "best": np.full(members, np.inf),
            "bad": np.zeros(members, np.int64),  # epochs in a row without an improvement
            "rest": np.zeros(members, np.int64),  # epochs left of the cooldown
        }

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        if self.monitor not in row:
            raise ValueError(
                f"ReduceOnPlateau watches {self.monitor!r}, but an epoch gives {sorted(row)}; "
                "val_ columns need validation data"
            )
        value = self._sign * np.asarray(row[self.monitor], np.float64)  # () or (K,)
        best, bad, rest = (self._state[name] for name in ("best", "bad", "rest"))
        if value.shape not in ((), best.shape):
            raise ValueError(
                f"ReduceOnPlateau watches one figure per network, but {self.monitor!r} has the "
                f"shape {value.shape} for {best.size}"
            )

        better = value < best * (1 - self._sign * self.threshold)
        best[...] = np.where(better, value, best)
        bad[...] = np.where(better | (rest > 0), 0, bad + 1)
        rest[...] = np.maximum(rest - 1, 0)
        reduced = bad > self.patience
        bad[reduced] = 0
        rest[reduced] = self.cooldown
        if reduced.any():
            self._reduce(reduced)

    def _reduce(self, reduced: NDArray[np.bool_]) -> None:
        """Lower the rates of the members that are true in `reduced` (K,)."""
        backend, scale = self._optimizer.network.backend, self._optimizer.scale
        lr = backend.to_numpy(self._optimizer.lr).reshape(-1)  # of the last update, scaled already
        to_min = np.divide(self.min_lr, lr, out=np.ones_like(lr), where=lr > self.min_lr)
        by = np.where(reduced, np.maximum(self.factor, to_min), 1.0).reshape(scale.shape)
        scale[...] = scale * backend.asarray(by)

    def state(self) -> dict[str, NDArray[Any]]:
        if not self._state:
            return {}
        optimizer = self._optimizer
        return self._state | {"scale": optimizer.network.backend.to_numpy(optimizer.scale)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = dict(state)
        optimizer = self._optimizer
        optimizer.scale[...] = optimizer.network.backend.asarray(self._state.pop("scale"))


def _count(name: str, value: Any) -> int:
    """`value` as an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(one_number(name, value))
