"""What a contestant must get right before it is timed."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import reference
from benchmarks.process import WorkerError
from benchmarks.workload import BATCH, GATE_STEPS, Workload, scaled

# How much further one member's losses may be off than those of all on average: of 64 networks there
# are always some with an input of a ReLU that is zero to rounding (see `reference.TOLERANCES`).
OF_ONE = 10
ORDERS = 0.1  # how far mean losses of an epoch may lie apart: each contestant draws its own order
AGREEMENT = 0.999  # of classes: two scores may be equal to rounding


class Gate:
    """Compares with the reference, which it computes once."""

    def __init__(self, workload: Workload, precision: str) -> None:
        self.workload, self.tolerance = workload, reference.TOLERANCES[precision]
        self._losses, self._epoch = cache(self.losses), cache(self.epoch)
        self._classes = cache(self.classes)

    def losses(
        self, optimizer: str, batch: int, members: int, eps_hat: bool
    ) -> NDArray[np.float64]:
        """(n, K)."""
        batches, params = self.workload.batches(batch, GATE_STEPS), self.workload.params[:members]
        each = [reference.losses(row, batches, optimizer, eps_hat) for row in params]
        return np.stack(each, axis=1)

    def epoch(self) -> float:
        """The mean loss of an epoch, in the order of the data."""
        batches = self.workload.batches(BATCH, len(self.workload.x) // BATCH)
        return float(reference.losses(self.workload.params[0], batches, "Adam").mean())

    def classes(self) -> NDArray[np.int64]:
        return reference.classes(self.workload.params[0], scaled(self.workload.x_test))

    def check_losses(
        self, found: Any, optimizer: str, batch: int, members: int, eps_hat: bool
    ) -> None:
        """Raise WorkerError with the difference where losses (n, K) are not the reference's."""
        expected = self._losses(optimizer, batch, members, eps_hat)
        each = np.abs(np.array(found) / expected - 1)
        off = float(max(each.mean(axis=1).max(), each.max() / OF_ONE))
        if not off <= self.tolerance:  # NaN is not
            raise WorkerError(
                f"the first {GATE_STEPS} losses differ from the reference by {off:.1e}, "
                f"allowed are {self.tolerance:.0e}"
            )

    def check_epoch(self, found: float) -> None:
        """Raise WorkerError where the mean loss of a first epoch is not about the reference's."""
        off = abs(found / self._epoch() - 1)
        if not off <= ORDERS:
            raise WorkerError(
                f"the mean loss of the first epoch differs from the reference by {off:.0%}, "
                f"allowed are {ORDERS:.0%}"
            )

    def check_classes(self, found: Any) -> None:
        """Raise WorkerError where the classes of the test images are not the reference's."""
        share = float(np.mean(np.array(found) == self._classes()))
        if share < AGREEMENT:
            raise WorkerError(f"{1 - share:.1%} of the classes differ from the reference's")
