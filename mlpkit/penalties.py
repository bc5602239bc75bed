"""What is added to a loss, and what holds gradients and weights in bounds.

A trainer applies its penalties in the order given: `on_gradients` between the backward pass and the
update, `on_parameters` after the update.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.settings import PerMember, check_members, number


@dataclass(frozen=True)
class Penalty:
    """A frozen dataclass with one setting, a number or one per member."""

    of_loss: ClassVar[bool] = True  # whether it is an addition to the loss, with its gradient

    strength: PerMember

    def __post_init__(self) -> None:
        strength = number(f"{type(self).__name__}: strength", self.strength)
        object.__setattr__(self, "strength", strength)

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {"strength": self.strength}

    def on_gradients(self, network: Network) -> Array | None:
        """Change `network.grads`; what the penalty adds to the loss, () or (K,)."""
        return None

    def on_parameters(self, network: Network) -> None:
        """Change `network.params`."""

    def constant(self, network: Network, ndim: int) -> Array:
        """The strength on the device, () or (K, 1, ...) of `ndim` axes."""
        return network.backend.constant(self.strength, network.dtype, ndim)


def check_penalties(penalties: Sequence[Penalty], network: Network) -> tuple[Penalty, ...]:
    """The penalties, which a network can have, or an error that says which it cannot."""
    if not isinstance(penalties, Iterable):
        raise TypeError(f"penalties is a list such as [mlpkit.L2(1e-4)], got {penalties!r}")
    checked = tuple(penalties)
    for penalty in checked:
        if not isinstance(penalty, Penalty):
            raise TypeError(f"expected a Penalty such as mlpkit.L2(1e-4), got {penalty!r}")
        check_members(type(penalty).__name__, penalty.hyper(), network.members)
    return checked


def penalized(loss: Array, network: Network, penalties: Sequence[Penalty]) -> Array:
    """The loss with what the penalties add to it; they change the gradients, one after another."""
    for penalty in penalties:
        added = penalty.on_gradients(network)
        loss = loss if added is None else loss + added
    return loss


# ---- of the weights, not of the biases -----------------------------------------------------------


class L1(Penalty):
    """strength sum |w|, with the derivative strength sign(w): it makes weights vanish."""

    def on_gradients(self, network: Network) -> Array:
        xp, strength = network.backend.xp, self.constant(network, 3)
        total = xp.zeros(network.params.shape[:-1], dtype=network.dtype)
        for w, dw in _weights(network):
            total = total + xp.sum(xp.abs(w), axis=(-2, -1))
            dw[...] = dw + strength * xp.sign(w)
        return self.constant(network, 1) * total


class L2(Penalty):
    """strength/2 sum w^2, with the derivative strength w: with `SGD` a weight decay of weights."""

    def on_gradients(self, network: Network) -> Array:
        xp, strength = network.backend.xp, self.constant(network, 3)
        total = xp.zeros(network.params.shape[:-1], dtype=network.dtype)
        for w, dw in _weights(network):
            total = total + xp.sum(w * w, axis=(-2, -1)) / 2
            dw[...] = dw + strength * w
        return self.constant(network, 1) * total


class MaxNorm(Penalty):
    """Shortens the incoming weights of a unit, a column of W, to the norm `strength` after a step.

    (Srebro and Shraibman 2005; with dropout Srivastava and others 2014.)
    """

    of_loss: ClassVar[bool] = False

    def on_parameters(self, network: Network) -> None:
        xp, limit = network.backend.xp, self.constant(network, 3)
        for w, _ in _weights(network):
            norm = xp.sqrt(xp.sum(w * w, axis=-2, keepdims=True))
            norm = xp.where(norm > limit, norm, limit + 0 * norm)
            w[...] = w * (limit / xp.where(norm > 0, norm, xp.ones_like(norm)))


def _weights(network: Network) -> list[tuple[Array, Array]]:
    """Views of each W and its gradient."""
    params, grads = network.on_weights(network.params), network.on_weights(network.grads)
    return list(zip(params, grads, strict=True))


# ---- of the whole gradient -----------------------------------------------------------------------


class ClipValue(Penalty):
    """Holds every element of the gradient within [-strength, strength]."""

    of_loss: ClassVar[bool] = False

    def on_gradients(self, network: Network) -> None:
        xp, limit = network.backend.xp, self.constant(network, 2)
        network.grads[...] = xp.minimum(xp.maximum(network.grads, -limit), limit)


class ClipNorm(Penalty):
    """Shortens the gradient to the norm `strength`: g min(1, strength / (|g| + 1e-6)).

    Each member by itself; as torch.nn.utils.clip_grad_norm_.  (Pascanu and others 2013.)

    >>> from mlpkit import MLP, Trainer
    >>> trainer = Trainer(MLP([2, 2]), penalties=[L1(1e-4), ClipNorm(1.0), MaxNorm(3.0)])
    """

    of_loss: ClassVar[bool] = False

    def on_gradients(self, network: Network) -> None:
        xp, grads = network.backend.xp, network.grads
        norm = xp.sqrt(xp.sum(grads * grads, axis=-1, keepdims=True))
        share = self.constant(network, 2) / (norm + 1e-6)
        grads[...] = grads * xp.minimum(share, xp.ones_like(share))
