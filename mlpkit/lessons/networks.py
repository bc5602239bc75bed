"""Larger networks: the digits, what one hidden layer can do, and what it learns from a deep one."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.data import digits
from mlpkit.lessons.table import table
from mlpkit.losses import Loss, SoftTargets, get_loss
from mlpkit.mlp import MLP
from mlpkit.network import Network
from mlpkit.optimizers import SGD, Adam
from mlpkit.schedules import cosine
from mlpkit.trainer import Trainer

Host = NDArray[Any]


def digit() -> str:
    """E7: 784-256-128-10 and one drawn digit."""
    sizes = [784, 256, 128, 10]
    net = MLP(sizes, seed=0)
    counts = [(f"{d} -> {h}", f"{d}·{h} + {h}", d * h + h) for d, h in pairwise(sizes)]
    x, (label, *_) = digits(1)
    trainer = Trainer(net, "softmax_cross_entropy", SGD(0.01))
    p, target = net.predict_proba(x)[0], np.eye(10)[label]
    before = trainer.evaluate(x, [label])["loss"]
    slope = get_loss("softmax_cross_entropy")(net.backend, net.predict_scores(x), [label])[1][0]
    trainer.step(x, [label])
    after = trainer.evaluate(x, [label])["loss"]
    return (
        table(("layer", "weights + biases", "count"), [*counts, ("", "", net.n_parameters)])
        + f"\nA drawn {label} through the untrained network:\n\n"
        + table(
            ("class", "p", "t", "p - t", "dE/dz"),
            zip(range(10), p, target, p - target, slope, strict=True),
            digits=5,
        )
        + f"\nE = -log p = {before:.6g}; a network that knew nothing would have log 10 = "
        f"{math.log(10):.6g}\nE after one step of 0.01: {after:.6g}\n"
    )


def approximation() -> str:
    """E8: one hidden layer comes near any function, and learns more from a deep network."""
    return "\n".join([widening(), mimicry()])


def widening() -> str:
    """The largest error of ever wider layers, on four functions."""
    line = np.linspace(-1, 1, 41)[:, None]
    line = line[np.abs(line[:, 0]) > 0.08]  # no width follows a step at the step itself
    curves = np.stack([np.sin(np.pi * line), np.abs(line), np.sign(line)])
    plane = np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 2), axis=-1).reshape(-1, 2)
    bump = np.exp(-4 * np.sum(plane**2, axis=1, keepdims=True))
    rows = []
    for width in (1, 4, 16):
        lines = fitted(MLP([1, width, 1], "tanh", members=3, dtype="float64"), line, curves)
        planes = fitted(MLP([2, width, 1], "tanh", dtype="float64"), plane, bump)
        worst = np.max(np.abs(lines - curves), axis=(1, 2))
        rows.append((width, *worst, np.max(np.abs(planes - bump))))
    return (
        "Largest error of one hidden layer of tanh units, whose bends are spread evenly to begin\n"
        "with, after 500 full-batch steps.  The step function is judged beside its jump.\n\n"
        + table(("units", "sin(pi x)", "|x|", "step", "2-D bump"), rows, digits=3)
    )


def fitted(net: Network, x: Host, t: Host) -> Host:
    """What a network with one hidden layer gives for x when it has been fitted to t."""
    D, H = net.named_parameters()["0.weight"].shape[-2:]
    unit = np.arange(H)
    angle = unit * np.pi * (3 - np.sqrt(5)) * (D - 1)  # the golden angle apart
    directions = np.stack([np.cos(angle), np.sin(angle)])[:D]
    steepness, middle = 2 + H / 2 if D == 1 else 2.0, (2 * unit + 1) / H - 1
    start = {
        "0.weight": steepness * directions,
        "0.bias": -steepness * middle,
        "1.weight": np.zeros((H, 1)),
        "1.bias": np.zeros(1),
    }
    for name, view in net.named_parameters().items():
        view[...] = start[name]
    trainer = Trainer(net, "mean_squared_error", Adam(cosine(0.03)))
    trainer.fit(x, t, epochs=500, batch_size=len(x))
    return net.backend.to_numpy(net.predict_scores(x))


def mimicry() -> str:
    """A shallow network taught by a deep one, and its twin taught by the labels."""
    (x, y), (x_test, y_test) = coarse(1000, seed=0), coarse(2000, seed=1)
    unlabelled, _ = coarse(6000, seed=2)

    def accuracy(net: Network) -> Host:
        hits = net.backend.to_numpy(net.predict(x_test)) == y_test
        return np.asarray(hits.mean(axis=-1))

    teacher = MLP([196, 256, 128, 10], dropout=0.3)
    Trainer(teacher, "softmax_cross_entropy", Adam(cosine(3e-3))).fit(x, y, epochs=60)
    scores = teacher.backend.to_numpy(teacher.predict_scores(unlabelled))
    scaled = scores - scores.mean(axis=-1, keepdims=True)
    scaled /= scaled.std()
    rows: list[tuple[Any, ...]] = [("the deep teacher", "", "", accuracy(teacher))]
    taught: list[tuple[str, str | Loss, Host, Host]] = [
        ("the labels", "softmax_cross_entropy", x, y),
        ("the teacher's scores, scaled", "half_squared_error", unlabelled, scaled),
        ("its softened probabilities", SoftTargets(2.0), unlabelled, scores),
    ]
    for name, loss, inputs, targets in taught:
        students = MLP([196, 32, 10], members=5)
        trainer = Trainer(students, loss, Adam(cosine(1e-2)))
        trainer.fit(inputs, targets, epochs=90_000 // len(inputs), batch_size=100)
        found = accuracy(students)
        rows.append((name, trainer.loss.name, found.std(), found.mean()))
    return (
        "Accuracy on 2000 held-out drawn digits of 14 x 14 pixels.  The teacher, 196-256-128-10,\n"
        "and one kind of student, 196-32-10, learn the same 1000 labelled drawings; the others\n"
        "mimic the teacher on 6000 without labels.  Five seeds and 900 steps for each student.\n\n"
        + table(("taught by", "loss", "spread", "accuracy"), rows, digits=3)
    )


def coarse(n: int, seed: int) -> tuple[Host, Host]:
    """Drawn digits of 14 x 14 pixels in [0, 1], and their labels."""
    x, y = digits(n, seed=seed)
    pixels = x.reshape(-1, 28, 28)[:, ::2, ::2].reshape(-1, 196)
    return pixels.astype(np.float32) / 255, y
