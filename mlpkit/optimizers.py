"""The update rules: their settings here, their formulas in `Backend.sgd` and `Backend.adam`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mlpkit.backends import Array, Backend
from mlpkit.network import Network
from mlpkit.schedules import Schedule, constant
from mlpkit.settings import PerMember, check_members, number


@dataclass(frozen=True)
class Optimizer(ABC):
    """An update rule: a frozen dataclass of its settings, the learning rate first."""

    lr: PerMember | Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule):
            object.__setattr__(self, "lr", number("lr", self.lr))

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule."""
        return self.lr if isinstance(self.lr, Schedule) else constant(self.lr)

    def hyper(self) -> dict[str, PerMember]:
        """The settings, but for the learning rate, that are a number or one per member."""
        return {}

    def vectors(self) -> tuple[str, ...]:
        """Names of what the rule remembers, each vector shaped like the parameters."""
        return ()

    @abstractmethod
    def update(
        self,
        backend: Backend,
        params: Array,
        grads: Array,
        vectors: Mapping[str, Array],
        lr: Array,
        step: Array,
    ) -> None:
        """Change the parameters and the vectors, (P,) or (K, P), in place.

        lr () or (K, 1) and step () are float64; the first update has step 0.
        """


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, see `Backend.sgd`.

    Parameters
    ----------
    lr : learning rate, one per member, or a schedule
    momentum : in [0, 1), or one per member
    nesterov : whether the gradient is taken to be where the momentum leads; needs momentum
    weight_decay : L2 penalty on weights and biases alike, or one per member
    """

    momentum: PerMember = 0.0
    nesterov: bool = False
    weight_decay: PerMember = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", number("momentum", self.momentum, below=1.0))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum")

    def hyper(self) -> dict[str, PerMember]:
        return {"momentum": self.momentum, "weight_decay": self.weight_decay}

    def vectors(self) -> tuple[str, ...]:
        return () if self.momentum == 0 else ("velocity",)

    def update(
        self,
        backend: Backend,
        params: Array,
        grads: Array,
        vectors: Mapping[str, Array],
        lr: Array,
        step: Array,
    ) -> None:
        def device(value: PerMember) -> Array | None:
            return None if value == 0 else backend.constant(value, params.dtype, ndim=2)

        backend.sgd(
            params,
            grads,
            vectors.get("velocity"),
            backend.xp.astype(lr, params.dtype),
            device(self.momentum),
            device(self.weight_decay),
            self.nesterov,
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, see `Backend.adam`; the weight decay is an L2 penalty, part of the gradient.

    Parameters
    ----------
    lr : learning rate, one per member, or a schedule
    betas : decay rates of the two moments, each in [0, 1), each a number or one per member
    eps : added to the root of the second moment, or one per member
    weight_decay : on weights and biases alike, or one per member
    """

    decoupled: ClassVar[bool] = False

    betas: tuple[PerMember, PerMember] = (0.9, 0.999)
    eps: PerMember = 1e-8
    weight_decay: PerMember = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise ValueError(f"betas are two, (beta1, beta2), got {self.betas!r}")
        beta1, beta2 = self.betas
        betas = (number("beta1", beta1, below=1.0), number("beta2", beta2, below=1.0))
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "eps", number("eps", self.eps))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay))

    def hyper(self) -> dict[str, PerMember]:
        beta1, beta2 = self.betas
        return {
            "beta1": beta1, "beta2": beta2, "eps": self.eps, "weight_decay": self.weight_decay
        }  # fmt: skip

    def vectors(self) -> tuple[str, ...]:
        return ("mean", "square")

    def update(
        self,
        backend: Backend,
        params: Array,
        grads: Array,
        vectors: Mapping[str, Array],
        lr: Array,
        step: Array,
    ) -> None:
        def device(value: PerMember) -> Array:
            return backend.constant(value, backend.xp.float64, ndim=2)

        backend.adam(
            params,
            grads,
            vectors["mean"],
            vectors["square"],
            lr,
            device(self.betas[0]),
            device(self.betas[1]),
            device(self.eps),
            step,
            None if self.weight_decay == 0 else device(self.weight_decay),
            self.decoupled,
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: w shrinks by lr weight_decay w beside the step.

    The default decay is 0.01, as in PyTorch.
    """

    decoupled: ClassVar[bool] = True

    weight_decay: PerMember = 0.01


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


class OptimizerState:
    """An update rule at work on one network.

    Attributes
    ----------
    vectors : name -> (P,) or (K, P), what the rule remembers
    count : () int64 on the device, the number of updates made so far
    lr : () or (K, 1) float64 on the device, the learning rate of the last update
    run_steps : () float64, the length of the run that schedules refer to; None before `Trainer.fit`
    """

    def __init__(self, rule: Optimizer, network: Network) -> None:
        hyper = {"lr": rule.schedule.rate} | rule.hyper()
        check_members(type(rule).__name__, hyper, network.members)
        xp = network.backend.xp
        self.rule = rule
        self.network = network
        self.vectors = {name: xp.zeros_like(network.params) for name in rule.vectors()}
        self.count = xp.zeros((), dtype=xp.int64)
        self.lr: Array = None
        self.run_steps: Array | None = None

    def begin_run(self, steps: int) -> None:
        """Tell the schedule how long the run is."""
        xp = self.network.backend.xp
        if self.run_steps is None:
            self.run_steps = xp.zeros((), dtype=xp.float64)
        self.run_steps[...] = float(steps)

    def step(self) -> None:
        """Update the parameters from the gradients, and count the update."""
        network, backend = self.network, self.network.backend
        count = backend.xp.astype(self.count, backend.xp.float64)
        self.lr = self.rule.schedule(backend, count, self.run_steps)
        self.rule.update(backend, network.params, network.grads, self.vectors, self.lr, count)
        self.count[...] = self.count + 1
