"""Worked examples of one step of gradient descent, and of the derivatives in it."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.layers import Dense
from mlpkit.lessons.step import lesson
from mlpkit.lessons.table import table
from mlpkit.losses import get_loss
from mlpkit.mlp import MLP
from mlpkit.network import Network

Host = NDArray[Any]
DIGITS = 10


# ---- one step, number by number ------------------------------------------------------------------


def classifier() -> str:
    """E1: 3-4-1, sigmoid everywhere; the output's sigmoid is the loss's own."""
    net = MLP([3, 4, 1], "sigmoid", dtype="float64")
    net.load_parameters(
        {
            "0.weight": [[0.1, 0.2, 0.1, 0.2], [0.2, 0.3, 0.4, 0.3], [0.5, 0.1, 0.6, 0.9]],
            "0.bias": [0.0, 0.0, 0.0, 0.0],
            "1.weight": [[0.4], [1.2], [4.1], [0.1]],
            "1.bias": [1.4],
        }
    )
    x = [[1.0, 1.0, 1.0]]
    (label,) = net.backend.to_numpy(net.predict(x))
    return (
        "The output is p = sigmoid(z), and dE/dp = (p - t) / (p (1 - p));\n"
        "times dp/dz = p (1 - p) this is dE/dz = p - t.\n"
        f"At the threshold 0.5 the class is {label}.\n\n"
        + lesson(net, x, [[1.0]], "binary_cross_entropy", digits=DIGITS)
    )


def linear() -> str:
    """E2: 2-2-1 without biases and activations."""
    net = Network([Dense(2, 2, bias=False), Dense(2, 1, bias=False)], dtype="float64")
    net.load_parameters({"0.weight": [[0.11, 0.12], [0.21, 0.08]], "1.weight": [[0.14], [0.15]]})
    return (
        "w1, w2 lead to the first hidden unit, w3, w4 to the second: 0.weight is [[w1, w3],\n"
        "[w2, w4]]; w5, w6 lead to the output: 1.weight is [[w5], [w6]].\n\n"
        + lesson(net, [[2.0, 3.0]], [[1.0]], lr=0.05, digits=DIGITS)
    )


def two_two_two() -> Network:
    """The network of E3, whose weights E5 uses again."""
    net = MLP([2, 2, 2], "sigmoid", "sigmoid", dtype="float64")
    net.load_parameters(
        {
            "0.weight": [[0.1, 0.2], [0.3, 0.4]],
            "0.bias": [0.25, 0.25],
            "1.weight": [[0.5, 0.7], [0.6, 0.8]],
            "1.bias": [0.35, 0.35],
        }
    )
    return net


def full_cycle() -> str:
    """E3: 2-2-2, sigmoid everywhere; the biases are held."""
    text = lesson(
        two_two_two(),
        [[0.1, 0.5]],
        [[0.05, 0.95]],
        lr=0.6,
        hold=("0.bias", "1.bias"),
        digits=DIGITS,
    )
    return "0.weight is [[w1, w2], [w3, w4]], 1.weight is [[w5, w7], [w6, w8]].\n\n" + text


# ---- derivatives, side by side with their formulas -----------------------------------------------


def logistic() -> str:
    """E4: y = sigmoid(t1 x + t2), J = (y - t)^2 / 2."""
    net = MLP([1, 1], output="sigmoid", dtype="float64")
    rows = []
    for x, t, t1, t2 in [
        (0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 0.5, -0.5), (2.0, 0.0, 0.3, 0.1), (-1.5, 1.0, 2.0, 0.7),
        (0.25, 0.5, -4.0, 3.0), (3.0, 0.2, -0.6, 1.1), (-2.0, 0.9, 0.8, 0.4), (1.0, 0.0, 6.0, 2.0),
    ]:  # fmt: skip
        net.load_parameters({"0.weight": [[t1]], "0.bias": [t2]})
        y = 1 / (1 + math.exp(-(t1 * x + t2)))
        slope = (y - t) * y * (1 - y)
        found = gradients(net, [[x]], [[t]])
        rows.append((x, t, t1, t2, slope * x, found["0.weight"][0, 0], slope, found["0.bias"][0]))
    return "dJ/dt1 = (y - t) y (1 - y) x,  dJ/dt2 = (y - t) y (1 - y)\n\n" + table(
        ("x", "t", "t1", "t2", "dJ/dt1", "library", "dJ/dt2", "library"), rows
    )


def paths() -> str:
    """E5: the gradient of a weight as the sum over the paths from it to the outputs."""
    chain = MLP([1, 1, 1], "sigmoid", "sigmoid", dtype="float64")
    chain.load_parameters(
        {"0.weight": [[0.4]], "0.bias": [-0.2], "1.weight": [[1.5]], "1.bias": [0.3]}
    )
    text = "J = sum of squares / (2 m) over m samples; the last column is (J(w+h) - J(w-h)) / 2h.\n"
    for net, x, t in [
        (chain, [[0.5], [-1.0]], [[0.9], [0.2]]),
        (two_two_two(), [[0.1, 0.5], [0.7, -0.3]], [[0.05, 0.95], [0.6, 0.1]]),
    ]:
        text += f"\nThe {'-'.join([str(net.n_in)] * 3)} network, m = {len(x)}\n\n"
        outputs = [f"path by output {k + 1}" for k in range(net.n_out)]
        head = ("weight", *outputs, "their sum", "library", "difference")
        text += table(head, _paths(net, np.array(x), np.array(t)))
    return text


def _paths(net: Network, x: Host, t: Host) -> Iterable[tuple[Any, ...]]:
    """A row for each weight of a sigmoid network with one hidden layer."""
    W, b, V, c = (net.backend.to_numpy(value) for value in net.named_parameters().values())
    a = 1 / (1 + np.exp(-(x @ W + b)))
    y = 1 / (1 + np.exp(-(a @ V + c)))
    delta = (y - t) * y * (1 - y) / len(x)  # dJ/dz of the outputs
    by_output = {
        "0.weight": np.einsum("ni,nj,jk,nk->ijk", x, a * (1 - a), V, delta),
        "1.weight": np.einsum("nj,nk,kl->jkl", a, delta, np.eye(net.n_out)),
    }
    found = gradients(net, x, t)
    for name, paths in by_output.items():
        for i, j in np.ndindex(paths.shape[:2]):
            difference = central_difference(net, x, t, name, (i, j))
            total, library = paths[i, j].sum(), found[name][i, j]
            yield f"{name}[{i},{j}]", *paths[i, j], total, library, difference


def gradients(net: Network, x: Any, t: Any) -> dict[str, Host]:
    """dJ/dw by the library."""
    backend = net.backend
    scores, backward = net.forward(x)
    backward(get_loss("half_squared_error")(backend, scores, t)[1])
    return {name: backend.to_numpy(value) for name, value in net.named_gradients().items()}


def central_difference(net: Network, x: Any, t: Any, name: str, index: tuple[int, int]) -> float:
    """(J(w + h) - J(w - h)) / 2h with h = 1e-5, for one weight."""
    weight, loss = net.named_parameters()[name], get_loss("half_squared_error")
    before, errors = float(weight[index]), []
    for moved in (before + 1e-5, before - 1e-5):
        weight[index] = moved
        errors.append(float(loss(net.backend, net.forward(x)[0], t)[0]))
    weight[index] = before
    return (errors[0] - errors[1]) / 2e-5
