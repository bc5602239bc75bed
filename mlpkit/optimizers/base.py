"""What an update rule is, and how one works on a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mlpkit.backends import Array, Backend
from mlpkit.network import Network
from mlpkit.schedules import Schedule, constant
from mlpkit.settings import PerMember, assign, check_members, number

Evaluate = Callable[[], Array]


class Update(NamedTuple):
    """What a rule needs for one update of `network.params` from `network.grads`.

    memory is what the rule remembers, constants its settings on the device; lr () or (K, 1) and
    step () are float64, and the first update has step 0; `rate` is the rate of another schedule at
    this step; for loss and evaluate see `OptimizerState.step`.  The arrays are written to later: a
    rule that keeps one copies it.
    """

    network: Network
    memory: dict[str, Array]
    constants: dict[str, Array | None]
    lr: Array
    step: Array
    rate: Callable[[Schedule], Array]
    loss: Array
    evaluate: Evaluate | None


@dataclass(frozen=True)
class Optimizer(ABC):
    """An update rule: a frozen dataclass of its settings, the learning rate first."""

    full_batch: ClassVar[bool] = False  # whether every step has to see all data
    recordable: ClassVar[bool] = True  # whether an update reads nothing on the host
    optional: ClassVar[tuple[str, ...]] = ("momentum", "weight_decay")  # 0 leaves them out

    lr: PerMember | Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule):
            assign(self, lr=number("lr", self.lr))

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule."""
        return self.lr if isinstance(self.lr, Schedule) else constant(self.lr)

    def hyper(self) -> dict[str, PerMember]:
        """The settings, but for the learning rate, that are a number or one per member."""
        return {}

    def constants(self, backend: Backend) -> dict[str, Array | None]:
        """`hyper` on the device, () or (K, 1) float64; None for a 0 that leaves something out."""
        return {
            name: None
            if name in self.optional and value == 0
            else backend.constant(value, backend.xp.float64, ndim=2)
            for name, value in self.hyper().items()
        }

    def memory(self, network: Network) -> dict[str, Array]:
        """What the rule remembers, as it is before the first update."""
        return {}

    @abstractmethod
    def update(self, on: Update) -> None:
        """Change the parameters and the memory, in place."""


def zeros(network: Network, *names: str) -> dict[str, Array]:
    """A vector of zeros like the parameters for each of the names."""
    return {name: network.backend.xp.zeros_like(network.params) for name in names}


class OptimizerState:
    """An update rule at work on one network.

    Attributes
    ----------
    memory : name -> array on the device, what the rule remembers
    count : () float64 on the device, the number of updates made so far
    scale : () or (K, 1) float64 on the device, multiplies the rate of the schedule
    lr : () or (K, 1) float64 on the device, the learning rate of the last update
    run_steps : () float64, the length of the run that schedules refer to; None before `Trainer.fit`
    """

    def __init__(self, rule: Optimizer, network: Network) -> None:
        hyper = {"lr": rule.schedule.rate} | rule.hyper()
        check_members(type(rule).__name__, hyper, network.members)
        xp = network.backend.xp
        self.rule = rule
        self.network = network
        self.memory = rule.memory(network)
        self._schedule = rule.schedule
        self._constants = rule.constants(network.backend)
        self.count = xp.zeros((), dtype=xp.float64)
        self.scale = xp.ones((network.members, 1) if network.members else (), dtype=xp.float64)
        self.lr = xp.zeros_like(self.scale)
        self.run_steps: Array | None = None

    def begin_run(self, steps: int | None) -> None:
        """Tell the schedule how long the run is, None where that is not known."""
        xp = self.network.backend.xp
        if steps is None:
            self.run_steps = None
            return
        if self.run_steps is None:
            self.run_steps = xp.zeros((), dtype=xp.float64)
        self.run_steps[...] = float(steps)

    def step(self, loss: Array = None, evaluate: Evaluate | None = None) -> None:
        """Update the parameters from the gradients, and count the update.

        A rule that searches wants the loss that the gradients belong to, and `evaluate`, which
        computes both anew for the parameters as they are.
        """

        def rate(schedule: Schedule) -> Array:
            return self.scale * schedule(self.network.backend, self.count, self.run_steps)

        self.lr[...] = rate(self._schedule)
        known = self.memory, self._constants, self.lr, self.count
        self.rule.update(Update(self.network, *known, rate, loss, evaluate))
        self.count += 1
