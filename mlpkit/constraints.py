"""What holds gradients and weights in bounds, in the order given to the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlpkit.backends import Array
from mlpkit.network import Network
from mlpkit.settings import PerMember, assign, check_kinds, number


@dataclass(frozen=True)
class Constraint:
    """A frozen dataclass with one setting.

    Parameters
    ----------
    limit : the bound, or one per member
    """

    limit: PerMember

    def __post_init__(self) -> None:
        assign(self, limit=number(f"{type(self).__name__}: limit", self.limit))

    def hyper(self) -> dict[str, PerMember]:
        """The settings that are a number or one number per member."""
        return {"limit": self.limit}

    def on_gradients(self, network: Network) -> None:
        """Change `network.grads`, before the update."""

    def on_parameters(self, network: Network) -> None:
        """Change `network.params`, after the update."""

    def bound(self, network: Network, ndim: int) -> Array:
        """The limit on the device, () or (K, 1, ...) of `ndim` axes."""
        return network.backend.constant(self.limit, network.dtype, ndim)


class ClipValue(Constraint):
    """Holds every element of the gradient within [-limit, limit]."""

    def on_gradients(self, network: Network) -> None:
        xp, limit = network.backend.xp, self.bound(network, 2)
        network.grads[...] = xp.minimum(xp.maximum(network.grads, -limit), limit)


class ClipNorm(Constraint):
    """Shortens the gradient to the norm `limit`: g min(1, limit / (|g| + 1e-6)).

    Each member by itself; as torch.nn.utils.clip_grad_norm_.  (Pascanu and others 2013.)

    >>> from mlpkit import MLP, Trainer
    >>> trainer = Trainer(MLP([2, 2]), constraints=[ClipNorm(1.0), MaxNorm(3.0)])
    """

    def on_gradients(self, network: Network) -> None:
        xp, grads = network.backend.xp, network.grads
        norm = xp.sqrt(xp.sum(grads * grads, axis=-1, keepdims=True))
        share = self.bound(network, 2) / (norm + 1e-6)
        grads[...] = grads * xp.minimum(share, xp.ones_like(share))


class MaxNorm(Constraint):
    """Shortens the incoming weights of a unit, a column of W, to the norm `limit`.

    (Srebro and Shraibman 2005; with dropout Srivastava and others 2014.)
    """

    def on_parameters(self, network: Network) -> None:
        xp, limit = network.backend.xp, self.bound(network, 3)
        for w in network.on_weights(network.params):
            norm = xp.sqrt(xp.sum(w * w, axis=-2, keepdims=True))
            share = limit / xp.where(norm > limit, norm, xp.ones_like(norm))
            w[...] = w * xp.where(norm > limit, share, xp.ones_like(norm))


def check_constraints(
    constraints: Sequence[Constraint], network: Network
) -> tuple[Constraint, ...]:
    """The constraints, or an error that says which of them the network cannot have."""
    return check_kinds(
        "constraints", constraints, Constraint, "mlpkit.ClipNorm(1.0)", network.members
    )
