"""L-BFGS: the direction of Newton's method from the last few steps, for full batches."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from mlpkit.backends import Array
from mlpkit.backends.base import Namespace
from mlpkit.network import Network
from mlpkit.optimizers.base import Evaluate, Optimizer, Update, zeros
from mlpkit.schedules import Schedule
from mlpkit.settings import PerMember, assign, flag, whole

# Wolfe's conditions, f for the loss along the direction and t for how far to go along it:
ARMIJO = 1e-4  # f(t) <= f(0) + ARMIJO t f'(0)
CURVATURE = 0.9  # f'(t) >= CURVATURE f'(0)
TRIALS = 25


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """Quasi-Newton steps w = w - t H grad, with H from the last `history` steps.

    With s the change of w in a step and y that of the gradient, H follows from the pairs (s, y) by
    the recursion in two loops (Nocedal 1980), H_0 = (s y / y y) of the newest pair; a pair whose
    s y is not above rounding is left out.  The length t is found by bisection for Wolfe's
    conditions (Lewis and Overton 2013), for each member by itself; a member for which none is found
    stays where it is.

    Every step must see all data, without dropout, for gradients of two points are compared.

    Parameters
    ----------
    lr : the length t that is tried first; in the very first step at most 1 / sum |grad|
    history : pairs that are kept
    max_iter : iterations in one `Trainer.step`
    line_search : whether t is searched for; if not, it is lr, as in torch.optim.LBFGS by default

    >>> from mlpkit import MLP, Trainer
    >>> trainer = Trainer(MLP([1, 1], dtype="float64"), "mean_squared_error", LBFGS())
    >>> history = trainer.fit([[0.0], [1.0]], [[1.0], [3.0]], epochs=1, batch_size=None)
    >>> trainer.evaluate([[0.0], [1.0]], [[1.0], [3.0]])["loss"] < 1e-12
    True
    """

    full_batch: ClassVar[bool] = True
    recordable: ClassVar[bool] = False

    lr: PerMember | Schedule = 1.0
    history: int = 10
    max_iter: int = 20
    line_search: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("history", "max_iter"):
            assign(self, **{name: whole(name, getattr(self, name))})
        assign(self, line_search=flag("line_search", self.line_search))

    def memory(self, network: Network) -> dict[str, Array]:
        xp, dtype = network.backend.xp, network.dtype
        *stack, P = network.params.shape
        return zeros(network, "moved", "before") | {
            "s": xp.zeros((*stack, self.history, P), dtype=dtype),
            "y": xp.zeros((*stack, self.history, P), dtype=dtype),
            "rho": xp.zeros((*stack, self.history, 1), dtype=dtype),
            "gamma": xp.ones((*stack, 1), dtype=dtype),
        }

    def update(self, on: Update) -> None:
        network, memory, loss = on.network, on.memory, on.loss
        xp, params, grads = network.backend.xp, network.params, network.grads
        if on.evaluate is None:
            raise ValueError("LBFGS evaluates the loss anew: it works in Trainer.step alone")
        evaluate_anew, passes = on.evaluate, xp.asarray(network.passes, copy=True)
        buffers = xp.asarray(network.buffers, copy=True)

        def evaluate() -> Array:
            loss = evaluate_anew()
            network.passes[...] = passes  # points that are tried do not count
            return loss

        for iteration in range(self.max_iter):
            remember(xp, memory, grads)
            direction = -newton(xp, memory, grads)
            t = xp.astype(on.lr, params.dtype)
            if iteration == 0:
                steep = xp.sum(xp.abs(grads), axis=-1, keepdims=True)
                short = 1 / xp.where(steep > 1, steep, xp.ones_like(steep))
                t = t * xp.where(on.step == 0, short, xp.ones_like(short))
            memory["before"][...] = grads
            start = xp.asarray(params, copy=True)
            if self.line_search:
                t, loss = search(network, start, direction, t, loss, evaluate)
            memory["moved"][...] = xp.where(t > 0, t * direction, xp.zeros_like(direction))
            params[...] = start + memory["moved"]
            if self.line_search:
                forget(xp, memory, t == 0)
                if not bool(xp.any(t > 0)):
                    break
            elif iteration + 1 < self.max_iter:
                evaluate()
        network.buffers[...] = buffers  # points that were tried leave no trace


def remember(xp: Namespace, memory: dict[str, Array], grads: Array) -> None:
    """Take in the pair of the last step, s = moved and y = grads - before, if s y > eps |s| |y|."""
    s, y = memory["moved"], grads - memory["before"]
    sy, yy, ss = (xp.sum(a * b, axis=-1, keepdims=True) for a, b in ((s, y), (y, y), (s, s)))
    taken = sy > xp.finfo(s.dtype).eps * xp.sqrt(ss) * xp.sqrt(yy)
    one = xp.ones_like(sy)
    rho = 1 / xp.where(taken, sy, one)
    for kept, new in ((memory["s"], s), (memory["y"], y), (memory["rho"], rho)):
        pairs = xp.concat([kept[..., 1:, :], xp.expand_dims(new, axis=-2)], axis=-2)
        kept[...] = xp.where(xp.expand_dims(taken, axis=-1), pairs, kept)
    memory["gamma"][...] = xp.where(taken, sy / xp.where(taken, yy, one), memory["gamma"])


def forget(xp: Namespace, memory: dict[str, Array], lost: Array) -> None:
    """Let the members whose direction led nowhere begin anew, from steepest descent."""
    for name in ("s", "y"):
        kept = memory[name]
        kept[...] = xp.where(xp.expand_dims(lost, axis=-1), xp.zeros_like(kept), kept)
    gamma = memory["gamma"]
    gamma[...] = xp.where(lost, xp.ones_like(gamma), gamma)


def newton(xp: Namespace, memory: dict[str, Array], grads: Array) -> Array:
    """H grad."""
    s, y, rho = memory["s"], memory["y"], memory["rho"]
    q, alphas = grads, []
    for i in reversed(range(rho.shape[-2])):
        alphas.append(rho[..., i, :] * xp.sum(s[..., i, :] * q, axis=-1, keepdims=True))
        q = q - alphas[-1] * y[..., i, :]
    r = memory["gamma"] * q
    for i, alpha in enumerate(reversed(alphas)):
        beta = rho[..., i, :] * xp.sum(y[..., i, :] * r, axis=-1, keepdims=True)
        r = r + (alpha - beta) * s[..., i, :]
    return r


def search(
    network: Network, start: Array, direction: Array, t: Array, loss: Array, evaluate: Evaluate
) -> tuple[Array, Array]:
    """A length t (..., 1) that meets Wolfe's conditions, and the loss there.

    Doubled until it is too long, then halved between one too short and one too long; in the end the
    one too short, where the loss is lower if not flat, and that is 0 where none has been found.
    """
    xp, params, grads = network.backend.xp, network.params, network.grads
    slope = xp.sum(grads * direction, axis=-1, keepdims=True)
    before = loss[..., None]
    rounding = xp.finfo(before.dtype).eps * xp.abs(before)
    t = t + 0 * slope  # one for each member
    short, long = xp.zeros_like(t), xp.zeros_like(t) + inf
    for _ in range(TRIALS):
        params[...] = start + t * direction
        found = evaluate()
        slope_there = xp.sum(grads * direction, axis=-1, keepdims=True)
        fell = found[..., None] <= before + rounding + ARMIJO * t * slope  # NaN has not
        done = fell & (slope_there >= CURVATURE * slope)
        if bool(xp.all(done)):
            return t, found
        long = xp.where(fell, long, t)
        short = xp.where(fell & ~done, t, short)
        between = xp.where(long < inf, (short + long) / 2, 2 * t)
        t = xp.where(done, t, between)
    t = xp.where(done, t, short)
    params[...] = start + xp.where(t > 0, t * direction, xp.zeros_like(direction))
    return t, evaluate()
