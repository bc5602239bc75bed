"""A lower learning rate where a figure has stopped improving."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpkit.history import Row
from mlpkit.settings import one_number, whole
from mlpkit.watch import Watch

if TYPE_CHECKING:
    from mlpkit.optimizers import OptimizerState
    from mlpkit.trainer import Trainer


class ReduceOnPlateau(Watch):
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
    mode : "min" or "max", what is better; by default as the metric has it
    """

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
        super().__init__(monitor, mode)
        self.factor = one_number("factor", factor, below=1.0)
        self.patience = whole("patience", patience, least=0)
        self.threshold = one_number("threshold", threshold, below=1.0)
        self.cooldown = whole("cooldown", cooldown, least=0)
        self.min_lr = one_number("min_lr", min_lr)

    def on_fit_begin(self, trainer: "Trainer") -> None:
        super().on_fit_begin(trainer)
        members = trainer.network.members or 1
        self._state = {
            "best": np.full(members, np.inf),
            "bad": np.zeros(members, np.int64),  # epochs in a row without an improvement
            "rest": np.zeros(members, np.int64),  # epochs left of the cooldown
        }

    def on_epoch_end(self, trainer: "Trainer", row: Row) -> None:
        value = self.figure(row, trainer.network.members)
        best, bad, rest = (self._state[name] for name in ("best", "bad", "rest"))
        better = value < best * (1 - self._sign * self.threshold)
        best[...] = np.where(better, value, best)
        bad[...] = np.where(better | (rest > 0), 0, bad + 1)
        rest[...] = np.maximum(rest - 1, 0)
        reduced = bad > self.patience
        bad[reduced] = 0
        rest[reduced] = self.cooldown
        if reduced.any():
            self._reduce(trainer.optimizer, reduced)

    def _reduce(self, optimizer: "OptimizerState", reduced: NDArray[np.bool_]) -> None:
        """Lower the rates of the members that are true in `reduced` (K,)."""
        backend, scale = optimizer.network.backend, optimizer.scale
        lr = backend.to_numpy(optimizer.lr).reshape(-1)  # of the last update, scaled already
        to_min = np.divide(self.min_lr, lr, out=np.ones_like(lr), where=lr > self.min_lr)
        by = np.where(reduced, np.maximum(self.factor, to_min), 1.0).reshape(scale.shape)
        scale[...] = scale * backend.asarray(by)
