"""What a contestant must get right before it is timed."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import reference
from benchmarks.process import WorkerError
from benchmarks.workload import GATE_STEPS, Workload, scaled

AGREEMENT = 0.999  # of classes: two scores may be equal to rounding


class Gate:
    """Compares with the reference, which it computes once."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._losses, self._classes = cache(self.losses), cache(self.classes)

    def losses(
        self, optimizer: str, batch: int, members: int, eps_hat: bool
    ) -> NDArray[np.float64]:
        """(n, K)."""
        batches, params = self.workload.batches(batch, GATE_STEPS), self.workload.params[:members]
        each = [reference.losses(row, batches, optimizer, eps_hat) for row in params]
        return np.stack(each, axis=1)

    def classes(self) -> NDArray[np.int64]:
        return reference.classes(self.workload.params[0], scaled(self.workload.x_test))

    def check_losses(
        self, found: Any, optimizer: str, batch: int, members: int, eps_hat: bool
    ) -> None:
        """Raise WorkerError with the difference where losses (n, K) are not the reference's."""
        expected = self._losses(optimizer, batch, members, eps_hat)
        off = float(np.abs(np.array(found) / expected - 1).mean(axis=1).max())
        if not off <= reference.TOLERANCE:  # NaN is not
            raise WorkerError(
                f"the first {GATE_STEPS} losses differ from the reference by {off:.1e}, "
                f"allowed are {reference.TOLERANCE:.0e}"
            )

    def check_classes(self, found: Any) -> None:
        """Raise WorkerError where the classes of the test images are not the reference's."""
        share = float(np.mean(np.array(found) == self._classes()))
        if share < AGREEMENT:
            raise WorkerError(f"{1 - share:.1%} of the classes differ from the reference's")
