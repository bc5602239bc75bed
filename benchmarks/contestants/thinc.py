"""thinc on its NumPy operations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from thinc.api import Adam, Relu, Softmax, chain

from benchmarks.contestants.base import Contestant, NotOfferedError, Training
from benchmarks.workload import BATCH, BETAS, EPS, LR, SIZES, Batch, Floats, scaled, unflatten


class Thinc(Contestant):
    requirement = "thinc"
    imports = "from thinc.api import Adam, Relu, Softmax, chain"
    how = "chain(Relu, Relu, Softmax) with begin_update and finish_update; its BLIS has one thread"
    eps_hat = True

    def place(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        return batches

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> Training:
        if optimizer == "SGD":
            raise NotOfferedError("thinc's SGD has no momentum")
        return _Training(params, LR[optimizer], seed)


class _Training(Training):
    def __init__(self, params: Floats, lr: float, seed: int) -> None:
        (d, h1, h2, c), (beta1, beta2) = SIZES, BETAS
        layers: list[Any] = [Relu(h1, d), Relu(h2, h1), Softmax(c, h2)]
        for layer, (W, b) in zip(layers, unflatten(params), strict=True):
            layer.set_param("W", np.ascontiguousarray(W.T))
            layer.set_param("b", b)
        self.model: Any = chain(*layers)
        self.optimizer = Adam(
            lr, beta1=beta1, beta2=beta2, eps=EPS, L2=0.0, grad_clip=0.0, use_averages=False
        )
        self.rng = np.random.default_rng(seed)

    def step(self, x: Floats, y: NDArray[Any]) -> float:
        p, backprop = self.model.begin_update(x)
        rows = np.arange(len(y))
        loss = -np.log(p[rows, y]).mean()
        dscores = p.copy()
        dscores[rows, y] -= 1
        dscores /= len(y)
        backprop(dscores)
        self.model.finish_update(self.optimizer)
        return float(loss)

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        for _ in range(rounds):
            losses = [self.step(x, y) for x, y in placed]
        return np.array(losses)

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        order = self.rng.permutation(len(x))
        parts = (order[i : i + BATCH] for i in range(0, len(x), BATCH))
        return float(np.mean([self.step(scaled(x[part]), y[part]) for part in parts]))

    def classes(self, x: Floats) -> NDArray[Any]:
        return np.asarray(np.argmax(self.model.predict(x), axis=1))
