"""JAX: the whole step compiled, and the loop over the steps as well."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants.base import Contestant, Training, with_cuda
from benchmarks.workload import BATCH, BETAS, EPS, LR, MOMENTUM, Batch, Floats, unflatten

State = dict[str, Any]  # params, first and second moment, and the number of steps
Step = Callable[[State, Any, Any], tuple[State, Any]]


def scores(params: Any, x: Any) -> Any:
    *hidden, (W, b) = params
    for V, c in hidden:
        x = jax.nn.relu(x @ V + c)
    return x @ W + b


def loss(params: Any, x: Any, y: Any) -> Any:
    log_p = jax.nn.log_softmax(scores(params, x))
    return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))


def sgd(state: State, x: Any, y: Any) -> tuple[State, Any]:
    value, grads = jax.value_and_grad(loss)(state["params"], x, y)
    first = jax.tree.map(lambda m, g: MOMENTUM * m + g, state["first"], grads)
    params = jax.tree.map(lambda w, m: w - LR["SGD"] * m, state["params"], first)
    return {"params": params, "first": first}, value


def adam(state: State, x: Any, y: Any) -> tuple[State, Any]:
    (beta1, beta2), t = BETAS, state["t"] + 1
    value, grads = jax.value_and_grad(loss)(state["params"], x, y)
    first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state["first"], grads)
    second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["second"], grads)
    rate, correction = LR["Adam"] / (1 - beta1**t), jnp.sqrt(1 - beta2**t)
    params = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v) / correction + EPS),
        state["params"], first, second,
    )  # fmt: skip
    return {"params": params, "first": first, "second": second, "t": t}, value


def many(step: Step) -> Step:
    """The step of K networks on one batch."""
    return jax.vmap(step, in_axes=(0, None, None))


def over_rows(step: Step, state: State, data: Any, rows: Any) -> tuple[State, Any]:
    x, y = data
    return step(state, x[rows] * jnp.float32(1 / 255), y[rows].astype(jnp.int32))


def over_order(step: Step, state: State, data: Any, rows: Any, rest: Any) -> tuple[State, Any]:
    """An epoch: batches of `rows` (n, N), then the rows that are left, if any are."""
    state, losses = jax.lax.scan(lambda s, part: over_rows(step, s, data, part), state, rows)
    if len(rest) == 0:
        return state, jnp.mean(losses)
    state, last = over_rows(step, state, data, rest)
    return state, (jnp.sum(losses) + last) / (len(rows) + 1)


def over_batches(step: Step, state: State, batches: Any, rounds: Any) -> tuple[State, Any]:
    """The batches (n, N, ...) over and over; the losses of the last round."""

    def one_round(_: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
        return jax.lax.scan(lambda s, batch: step(s, *batch), carry[0], batches)

    shapes = jax.eval_shape(lambda s: one_round(0, (s, None)), state)[1]
    return jax.lax.fori_loop(0, rounds, one_round, (state, jnp.zeros(shapes.shape, shapes.dtype)))


# By name: "bfloat16" is the default, which on a GPU is TF32.
PRECISIONS = {"float32": "highest", "tf32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}
RULES: dict[str, Step] = {"SGD": sgd, "Adam": adam}
STEPS: dict[tuple[str, bool], Step] = {
    (name, stacked): many(rule) if stacked else rule
    for name, rule in RULES.items()
    for stacked in (False, True)
}
compiled = partial(jax.jit, static_argnums=0, donate_argnums=1)
step_of, row_step_of = compiled(lambda step, *args: step(*args)), compiled(over_rows)
loop_of, epoch_of = compiled(over_batches), compiled(over_order)
classes_of = jax.jit(lambda params, x: jnp.argmax(scores(params, x), axis=1))


class Jit(Contestant):
    """A call per step."""

    requirement = "jax"
    imports = "import jax, jax.numpy"
    how = "the whole step under jit, its state donated; vmap over members"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def __init__(self, device: str, precision: str) -> None:
        super().__init__(device, precision)
        if device == "cuda":
            self.requirement = with_cuda("jax", "jax-cuda{}-plugin")
        jax.config.update("jax_default_device", jax.devices(device)[0])
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])

    def place(self, batches: Sequence[Batch]) -> Any:
        return [jax.device_put((x, y.astype(np.int32))) for x, y in batches]

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> "_Training":
        return self.training(unflatten(params), optimizer, (), seed)

    def networks(self, params: Floats, optimizer: str) -> "_Training":
        stacked = jax.tree.map(lambda *a: np.stack(a), *map(unflatten, params))
        return self.training(stacked, optimizer, (len(params),), 0)

    def training(self, *how: Any) -> "_Training":
        return _Training(*how)


class Scan(Jit):
    """A call per block or epoch."""

    how = "lax.scan over the steps of a block or an epoch, under jit, donated; vmap over members"

    def place(self, batches: Sequence[Batch]) -> Any:
        return jax.device_put(jax.tree.map(lambda *a: np.stack(a), *super().place(batches)))

    def training(self, *how: Any) -> "_Training":
        return _Scanned(*how)


class _Training(Training):
    def __init__(self, params: Any, optimizer: str, members: tuple[int, ...], seed: int) -> None:
        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        self.step = STEPS[optimizer, bool(members)]
        self.state = {"params": jax.tree.map(jnp.array, params), "first": zeros()}
        if optimizer == "Adam":
            self.state |= {"second": zeros(), "t": jnp.zeros(members, jnp.float32)}
        self.rng = np.random.default_rng(seed)

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        for _ in range(rounds):
            losses = []
            for x, y in placed:
                self.state, value = step_of(self.step, self.state, x, y)
                losses.append(value)
        jax.block_until_ready(self.state)
        return np.stack(jax.device_get(losses))

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        data, order, losses = jax.device_put((x, y)), self.rng.permutation(len(x)), []
        for i in range(0, len(x), BATCH):
            self.state, value = row_step_of(self.step, self.state, data, order[i : i + BATCH])
            losses.append(value)
        jax.block_until_ready(self.state)
        return float(np.mean(jax.device_get(losses)))

    def classes(self, x: Floats) -> NDArray[Any]:
        return np.asarray(classes_of(self.state["params"], x))


class _Scanned(_Training):
    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        self.state, losses = loop_of(self.step, self.state, placed, rounds)
        jax.block_until_ready(self.state)
        return np.asarray(losses)

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        order, whole = self.rng.permutation(len(x)), len(x) // BATCH * BATCH
        rows, rest = order[:whole].reshape(-1, BATCH), order[whole:]
        self.state, value = epoch_of(self.step, self.state, jax.device_put((x, y)), rows, rest)
        jax.block_until_ready(self.state)
        return float(value)
