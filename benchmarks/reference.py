"""The job in plain float64 NumPy: what every contestant's losses are compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import BETAS, EPS, LR, MOMENTUM, Batch, Floats, unflatten

# Relative, over the first steps.  Most contestants stay within 1e-6, but no bound so tight is fair:
# where a ReLU's input is zero to rounding, float32 may fall on its other side, and the losses then
# part by 1e-4 (SGD, batch 512: one such unit, turned in float64, gives the peers' losses to 1e-7).
# Adam takes steps of full length along gradients that are rounding errors, with the same effect.
TOLERANCES = {"float32": 1e-3, "tf32": 3e-3, "bfloat16": 2e-2}  # by the precision of products


def losses(
    params: Floats, batches: Sequence[Batch], optimizer: str, eps_hat: bool = False
) -> NDArray[np.float64]:
    """The loss of each batch before the update from it.

    Adam divides by sqrt(v / (1 - beta2^t)) + eps; with `eps_hat` by (sqrt(v) + eps) /
    sqrt(1 - beta2^t), the second form in Kingma and Ba (2015, section 2), where eps counts for 30
    times as much in the first step: over 20 of them the losses differ by 2e-3 (median of 64 seeds).
    """
    weights = [
        a.astype(np.float64) for layer in unflatten(params) for a in layer
    ]  # W, b, W, b, ...
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    (beta1, beta2), lr = BETAS, LR[optimizer]
    found = []
    for t, (x, y) in enumerate(batches, start=1):
        loss, grads = gradients(weights, x.astype(np.float64), y)
        found.append(loss)
        for w, g, m, v in zip(weights, grads, first, second, strict=True):
            if optimizer == "SGD":
                m[...] = MOMENTUM * m + g
                w -= lr * m
            else:
                m[...] = beta1 * m + (1 - beta1) * g
                v[...] = beta2 * v + (1 - beta2) * g * g
                correction = np.sqrt(1 - beta2**t)
                eps = EPS / correction if eps_hat else EPS
                w -= lr / (1 - beta1**t) * m / (np.sqrt(v) / correction + eps)
    return np.array(found)


def gradients(
    weights: Sequence[NDArray[np.float64]], x: NDArray[np.float64], y: NDArray[np.int64]
) -> tuple[float, list[NDArray[np.float64]]]:
    """Mean cross-entropy, and its gradient for each of W, b, W, b, ..."""
    W, b = weights[::2], weights[1::2]
    inputs, rows = [x], np.arange(len(y))
    for i in range(len(W) - 1):
        inputs.append(np.maximum(inputs[i] @ W[i] + b[i], 0))
    scores = inputs[-1] @ W[-1] + b[-1]
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    delta = np.exp(log_p)
    delta[rows, y] -= 1
    delta /= len(y)
    grads: list[NDArray[np.float64]] = []
    for i in reversed(range(len(W))):
        grads = [inputs[i].T @ delta, delta.sum(axis=0), *grads]
        delta = (delta @ W[i].T) * (inputs[i] > 0)
    return float(-log_p[rows, y].mean()), grads


def classes(params: Floats, x: Floats) -> NDArray[np.int64]:
    """The most probable class (N,) of each row of x."""
    y = x.astype(np.float64)
    for i, (W, b) in enumerate(unflatten(params)):
        y = (np.maximum(y, 0) if i else y) @ W.astype(np.float64) + b
    return np.asarray(np.argmax(y, axis=1))
