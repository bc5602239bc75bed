"""What is added to a loss, with its gradient: the size of the weights, not of the biases."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.settings import PerMember, assign, check_kinds, number


@dataclass(frozen=True)
class Penalty(ABC):
    """A frozen dataclass with one setting.

    Parameters
    ----------
    strength : the factor before the penalty, or one per member
    """

    strength: PerMember

    def __post_init__(self) -> None:
        assign(self, strength=number(f"{type(self).__name__}: strength", self.strength))

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {"strength": self.strength}

    @abstractmethod
    def of(self, xp: Any, w: Array) -> tuple[Array, Array]:
        """What the elements of a weight W count, and their derivatives, both like w (..., D, H)."""

    def add(self, network: Network) -> Array:
        """Add the gradient to `network.grads`; what is added to the loss, () or (K,)."""
        backend, dtype = network.backend, network.dtype
        xp, strength = backend.xp, backend.constant(self.strength, dtype, ndim=3)
        total = xp.zeros(network.params.shape[:-1], dtype=dtype)
        views = (network.on_weights(flat) for flat in (network.params, network.grads))
        for w, dw in zip(*views, strict=True):
            value, slope = self.of(xp, w)
            total = total + xp.sum(value, axis=(-2, -1))
            dw[...] = dw + strength * slope
        return backend.constant(self.strength, dtype, ndim=1) * total


class L1(Penalty):
    """strength sum |w|, with the derivative strength sign(w): it makes weights vanish."""

    def of(self, xp: Any, w: Array) -> tuple[Array, Array]:
        return xp.abs(w), xp.sign(w)


class L2(Penalty):
    """strength/2 sum w^2, with the derivative strength w: with `SGD` a weight decay of weights."""

    def of(self, xp: Any, w: Array) -> tuple[Array, Array]:
        return w * w / 2, w


def check_penalties(penalties: Sequence[Penalty], network: Network) -> tuple[Penalty, ...]:
    """The penalties, or an error that says which of them the network cannot have."""
    return check_kinds("penalties", penalties, Penalty, "mlpkit.L2(1e-4)", network.members)


def penalized(loss: Array, network: Network, penalties: Sequence[Penalty]) -> Array:
    """The loss with what the penalties add to it; the gradients are completed, too."""
    for penalty in penalties:
        loss = loss + penalty.add(network)
    return loss
