"""Training: the four steps, the loop around them, and what it writes down."""

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.activations import Identity
from mlpkit.backends import Array
from mlpkit.callbacks import Callback
from mlpkit.history import History, Row, host_value
from mlpkit.losses import Loss, get_loss
from mlpkit.metrics import Metric, accuracy, get_metric
from mlpkit.network import Network
from mlpkit.optimizers import Adam, Optimizer, OptimizerState
from mlpkit.random import Purpose, check_seed, make_key, shuffled
from mlpkit.settings import check_members, positive_int

# NumPy would warn of each overflow before the loss, which is checked, can say where it came from.
QUIET = np.errstate(all="ignore")


class Trainer:
    """Trains a network.

    Parameters
    ----------
    network : what to train
    loss : by name or as a `Loss`
    optimizer : the update rule, with its learning rate
    metrics : what to report beside the loss: names or functions, see `mlpkit.metrics`
    seed : of the order of the batches, which is the same for all members

    Attributes
    ----------
    history : one row per epoch
    epoch : epochs made so far
    epochs, steps_per_epoch : of the current or last `fit`
    stop : set by a callback to end the training after the epoch
    last_loss : () or (K,), on the device
    callbacks : those of the current or last `fit`, by name
    restored : what `mlpkit.restore_state` found for the callbacks of the next `fit`
    """

    def __init__(
        self,
        network: Network,
        loss: str | Loss = "softmax_cross_entropy",
        optimizer: Optimizer | None = None,
        metrics: Sequence[str | Metric] = (),
        seed: int = 0,
    ) -> None:
        optimizer = Adam(1e-3) if optimizer is None else optimizer
        if not isinstance(network, Network):
            raise TypeError(f"a Trainer trains a Network, got {network!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer such as mlpkit.Adam(1e-3), got {optimizer!r}")
        if isinstance(metrics, str):
            raise TypeError(f"metrics is a list of names, got {metrics!r}")
        self.network = network
        self.loss = get_loss(loss)
        self.optimizer = OptimizerState(optimizer, network)
        self.metrics = dict(map(get_metric, metrics))
        self.seed = check_seed(seed)
        self.history = History()
        self.epoch = 0
        self.epochs = self.steps_per_epoch = 0
        self.stop = False
        self.last_loss: Array = None
        self.callbacks: dict[str, Callback] = {}
        self.restored: dict[str, dict[str, NDArray[Any]]] | None = None
        self._compiled = network.backend.compile(self.step)
        self._diverged: set[int] = set()
        keys = make_key(self.seed, Purpose.ORDER)
        self._order_key = network.backend.asarray(np.array(keys, np.int64))
        check_members(self.loss.name, self.loss.hyper(), network.members)
        if self.loss.on_scores and not isinstance(network.output, Identity):
            raise ValueError(
                f"{self.loss.name} is computed from scores, but the network's output has passed "
                f"{network.output.name}; build it with output='linear'"
            )
        if accuracy in self.metrics.values():
            self._check_accuracy()

    def _check_accuracy(self) -> None:
        """Refuse an accuracy that would not be what it seems."""
        linear = isinstance(self.network.output, Identity)
        if self.network.n_out > 1 and self.loss.name == "binary_cross_entropy":
            raise ValueError(
                "accuracy is of one class a sample, but binary_cross_entropy on several outputs "
                "lets a sample have several"
            )
        if self.network.n_out == 1 and linear and not self.loss.on_scores:
            raise ValueError(
                f"accuracy with one linear output and {self.loss.name} has no threshold: "
                "use binary_cross_entropy, or output='sigmoid'"
            )

    # ---- one step ------------------------------------------------------------------------------

    def step(self, x: Any, targets: Any) -> Array:
        """One update from one batch; the loss before it, () or (K,), stays on the device.

        x (N, D) or (K, N, D); targets (N,), (N, C), (K, N) or (K, N, C) as the loss takes them.
        Shapes and dtypes are checked, values are not: labels out of range and NaN go unnoticed.
        """
        network, backend = self.network, self.network.backend
        scores, backward = network.forward(x, train=True)  # 1  forward pass
        loss, dscores = self.loss(backend, scores, targets)  # 2  error and its gradient
        backward(dscores)  # 3  backward pass, fills network.grads
        self.optimizer.step()  # 4  update of the flat parameters
        return loss

    # ---- many steps ----------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        targets: Any,
        epochs: int = 10,
        batch_size: int = 128,
        validation: tuple[Any, Any] | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> History:
        """Train until `epochs` epochs have been made in all, or a callback stops it.

        Parameters
        ----------
        x : (N, D), or (K, N, D) with data for each member; floating point, or uint8 images, which
            stay bytes on the device
        targets : (N,), (N, C), (K, N) or (K, N, C) as the loss takes them
        epochs : in all: a trainer that has made 5 and is asked for 8 makes 3 more
        batch_size : samples per step; the last batch of an epoch may be smaller
        validation : (x, targets) to evaluate after each epoch, as val_ columns
        callbacks : see `mlpkit.callbacks`

        Returns
        -------
        The history, which has a row per epoch: epoch, loss (mean over the epoch's samples), the
        val_ columns, lr (of the last step), seconds (of training alone), samples_per_second.

        Raises
        ------
        ValueError, TypeError
            Data that do not fit the network or the loss; checked before the first step.
        FloatingPointError
            The loss is NaN or infinite, for every member; where some members go on, a
            RuntimeWarning names those that do not.
        """
        positive_int("epochs", epochs)
        positive_int("batch_size", batch_size)
        x, targets = self._check_data(x, targets)
        if validation is not None:
            validation = self._check_validation(validation)
        named = _named(callbacks)
        if self.restored is None and epochs <= self.epoch:
            raise ValueError(
                f"epochs={epochs}, but this trainer has made {self.epoch} already; "
                "epochs counts from the first"
            )
        if missing := sorted(set(self.restored or {}) - set(named)):
            raise ValueError(f"the restored training had callbacks that are missing: {missing}")
        # A fit that is refused, here or by a callback, can be called again: `restored` stays.
        self.callbacks = named
        self.epochs, self.steps_per_epoch = epochs, -(-x.shape[-2] // batch_size)
        self.stop = self.stop and self.restored is not None
        self.optimizer.begin_run(epochs * self.steps_per_epoch)
        try:
            for name, callback in self.callbacks.items():
                callback.on_fit_begin(self)
                if self.restored and name in self.restored:
                    callback.restore(self.restored[name])
            self.restored = None
            while self.epoch < epochs and not self.stop:
                row = self._epoch(x, targets, batch_size)
                if validation is not None:
                    row |= {f"val_{k}": v for k, v in self._figures(*validation).items()}
                self.epoch += 1
                self.history.rows.append(row)
                for callback in self.callbacks.values():
                    callback.on_epoch_end(self, row)
            for callback in self.callbacks.values():
                callback.on_fit_end(self)
        finally:
            for callback in self.callbacks.values():
                callback.close()
        return self.history

    @QUIET
    def _epoch(self, x: Array, targets: Array, batch_size: int) -> Row:
        """All batches of one epoch in a new order; the losses are read when it is over."""
        network = self.network
        backend, xp = network.backend, network.backend.xp
        n = x.shape[-2]
        axis = -1 if xp.isdtype(targets.dtype, "integral") else -2  # of the samples
        start = time.perf_counter()
        order = shuffled(backend, self._order_key, xp.asarray(self.epoch, dtype=xp.int64), n)
        losses = []
        for first in range(0, n, batch_size):
            rows = order[first : min(first + batch_size, n)]
            batch = xp.take(targets, rows, axis=axis)
            self.last_loss = self._compiled(network.rows(x, rows), batch)
            losses.append(self.last_loss)
            for callback in self.callbacks.values():
                callback.on_step_end(self)
        by_step = backend.to_numpy(xp.stack(losses))  # (S,) or (S, K)
        seconds = time.perf_counter() - start
        self._require_finite(by_step)
        sizes = np.minimum(batch_size, n - np.arange(0, n, batch_size))
        return {
            "epoch": self.epoch + 1,
            "loss": host_value(sizes @ by_step.astype(np.float64) / n),
            "lr": host_value(backend.to_numpy(self.optimizer.lr)),
            "seconds": seconds,
            "samples_per_second": n / seconds,
        }

    def _require_finite(self, by_step: NDArray[Any]) -> None:
        """Stop where the loss is not finite; members that diverge are named, the others go on."""
        bad = ~np.isfinite(by_step.reshape(len(by_step), -1))  # (S, K)
        lost = np.flatnonzero(bad.any(axis=0))
        if not len(lost):
            return
        new = sorted(set(lost.tolist()) - self._diverged)
        step = int(bad[:, new or lost].any(axis=1).argmax())
        where = f"in epoch {self.epoch + 1} at step {step + 1} of {len(by_step)}"
        if len(lost) == bad.shape[1]:
            raise FloatingPointError(
                f"the loss is no longer finite: {by_step[step]} {where}. "
                "A smaller learning rate is the usual cure"
            )
        self._diverged.update(new)
        if new:
            text = f"the loss of members {new} is no longer finite, first {where}"
            warnings.warn(text, RuntimeWarning, stacklevel=5)

    def evaluate(self, x: Any, targets: Any) -> dict[str, Any]:
        """The loss and the metrics on a data set: a number each, or a list of one per member."""
        return self._figures(*self._check_data(x, targets))

    @QUIET
    def _figures(self, x: Array, targets: Array) -> dict[str, Any]:
        network = self.network
        scores = network.predict_scores(x)
        loss, _ = self.loss(network.backend, scores, targets)
        figures = {"loss": loss} | {
            name: metric(network, scores, targets) for name, metric in self.metrics.items()
        }
        return {
            name: host_value(network.backend.to_numpy(value)) for name, value in figures.items()
        }

    def _check_validation(self, validation: Any) -> tuple[Array, Array]:
        if not isinstance(validation, list | tuple) or len(validation) != 2:
            raise TypeError("validation is a pair (x, targets)")
        try:
            return self._check_data(*validation)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from error

    @QUIET
    def _check_data(self, x: Any, targets: Any) -> tuple[Array, Array]:
        """A data set on the device, its shapes, dtypes and values checked.  Reads the device."""
        network = self.network
        xp = network.backend.xp
        x = network.place(x)
        if x.dtype != xp.uint8 and not bool(xp.all(xp.isfinite(x))):
            raise ValueError("x holds NaN or infinite values")
        stack = () if network.members is None else (network.members,)
        shape = (*stack, x.shape[-2], network.n_out)  # of the scores
        targets = self.loss.fit_targets(network.backend, targets, shape, network.dtype)
        self.loss.check_values(xp, targets, network.n_out)
        return x, targets


def _named(callbacks: Iterable[Callback]) -> dict[str, Callback]:
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
