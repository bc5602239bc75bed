"""The update rules of first order: their settings here, their formulas in `backends/updates.py`.

In all of them a number may be one per member, lr may be a schedule, and weight decay acts on
weights and biases alike.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.optimizers.base import Optimizer, Update, zeros
from mlpkit.schedules import Schedule
from mlpkit.settings import PerMember, assign, flag, number


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, see `Updates.sgd`.

    Parameters
    ----------
    lr : learning rate
    momentum : in [0, 1)
    nesterov : whether the gradient is taken to be where the momentum leads; needs momentum
    weight_decay : L2 penalty
    """

    momentum: PerMember = 0.0
    nesterov: bool = False
    weight_decay: PerMember = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, below={"momentum": 1.0})
        assign(self, nesterov=flag("nesterov", self.nesterov))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum")

    def hyper(self) -> dict[str, PerMember]:
        return {"momentum": self.momentum, "weight_decay": self.weight_decay}

    def memory(self, network: Network) -> dict[str, Array]:
        return {} if self.momentum == 0 else zeros(network, "velocity")

    def update(self, on: Update) -> None:
        network = on.network
        velocity = on.memory.get("velocity")
        network.backend.sgd(
            network.params, network.grads, velocity, on.lr, nesterov=self.nesterov, **on.constants
        )


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient, see `Updates.rmsprop`.

    Parameters
    ----------
    lr : learning rate
    alpha : decay rate of the mean, in [0, 1)
    eps : added to the root
    weight_decay : L2 penalty
    momentum : in [0, 1)
    centered : whether the variance takes the place of the mean square
    """

    lr: PerMember | Schedule = 0.01
    alpha: PerMember = 0.99
    eps: PerMember = 1e-8
    weight_decay: PerMember = 0.0
    momentum: PerMember = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, below={"alpha": 1.0, "momentum": 1.0})
        assign(self, centered=flag("centered", self.centered))

    def hyper(self) -> dict[str, PerMember]:
        return {
            "alpha": self.alpha, "eps": self.eps,
            "momentum": self.momentum, "weight_decay": self.weight_decay,
        }  # fmt: skip

    def memory(self, network: Network) -> dict[str, Array]:
        mean = ["mean"] if self.centered else []
        velocity = [] if self.momentum == 0 else ["velocity"]
        return zeros(network, "square", *mean, *velocity)

    def update(self, on: Update) -> None:
        network = on.network
        mean, velocity = on.memory.get("mean"), on.memory.get("velocity")
        square = on.memory["square"]
        network.backend.rmsprop(
            network.params, network.grads, square, mean, velocity, on.lr, **on.constants
        )


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients, see `Updates.adagrad`.

    Parameters
    ----------
    lr : learning rate
    lr_decay : the rate of update t is lr / (1 + t lr_decay), t from 0
    weight_decay : L2 penalty
    initial : what the sum begins with
    eps : added to the root
    """

    lr: PerMember | Schedule = 0.01
    lr_decay: PerMember = 0.0
    weight_decay: PerMember = 0.0
    initial: PerMember = 0.0
    eps: PerMember = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "initial")

    def hyper(self) -> dict[str, PerMember]:
        return {"lr_decay": self.lr_decay, "eps": self.eps, "weight_decay": self.weight_decay}

    def memory(self, network: Network) -> dict[str, Array]:
        memory = zeros(network, "total")
        memory["total"][...] = network.backend.constant(self.initial, network.dtype, ndim=2)
        return memory

    def update(self, on: Update) -> None:
        network = on.network
        total = on.memory["total"]
        network.backend.adagrad(
            network.params, network.grads, total, on.lr, step=on.step, **on.constants
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, see `Updates.adam`; the weight decay is an L2 penalty, part of the gradient.

    Parameters
    ----------
    lr : learning rate
    betas : decay rates of the two moments, each in [0, 1), each a number or one per member
    eps : added to the root of the second moment
    weight_decay : L2 penalty
    """

    decoupled: ClassVar[bool] = False

    lr: PerMember | Schedule = 1e-3
    betas: tuple[PerMember, PerMember] = (0.9, 0.999)
    eps: PerMember = 1e-8
    weight_decay: PerMember = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, betas=_betas(self.betas))
        _check(self)

    def hyper(self) -> dict[str, PerMember]:
        beta1, beta2 = self.betas
        return {
            "beta1": beta1, "beta2": beta2, "eps": self.eps, "weight_decay": self.weight_decay
        }  # fmt: skip

    def memory(self, network: Network) -> dict[str, Array]:
        return zeros(network, "mean", "square")

    def update(self, on: Update) -> None:
        network = on.network
        network.backend.adam(
            network.params,
            network.grads,
            on.memory["mean"],
            on.memory["square"],
            on.lr,
            step=on.step,
            decoupled=self.decoupled,
            **on.constants,
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: w shrinks by lr weight_decay w beside the step.

    The default decay is 0.01, as in PyTorch.
    """

    decoupled: ClassVar[bool] = True

    weight_decay: PerMember = 0.01


@dataclass(frozen=True)
class NAdam(Adam):
    """Adam with Nesterov momentum, see `Updates.nadam`.

    Parameters
    ----------
    lr, betas, eps, weight_decay : as for `Adam`
    momentum_decay : how fast the momentum comes up to beta1
    """

    lr: PerMember | Schedule = 2e-3
    momentum_decay: PerMember = 4e-3

    def hyper(self) -> dict[str, PerMember]:
        return super().hyper() | {"momentum_decay": self.momentum_decay}

    def memory(self, network: Network) -> dict[str, Array]:
        xp = network.backend.xp
        stack = tuple(network.params.shape[:-1])
        product = xp.ones((*stack, 1), dtype=xp.float64)
        return super().memory(network) | {"mu_product": product}

    def update(self, on: Update) -> None:
        network = on.network
        network.backend.nadam(
            network.params, network.grads, **on.memory, lr=on.lr, step=on.step, **on.constants
        )


@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps of size lr along the sign of the momentum, see `Updates.lion`.

    Parameters
    ----------
    lr : learning rate, a third to a tenth of what suits Adam
    betas : decay rates of the step's mean and of the remembered one, each in [0, 1)
    weight_decay : decoupled, as in `AdamW`
    """

    lr: PerMember | Schedule = 1e-4
    betas: tuple[PerMember, PerMember] = (0.9, 0.99)
    weight_decay: PerMember = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, betas=_betas(self.betas))
        _check(self)

    def hyper(self) -> dict[str, PerMember]:
        beta1, beta2 = self.betas
        return {"beta1": beta1, "beta2": beta2, "weight_decay": self.weight_decay}

    def memory(self, network: Network) -> dict[str, Array]:
        return zeros(network, "mean")

    def update(self, on: Update) -> None:
        network = on.network
        mean = on.memory["mean"]
        network.backend.lion(network.params, network.grads, mean, on.lr, **on.constants)


def _betas(betas: Any) -> tuple[PerMember, PerMember]:
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"betas are two, (beta1, beta2), got {betas!r}")
    return number("beta1", betas[0], below=1.0), number("beta2", betas[1], below=1.0)


def _check(rule: Optimizer, *more: str, below: dict[str, float] | None = None) -> None:
    """Check the fields that `hyper` names, and those beside, and keep them as floats."""
    for name in (*rule.hyper(), *more):
        if hasattr(rule, name):
            limit = (below or {}).get(name, float("inf"))
            assign(rule, **{name: number(name, getattr(rule, name), below=limit)})
