"""scikit-learn's MLPClassifier, trained by partial_fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from benchmarks.contestants.base import Contestant, Training
from benchmarks.workload import (
    BATCH,
    BETAS,
    EPS,
    LR,
    MOMENTUM,
    SIZES,
    Batch,
    Floats,
    scaled,
    unflatten,
)


class ScikitLearn(Contestant):
    requirement = "scikit-learn"
    imports = "from sklearn.neural_network import MLPClassifier"
    how = "MLPClassifier; a batch, or an epoch, is one partial_fit"
    eps_hat = True

    def place(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        return batches

    def network(self, params: Floats, optimizer: str, seed: int = 0) -> Training:
        return _Training(params, optimizer, seed)


class _Training(Training):
    def __init__(self, params: Floats, optimizer: str, seed: int) -> None:
        beta1, beta2 = BETAS
        self.model = MLPClassifier(
            SIZES[1:-1], solver=optimizer.lower(), alpha=0.0, learning_rate_init=LR[optimizer],
            momentum=MOMENTUM, nesterovs_momentum=False, beta_1=beta1, beta_2=beta2, epsilon=EPS,
            batch_size=1, random_state=np.random.RandomState(seed),
        )  # fmt: skip
        # The first call draws weights of its own and makes a step: neither is wanted.
        x = np.zeros((1, SIZES[0]), np.float32)
        self.model.partial_fit(x, [0], classes=np.arange(SIZES[-1]))
        W, b = zip(*unflatten(params), strict=True)
        self.model.coefs_, self.model.intercepts_ = list(W), list(b)
        del self.model._optimizer

    def run(self, placed: Any, rounds: int = 1) -> NDArray[Any]:
        self.model.set_params(batch_size=len(placed[0][0]), shuffle=False)
        for _ in range(rounds):
            losses = [self.model.partial_fit(x, y).loss_ for x, y in placed]
        return np.array(losses)

    def epoch(self, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
        self.model.set_params(batch_size=BATCH, shuffle=True)
        return float(self.model.partial_fit(scaled(x), y).loss_)

    def classes(self, x: Floats) -> NDArray[Any]:
        return np.asarray(self.model.predict(x))
