"""Muon: momentum made orthogonal, for weight matrices (Jordan and others 2024).

Formulas and defaults as torch.optim.Muon; the source is https://kellerjordan.github.io/posts/muon.
"""

from dataclasses import dataclass, field
from math import sqrt

from mlpkit.backends import Array, Backend
from mlpkit.network import Network
from mlpkit.optimizers.base import Optimizer, Update, zeros
from mlpkit.optimizers.rules import Adam, AdamW
from mlpkit.schedules import Schedule
from mlpkit.settings import PerMember, assign, flag, number, whole

# x -> a x + b x^3 + c x^5 draws every singular value in (0, 1] close to 1 within a few steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(backend: Backend, matrix: Array, steps: int) -> Array:
    """About U V^T for a matrix (..., D, H) = U S V^T: the quintic iteration of Newton and Schulz.

    X = a X + (b X X^T + c (X X^T)^2) X
    """
    xp = backend.xp
    wide = matrix.shape[-2] <= matrix.shape[-1]
    X = matrix if wide else xp.matrix_transpose(matrix)  # so that X X^T is the smaller product
    norm = xp.sqrt(xp.sum(X * X, axis=(-2, -1), keepdims=True))
    X = X / xp.where(norm > 1e-7, norm, 1e-7 + 0 * norm)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        A = backend.matmul(X, X, transpose_b=True)
        X = a * X + backend.matmul(b * A + c * backend.matmul(A, A), X)
    return X if wide else xp.matrix_transpose(X)


@dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonal steps for the weights, another rule for the biases and all else.

        m = momentum m + (1 - momentum) grad
        u = orthogonalize(m)     (Nesterov: of momentum m + (1 - momentum) grad)
        W = W (1 - lr weight_decay) - lr sqrt(max(1, H / D)) u,  for W (D, H)

    Parameters
    ----------
    lr : learning rate of the weights, or one per member, or a schedule
    momentum : in [0, 1), or one per member
    nesterov : whether the step looks ahead along the momentum
    weight_decay : decoupled, of the weights, or one per member
    steps : of the iteration that orthogonalizes
    rest : the rule for the other parameters, with a learning rate or schedule of its own
    """

    lr: PerMember | Schedule = 1e-3
    momentum: PerMember = 0.95
    nesterov: bool = True
    weight_decay: PerMember = 0.1
    steps: int = 5
    rest: Adam = field(default_factory=AdamW)

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, momentum=number("momentum", self.momentum, below=1.0))
        assign(self, weight_decay=number("weight_decay", self.weight_decay))
        assign(self, nesterov=flag("nesterov", self.nesterov))
        assign(self, steps=whole("steps", self.steps))
        if not isinstance(self.rest, Adam):
            raise TypeError(f"rest is Adam, AdamW or NAdam, got {self.rest!r}")

    def hyper(self) -> dict[str, PerMember]:
        rest = {"lr": self.rest.schedule.rate} | self.rest.hyper()
        own = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return own | {f"rest.{name}": value for name, value in rest.items()}

    def memory(self, network: Network) -> dict[str, Array]:
        return zeros(network, "momentum") | self.rest.memory(network)

    def update(self, on: Update) -> None:
        network, xp, dtype = on.network, on.network.backend.xp, on.network.dtype
        momentum = network.backend.constant(self.momentum, xp.float64, ndim=3)
        decay = network.backend.constant(self.weight_decay, xp.float64, ndim=3)
        lr = xp.expand_dims(on.lr, axis=-1) if network.members else on.lr  # (K, 1, 1)
        kept, lr, momentum, new = (
            xp.astype(value, dtype) for value in (1 - lr * decay, lr, momentum, 1 - momentum)
        )

        weights, moved = network.on_weights(network.params), []
        grads = network.on_weights(network.grads)
        for W, dW, m in zip(weights, grads, network.on_weights(on.memory["momentum"]), strict=True):
            m[...] = momentum * m + new * dW
            ahead = momentum * m + new * dW if self.nesterov else m
            u = orthogonalize(network.backend, ahead, self.steps)
            size = sqrt(max(1.0, W.shape[-1] / W.shape[-2]))
            moved.append(W * kept - lr * size * u)

        # The other rule takes all of the flat vector, and what it did to the weights is undone.
        rest = {name: array for name, array in on.memory.items() if name != "momentum"}
        constants = self.rest.constants(network.backend)
        lr = on.rate(self.rest.schedule)
        self.rest.update(on._replace(memory=rest, constants=constants, lr=lr))
        for W, after in zip(weights, moved, strict=True):
            W[...] = after
