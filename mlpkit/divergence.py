"""Losses that are no longer finite."""

import warnings

import numpy as np
from numpy.typing import NDArray

# NumPy would warn of each overflow before the loss, which is checked, can say where it came from.
QUIET = np.errstate(all="ignore")


class Divergence:
    """Ends a training whose loss is not finite; of members it names those that diverge, once."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def check(self, by_step: NDArray[np.float64], epoch: int) -> None:
        """Look at an epoch's losses (S,) or (S, K).

        Raises FloatingPointError where none goes on, and warns where some do.
        """
        bad = ~np.isfinite(by_step.reshape(len(by_step), -1))  # (S, K)
        lost = np.flatnonzero(bad.any(axis=0))
        if not len(lost):
            return
        new = sorted(set(lost.tolist()) - self._known)
        step = int(bad[:, new or lost].any(axis=1).argmax())
        where = f"in epoch {epoch} at step {step + 1} of {len(by_step)}"
        if len(lost) == bad.shape[1]:
            raise FloatingPointError(
                f"the loss is no longer finite: {by_step[step]} {where}. "
                "A smaller learning rate is the usual cure"
            )
        self._known.update(new)
        if new:
            text = f"the loss of members {new} is no longer finite, first {where}"
            warnings.warn(text, RuntimeWarning, stacklevel=5)
