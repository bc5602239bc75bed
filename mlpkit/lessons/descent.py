"""Gradient descent itself: a bowl, a perceptron, and what descends with them."""

import numpy as np

from mlpkit.activations import KINDS
from mlpkit.backends import get_backend
from mlpkit.layers import Dense
from mlpkit.lessons.table import table
from mlpkit.losses import LOSSES
from mlpkit.network import Network
from mlpkit.optimizers import SGD
from mlpkit.schedules import cosine
from mlpkit.trainer import Trainer


def descent() -> str:
    """E6: a bowl, a perceptron by batches of three sizes, the losses and the activations."""
    return "\n".join([bowl(), perceptron(), losses(), activations()])


def bowl() -> str:
    """E(w, b) of y = w x + b on the points (-1, -1) and (1, 3): ((w - 2)^2 + (b - 1)^2) / 2."""
    net = Network([Dense(1, 1)], dtype="float64")
    net.load_parameters({"0.weight": [[-1.0]], "0.bias": [3.0]})
    trainer = Trainer(net, "half_squared_error", SGD(0.5))
    x, t = [[-1.0], [1.0]], [[-1.0], [3.0]]
    rows = []
    for step in range(21):
        w, b = map(float, net.params)
        rows.append((step, w, b, trainer.evaluate(x, t)["loss"]))
        trainer.step(x, t)
    return (
        "y = w x + b on the points (-1, -1) and (1, 3): E = ((w - 2)^2 + (b - 1)^2) / 2, a bowl.\n"
        "A step of 0.5 against the gradient (w - 2, b - 1) halves the way to its lowest point.\n\n"
        + table(("step", "w", "b", "E"), rows)
    )


def perceptron() -> str:
    """One sigmoid unit, whose cross-entropy is convex, descends by batches of three sizes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    t = (rng.random(40) < 1 / (1 + np.exp(-(0.5 + x @ [1.5, -1.0])))).astype(float)
    rows = []
    for name, size, lr in (("all samples", 40, 2.0), ("mini-batches", 8, 1.0), ("single", 1, 0.2)):
        net = Network([Dense(2, 1, init="zeros")], dtype="float64")
        trainer = Trainer(net, "binary_cross_entropy", SGD(cosine(lr)))
        trainer.fit(x, t, epochs=150, batch_size=size)
        w0, w = net.named_parameters()["0.bias"], net.named_parameters()["0.weight"]
        figures = (float(w0[0]), float(w[0, 0]), float(w[1, 0]))
        rows.append((name, size, 150 * 40 // size, *figures, trainer.evaluate(x, t)["loss"]))
    return (
        "A perceptron on 40 points; the learning rate falls to 0 along a cosine, and batches of\n"
        "any size end at the one minimum.\n\n"
        + table(("steps by", "batch", "steps", "w0", "w1", "w2", "E"), rows, digits=5)
    )


def losses() -> str:
    """Value and derivative of each loss at one point."""
    backend = get_backend("numpy")
    s, t = np.array([[0.8, -0.3]]), np.array([[1.0, 0.0]])
    rows = []
    for name, kind in LOSSES.items():
        value, slope = kind()(backend, s, t)
        rows.append((name, float(value), *slope[0]))
    return "Losses at s = (0.8, -0.3) for the target t = (1, 0)\n\n" + table(
        ("loss", "E", "dE/ds1", "dE/ds2"), rows
    )


def activations() -> str:
    """Value and derivative of each activation at a few points."""
    xp, z = get_backend("numpy").xp, np.array([-2.0, -0.5, 0.5, 2.0])
    rows = []
    for kind in KINDS:
        g = kind()
        y = g.value(xp, z)
        own = [g.gradient(xp, unit, z, y) @ unit for unit in np.eye(len(z))]
        rows.append((g.name, *y, *own))
    points = [f"{z:g}" for z in z]
    head = ("activation", *(f"g({z})" for z in points), *(f"g'({z})" for z in points))
    return "Activations; softmax takes the four points together, and g' is da_j/dz_j\n\n" + table(
        head, rows, digits=5
    )
