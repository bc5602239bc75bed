"""Data on their way in: onto the device, and checked."""

from typing import Any

import numpy as np

from mlpkit.batches import Batch, read_rows
from mlpkit.divergence import QUIET
from mlpkit.losses import Loss, check_weights, fit_weights
from mlpkit.network import ROWS_AT_ONCE, Network


class Intake:
    """Takes data x, targets and weights as a network and a loss want them."""

    def __init__(self, network: Network, loss: Loss) -> None:
        self.network, self.loss = network, loss

    def placed(self, x: Any, targets: Any, weights: Any) -> Batch:
        """Data on the device, shapes and dtypes checked; a memory-mapped x stays where it is."""
        network = self.network
        if isinstance(x, np.memmap):
            allowed = x.dtype.kind == "f" or x.dtype == np.uint8
            network.check_input(tuple(x.shape), x.dtype, allowed)
        else:
            x = network.place(x)
        stack = () if network.members is None else (network.members,)
        shape = (*stack, x.shape[-2], network.n_out)  # of the scores
        targets = self.loss.fit_targets(network.backend, targets, shape, network.dtype)
        if weights is not None:
            weights = fit_weights(network.backend, weights, shape, network.dtype)
        return Batch(x, targets, weights)

    @QUIET
    def batch(self, x: Any, targets: Any, weights: Any = None) -> Batch:
        """Data `placed`, their values checked, too.  Reads the device."""
        xp = self.network.backend.xp
        data = self.placed(x, targets, weights)
        floats = not isinstance(data.x, np.memmap) and data.x.dtype != xp.uint8
        if floats and not bool(xp.all(xp.isfinite(data.x))):
            raise ValueError("x holds NaN or infinite values")
        self.loss.check_values(xp, data.targets, self.network.n_out)
        if data.weights is not None:
            check_weights(xp, data.weights)
        return data

    def to_judge(self, x: Any, targets: Any, weights: Any = None) -> Batch:
        """As `data_set`; and the values of a memory-mapped x are checked, for nobody does later."""
        data = self.data_set(x, targets, weights)
        if isinstance(data.x, np.memmap) and data.x.dtype.kind == "f":
            n = data.x.shape[-2]
            for start in range(0, n, ROWS_AT_ONCE):
                read_rows(data.x, np.arange(start, min(start + ROWS_AT_ONCE, n)))
        return data

    def data_set(self, x: Any, targets: Any, weights: Any = None) -> Batch:
        """As `batch`; and there must be samples that count."""
        data, xp = self.batch(x, targets, weights), self.network.backend.xp
        if data.weights is not None and not bool(xp.all(xp.any(data.weights > 0, axis=-1))):
            raise ValueError("all sample weights are 0")
        return data
