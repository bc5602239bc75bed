"""Training: the four steps, and the loop around them."""

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.averaging import MovingAverage
from mlpkit.backends import Array
from mlpkit.batches import ArrayBatches, Batch, IterableBatches, sampling_weights
from mlpkit.budget import Budget
from mlpkit.callbacks import Callback, named_callbacks
from mlpkit.compatibility import check_loss, check_rule
from mlpkit.constraints import Constraint, check_constraints
from mlpkit.divergence import QUIET, Divergence
from mlpkit.groups import Groups
from mlpkit.history import EpochLosses, History, Row, host_value, mean_loss, read
from mlpkit.intake import Intake
from mlpkit.interrupt import deferred
from mlpkit.losses import Loss, get_loss
from mlpkit.metrics import Metric, named_metrics
from mlpkit.network import Network
from mlpkit.optimizers import Adam, Optimizer, OptimizerState
from mlpkit.penalties import Penalty, check_penalties, penalized
from mlpkit.random import check_seed
from mlpkit.settings import PerMember, whole
from mlpkit.stack import walk

ROW = ("epoch", "loss", "lr", "seconds", "samples_per_second")  # without validation


class Trainer:
    """Trains a network.

    Parameters
    ----------
    network : what to train
    loss : by name or as a `Loss`
    optimizer : the update rule, with its learning rate
    metrics : what to report beside the loss: names or functions, see `mlpkit.metrics`
    seed : of the order of the batches, which is the same for all members
    penalties : what is added to the loss, see `mlpkit.penalties`
    constraints : what holds gradients and weights in bounds, see `mlpkit.constraints`
    accumulate : parts that a batch is worked through in, one after the other, before one update
        from the mean of their gradients: the memory of a batch that much smaller.  `BatchNorm`
        sees each part as a batch.
    average : decay in [0, 1) of a moving average of the weights, see `MovingAverage`; it is
        evaluated beside the weights themselves, and saved with the state
    compile : whether `fit` records its steps and replays them, where the backend can (as CUDA
        graphs); the numbers are the same

    Attributes
    ----------
    history : one row per epoch
    epoch : epochs made so far
    batch : batches made of the epoch under way, 0 unless it was broken off
    steps : updates made so far
    epochs, steps_per_epoch : of the current or last `fit`; steps_per_epoch is None if not known
    stop : set by a callback to end the training after the epoch
    last_loss : () or (K,), on the device
    losses, form : of the epoch under way: the steps' losses, and what its batches are made from
    columns : of the rows of the current or last `fit`
    callbacks : those of the current or last `fit`, by name
    records : whether `fit` records its steps, where the backend can
    restored, paused : what `mlpkit.restore_state` found for the callbacks of the next `fit`, and
        what those of a `fit` that was broken off remember; None for nothing

    >>> from mlpkit import MLP
    >>> trainer = Trainer(MLP([2, 8, 2], seed=1), optimizer=Adam(0.1), metrics=["accuracy"])
    >>> x, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0]
    >>> history = trainer.fit(x, y, epochs=100)
    >>> trainer.evaluate(x, y)["accuracy"]
    1.0
    """

    def __init__(
        self,
        network: Network,
        loss: str | Loss = "softmax_cross_entropy",
        optimizer: Optimizer | None = None,
        metrics: Sequence[str | Metric] = (),
        seed: int = 0,
        penalties: Sequence[Penalty] = (),
        constraints: Sequence[Constraint] = (),
        accumulate: int = 1,
        average: PerMember | None = None,
        compile: bool = True,
    ) -> None:
        optimizer = Adam() if optimizer is None else optimizer
        if not isinstance(network, Network):
            raise TypeError(f"a Trainer trains a Network, got {network!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer such as mlpkit.Adam(1e-3), got {optimizer!r}")
        if isinstance(metrics, str):
            raise TypeError(f"metrics is a list of names, got {metrics!r}")
        self.network = network
        self.loss = get_loss(loss)
        self.optimizer = OptimizerState(optimizer, network)
        self.metrics = named_metrics(metrics)
        self.seed = check_seed(seed)
        self.penalties = check_penalties(penalties, network)
        self.constraints = check_constraints(constraints, network)
        self.accumulate = whole("accumulate", accumulate)
        self.average = None if average is None else MovingAverage(network, average)
        self.history = History()
        self.epoch = self.batch = self.steps = 0
        self.epochs = 0
        self.steps_per_epoch: int | None = 0
        self.stop = False
        self.last_loss: Array = None
        self.losses = EpochLosses(network.backend)
        self.form: dict[str, Any] = {}
        self.columns: list[str] = []
        self.callbacks: dict[str, Callback] = {}
        self.restored: dict[str, dict[str, NDArray[Any]]] | None = None
        self.paused: dict[str, dict[str, NDArray[Any]]] | None = None
        self.records = compile and optimizer.recordable
        self._begin_to_record()
        self._divergence = Divergence()
        self._intake = Intake(network, self.loss)
        check_loss(network, self.loss, self.metrics.values())
        check_rule(network, optimizer, self.constraints)

    def _begin_to_record(self) -> None:
        """Forget what was recorded; it holds for a run whose length is known, or not known."""
        compile = self.network.backend.compile
        self._compiled = compile(self.step) if self.records else self.step
        self._groups = Groups(self)
        self._length_is_known = self.optimizer.run_steps is not None

    # ---- one step ------------------------------------------------------------------------------

    def step(self, x: Any, targets: Any, weights: Any = None) -> Array:
        """One update from one batch; the loss before it, () or (K,), stays on the device.

        x (N, D) or (K, N, D); targets (N,), (N, C), (K, N) or (K, N, C) as the loss takes them;
        weights (N,) or (K, N), what each sample counts.  The loss holds what penalties add to it.
        Shapes and dtypes are checked, values are not: labels out of range and NaN go unnoticed.
        """

        def gradients() -> Array:
            return self.gradients(x, targets, weights)

        loss = gradients()  # 1 to 3
        self.optimizer.step(loss, gradients)  # 4  update of the flat parameters
        for constraint in self.constraints:
            constraint.on_parameters(self.network)
        if self.average is not None:
            self.average.update()
        return loss

    def gradients(self, x: Any, targets: Any, weights: Any = None) -> Array:
        """The loss of a batch with its penalties; its gradient fills `network.grads`."""
        if self.accumulate > 1:
            loss = self._accumulated(x, targets, weights)
        else:
            loss = self._backpropagate(x, targets, weights)
        loss = penalized(loss, self.network, self.penalties)
        for constraint in self.constraints:
            constraint.on_gradients(self.network)
        return loss

    def _backpropagate(self, x: Any, targets: Any, weights: Any, share: Any = 1) -> Array:
        scores, backward = self.network.forward(x, train=True)  # 1  forward pass
        loss, dscores = self.loss(self.network.backend, scores, targets, weights)  # 2  error
        if not isinstance(share, int):
            loss, dscores = share * loss, share[..., None, None] * dscores
        backward(dscores)  # 3  backward pass, fills network.grads
        return loss

    def _accumulated(self, x: Any, targets: Any, weights: Any) -> Array:
        """The batch in parts of about equal size, whose means make up its mean."""
        network, backend, xp = self.network, self.network.backend, self.network.backend.xp
        data = self._intake.placed(x, targets, weights)
        n, zero = data.x.shape[-2], xp.zeros((), dtype=network.dtype)
        total = zero + self.loss.mass(backend, data.targets, data.weights)
        total = xp.where(total > 0, total, xp.ones_like(total))
        grads, loss = xp.zeros_like(network.grads), zero
        parts = min(self.accumulate, n)
        for start, stop in pairwise(n * part // parts for part in range(parts + 1)):
            part = data.part(backend, start, stop)
            share = (zero + self.loss.mass(backend, part.targets, part.weights)) / total
            loss = loss + self._backpropagate(*part, xp.astype(share, network.dtype))
            grads = grads + network.grads
        network.grads[...] = grads
        return loss

    # ---- many steps ----------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        targets: Any = None,
        epochs: int = 10,
        batch_size: int | None = 128,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callback] = (),
        weights: Any = None,
        sampling: Any = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
    ) -> History:
        """Train until `epochs` epochs have been made in all, a budget is spent or a callback stops.

        Parameters
        ----------
        x : (N, D), or (K, N, D) with data for each member; floating point, or uint8 images, which
            stay bytes on the device.  A `numpy.memmap` stays in its file, read batch by batch.  Or,
            without targets, an iterable of batches (x, targets) or (x, targets, weights) that gives
            them anew every epoch, each in memory of its own, for it is read ahead on a thread.
        targets : (N,), (N, C), (K, N) or (K, N, C) as the loss takes them
        epochs : in all: a trainer that has made 5 and is asked for 8 makes 3 more
        batch_size : samples per step; the last batch of an epoch may be smaller.  None for all of
            them, full-batch descent; 1 for single samples.
        validation : (x, targets) or (x, targets, weights) to evaluate after each epoch, as val_
            columns
        callbacks : see `mlpkit.callbacks`
        weights : (N,) or (K, N), what each sample counts in the loss: 2 is the sample given twice
        sampling : None for every sample once an epoch; "balanced" to draw N samples, each class
            as often as any other; or the weights (N,) to draw them by, with replacement
        max_steps : updates in all, as epochs counts; the run of a schedule ends there, too
        max_seconds : of this call, looked at after every step

        Returns
        -------
        The history, which has a row per epoch: epoch, loss (mean over the epoch's samples), the
        val_ columns, lr (of the last step), seconds (of training alone), samples_per_second.  The
        row of an epoch that a budget cuts short has a fraction in epoch, where the length of an
        epoch is known; the next `fit`, or one of a state that `Checkpoint` has saved, completes the
        epoch.

        Raises
        ------
        ValueError, TypeError
            Data that do not fit the network or the loss; checked before the first step, or where
            they are read batch by batch, with the batch.
        FloatingPointError
            The loss is NaN or infinite, for every member; where some members go on, a
            RuntimeWarning names those that do not.
        KeyboardInterrupt
            Ctrl-C; the step under way is finished, and the same call goes on where it was.
        """
        whole("epochs", epochs)
        budget = Budget(max_steps, max_seconds)
        source = self._source(x, targets, batch_size, weights, sampling)
        if validation is not None:
            validation = self._check_validation(validation)
        named = named_callbacks(callbacks)
        self.steps = int(self.network.backend.to_numpy(self.optimizer.count))
        self._refuse_to_go_on(epochs, budget, source, named)
        # A fit that is refused, here or by a callback, can be called again: `restored` stays.
        remembered = self.paused if self.restored is None else self.restored
        kept = {name for name, state in (remembered or {}).items() if state} <= set(named)
        self.callbacks = named
        self.form = source.form
        self.epochs, self.steps_per_epoch = epochs, source.steps
        self.columns = [*ROW, *(self._validation_columns() if validation else [])]
        self.stop = self.stop and remembered is not None and kept
        lengths = [budget.max_steps] if budget.max_steps else []
        if source.steps is not None:
            lengths.append(epochs * source.steps)
        self.optimizer.begin_run(min(lengths, default=None))
        if self._length_is_known != (self.optimizer.run_steps is not None):
            self._begin_to_record()
        try:
            for name, callback in self.callbacks.items():
                callback.on_fit_begin(self)
                if remembered and name in remembered:
                    callback.restore(remembered[name])
            self.restored = self.paused = None
            with deferred() as pressed:
                while self._unfinished() and not budget.spent(self.steps):
                    row = self._epoch(source, budget, pressed)
                    if pressed.is_set() and self.batch:
                        self._interrupted()
                    if validation is not None:
                        row |= {f"val_{k}": v for k, v in self._figures(*validation).items()}
                    self.history.rows.append(row)
                    if self.batch:
                        self._break_off(row)
                    else:
                        for callback in self.callbacks.values():
                            callback.on_epoch_end(self, row)
                    if pressed.is_set():
                        self._interrupted()
            if self._unfinished():
                self._pause()
            for callback in self.callbacks.values():
                callback.on_fit_end(self)
        finally:
            for callback in self.callbacks.values():
                callback.close()
        return self.history

    def _refuse_to_go_on(
        self,
        epochs: int,
        budget: Budget,
        source: ArrayBatches | IterableBatches,
        callbacks: Collection[str],
    ) -> None:
        """Raise where nothing is left to do, or where this is not what the training had begun."""
        if self.batch and source.form != self.form:
            raise ValueError(
                f"the epoch under way was begun with {self.form}, and cannot go on with "
                f"{source.form}"
            )
        if self.restored is None and epochs <= self.epoch:
            raise ValueError(
                f"epochs={epochs}, but this trainer has made {self.epoch} already; "
                "epochs counts from the first"
            )
        if self.restored is None and budget.max_steps and budget.max_steps <= self.steps:
            raise ValueError(
                f"max_steps={budget.max_steps}, but this trainer has made {self.steps} already; "
                "max_steps counts from the first"
            )
        more = epochs > self.epoch + 1 and not budget.max_steps
        if source.once and (self.batch or more):
            raise TypeError(
                "an iterator gives its batches once, for the rest of one epoch: give a list of "
                "batches, or an object with __iter__ that begins anew"
            )
        if missing := sorted(set(self.restored or {}) - set(callbacks)):
            raise ValueError(f"the restored training had callbacks that are missing: {missing}")

    @QUIET
    def _epoch(
        self, source: ArrayBatches | IterableBatches, budget: Budget, pressed: threading.Event
    ) -> Row:
        """The batches of an epoch that are left, until the budget is spent; its row.

        The losses are read when it is over.
        """
        backend = self.network.backend
        start, seen = time.perf_counter(), 0
        ended = True
        with closing(self._groups.parts(source, budget)) as parts:
            for part in parts:
                if isinstance(part, Batch):
                    self.last_loss = self._compiled(*part)
                    mass = self.loss.mass(backend, part.targets, part.weights)
                    self.losses.add(self.last_loss, mass)
                    steps, samples = 1, part.x.shape[-2]
                else:
                    losses, masses = self._groups.run(part)
                    self.losses.add_all(losses, masses)
                    self.last_loss = losses[-1, ...]
                    steps, samples = part.shape[0], part.size
                self.batch += steps
                self.steps += steps
                seen += samples
                for callback in self.callbacks.values():
                    callback.on_step_end(self)
                if pressed.is_set() or budget.spent(self.steps):
                    ended = self.batch == source.steps
                    break
        if self.batch == 0:
            raise ValueError("the batches have come to an end: give something that starts anew")
        by_step, sizes = self.losses.arrays()
        seconds = time.perf_counter() - start
        self._divergence.check(by_step, self.epoch + 1)
        part = 1.0 if ended else self.batch / (source.steps or np.inf)
        lr = backend.to_numpy(self.optimizer.lr)
        row = {
            "epoch": self.epoch + 1 if ended else self.epoch + part,
            "loss": host_value(mean_loss(by_step, sizes)),
            "lr": host_value(lr.reshape(lr.shape[:1])),
            "seconds": seconds,
            "samples_per_second": seen / seconds,
        }
        if ended:
            self.epoch += 1
            self.batch = 0
            self.losses = EpochLosses(backend)
        return row

    def _validation_columns(self) -> list[str]:
        figures = ["loss", *self.metrics]
        averaged = [] if self.average is None else [f"average_{name}" for name in figures]
        return [f"val_{name}" for name in (*figures, *averaged)]

    def _unfinished(self) -> bool:
        """Whether there is more to do: an epoch that has begun is completed."""
        return self.batch > 0 or (self.epoch < self.epochs and not self.stop)

    def _pause(self) -> None:
        """Keep what the callbacks remember for the `fit` that goes on."""
        self.paused = {name: callback.state() for name, callback in self.callbacks.items()}

    def _break_off(self, row: Row | None) -> list[str]:
        """Between two steps of an epoch, or at Ctrl-C; how to go on, in words."""
        self._pause()
        ways = [callback.on_break(self, row) for callback in self.callbacks.values()]
        return [way for way in ways if way]

    def _interrupted(self) -> None:
        way = "the same call of fit goes on from there"
        ways = self._break_off(None)
        if not self._unfinished():
            way = "the training was complete"
            for callback in self.callbacks.values():
                callback.on_fit_end(self)
        ways.append(way)
        raise KeyboardInterrupt(f"interrupted after {self.steps} steps; {ways[0]}")

    # ---- evaluation ----------------------------------------------------------------------------

    def evaluate(self, x: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The loss and the metrics on a data set: a number each, or a list of one per member.

        Penalties have no part in the loss, and weights none in the metrics.  With a moving average
        its figures are there too, as average_loss and so on.
        """
        return self._figures(*self._intake.to_judge(x, targets, weights))

    @QUIET
    def _figures(self, x: Any, targets: Array, weights: Array | None) -> dict[str, Any]:
        def judge(network: Network, prefix: str) -> dict[str, Array]:
            scores = network.predict_scores(x)
            loss, _ = self.loss(network.backend, scores, targets, weights)
            figures = {"loss": loss} | {
                name: metric(network, scores, targets) for name, metric in self.metrics.items()
            }
            return {prefix + name: value for name, value in figures.items()}

        figures = judge(self.network, "")
        if self.average is not None:
            figures |= judge(self.average.network(), "average_")
        return read(self.network.backend, figures)

    # ---- data ----------------------------------------------------------------------------------

    def _source(
        self, x: Any, targets: Any, batch_size: int | None, weights: Any, sampling: Any
    ) -> ArrayBatches | IterableBatches:
        """Where the batches come from, checked."""
        rule = self.optimizer.rule
        if targets is None:
            if not isinstance(x, Iterable) or hasattr(x, "shape"):
                raise TypeError("fit takes x and targets, or an iterable of batches")
            if weights is not None or sampling is not None:
                raise TypeError("batches bring their own weights and sampling")
            if rule.full_batch:
                raise ValueError(f"{type(rule).__name__} needs all data in one batch, as arrays")
            return IterableBatches(x, self._intake.batch)
        data = self._intake.data_set(x, targets, weights)
        n = data.x.shape[-2]
        size = n if batch_size is None else whole("batch_size", batch_size)
        if rule.full_batch and (size < n or sampling is not None):
            raise ValueError(
                f"{type(rule).__name__} needs all {n} samples in every step: batch_size=None"
            )
        drawn = None
        if sampling is not None:
            drawn = sampling_weights(sampling, data.targets, n, self.network.backend)
        source = ArrayBatches(self.network, data, size, self.seed, drawn)
        smallest = source.smallest()
        smallest //= min(self.accumulate, smallest)
        if smallest < (rows := max(layer.min_rows for _, _, layer in walk(self.network.layers))):
            raise ValueError(
                f"the smallest batch has {smallest} samples, but a layer needs at least {rows} in "
                f"training: {n} samples in batches of {size}, accumulate={self.accumulate}"
            )
        return source

    def _check_validation(self, validation: Any) -> Batch:
        if not isinstance(validation, list | tuple) or len(validation) not in (2, 3):
            raise TypeError("validation is (x, targets) or (x, targets, weights)")
        try:
            data = self._intake.to_judge(*validation)
            self._figures(*data.part(self.network.backend, 0, 1))  # before the training, not after
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from error
        return data
