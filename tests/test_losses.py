"""Each loss against its plain formula, and its gradient against central differences."""

import numpy as np
import pytest

from mlpkit import BinaryCrossEntropy, HalfSquaredError, MeanSquaredError, SoftmaxCrossEntropy

N, C, K = 6, 4, 3
EPS = 0.15
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)


def log_softmax(s):
    return s - np.log(np.sum(np.exp(s), axis=-1, keepdims=True))


def cross_entropy(s, q, e=0.0, c=1.0):
    return -np.sum(c * ((1 - e) * q + e / C) * log_softmax(s), axis=-1)


def one_hot(labels):
    return np.eye(C)[labels]


def binary_cross_entropy(s, t):
    p = 1 / (1 + np.exp(-s))
    return np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p), axis=-1)


# name: the loss, the kind of its targets, and the loss of each sample
LOSSES = {
    "mse": (MeanSquaredError(), "values", lambda s, t: np.mean((s - t) ** 2, axis=-1)),
    "half": (HalfSquaredError(), "values", lambda s, t: np.sum((s - t) ** 2, axis=-1) / 2),
    "bce": (BinaryCrossEntropy(), "truth", binary_cross_entropy),
    "bce, shares": (BinaryCrossEntropy(), "shares", binary_cross_entropy),
    "labels": (SoftmaxCrossEntropy(), "labels", lambda s, t: cross_entropy(s, one_hot(t))),
    "labels, smooth": (
        SoftmaxCrossEntropy(EPS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), EPS),
    ),
    "labels, weighted": (
        SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), c=np.array(CLASS_WEIGHTS)),
    ),
    "labels, smooth, weighted": (
        SoftmaxCrossEntropy(EPS, CLASS_WEIGHTS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), EPS, np.array(CLASS_WEIGHTS)),
    ),
    "shares": (SoftmaxCrossEntropy(), "shares", cross_entropy),
    "shares, smooth, weighted": (
        SoftmaxCrossEntropy(EPS, CLASS_WEIGHTS),
        "shares",
        lambda s, t: cross_entropy(s, t, EPS, np.array(CLASS_WEIGHTS)),
    ),
}
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def of_kind(kind, draw, *shape):
    """Targets for samples of the given shape."""
    if kind == "labels":
        return draw(*shape, below=C)
    if kind == "truth":
        return draw(*shape, C, below=2)
    values = draw(*shape, C)
    return np.exp(log_softmax(values)) if kind == "shares" else values


def evaluate(backend, loss, scores, targets, weights=None, dtype="float64"):
    """The loss and its gradient on the host."""
    of_dtype = getattr(backend.xp, dtype)
    scores = backend.asarray(scores, of_dtype)
    weights = None if weights is None else backend.asarray(weights, of_dtype)
    value, dscores = loss(backend, scores, targets, weights)
    assert value.dtype == dscores.dtype == of_dtype
    assert dscores.shape == scores.shape
    return backend.to_numpy(value), backend.to_numpy(dscores)


def mean_of(name, losses, targets, weights):
    """The mean over the samples: weighted, for labels by the weight of their class as well."""
    loss, kind, _ = LOSSES[name]
    weights = np.broadcast_to(1.0 if weights is None else weights, losses.shape)
    total = weights
    if kind == "labels" and loss.class_weights is not None:
        total = weights * np.array(CLASS_WEIGHTS)[targets]
    return np.sum(weights * losses, axis=-1) / np.sum(total, axis=-1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stack", [(), (K,)])
@EVERY_LOSS
def test_value_is_the_plain_formula(backend, dtype, draw, name, stack, weighted):
    loss, kind, formula = LOSSES[name]
    scores, targets = 2 * draw(*stack, N, C), of_kind(kind, draw, *stack, N)
    weights = np.abs(draw(*stack, N)) if weighted else None
    value, _ = evaluate(backend, loss, scores, targets, weights, dtype)
    assert value.shape == stack
    want = mean_of(name, formula(scores, targets), targets, weights)
    np.testing.assert_allclose(value, want, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stack", [(), (K,)])
@EVERY_LOSS
def test_gradient_is_the_central_difference(backend, draw, name, stack, weighted):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(*stack, N, C), of_kind(kind, draw, *stack, N)
    weights = np.abs(draw(N)) if weighted else None
    _, dscores = evaluate(backend, loss, scores, targets, weights)
    h = 1e-5
    for place in [(0, 0), (2, 3), (N - 1, 1)]:
        moved = np.zeros((N, C))
        moved[place] = h
        high, _ = evaluate(backend, loss, scores + moved, targets, weights)
        low, _ = evaluate(backend, loss, scores - moved, targets, weights)
        np.testing.assert_allclose(dscores[..., *place], (high - low) / (2 * h), atol=1e-9)


@EVERY_LOSS
def test_float32_gradient_is_the_float64_one_rounded(backend, draw, name):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(N, C), of_kind(kind, draw, N)
    _, exact = evaluate(backend, loss, scores, targets)
    _, rounded = evaluate(backend, loss, scores, targets, dtype="float32")
    np.testing.assert_allclose(rounded, exact, atol=1e-6 * np.abs(exact).max())


@EVERY_LOSS
def test_weight_2_is_the_sample_twice_and_weight_0_leaves_it_out(backend, draw, name):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(K, N, C), of_kind(kind, draw, K, N)
    rows = [0, 0, 1, 3, 4, 5, 5]  # 0 and 5 twice, 2 not at all
    want, want_gradient = evaluate(backend, loss, scores[:, rows], targets[:, rows])
    value, gradient = evaluate(backend, loss, scores, targets, [2, 1, 0, 1, 1, 2])
    np.testing.assert_allclose(value, want, rtol=1e-14)
    by_row = np.zeros((K, N, C))
    np.add.at(by_row, (slice(None), rows), want_gradient)
    np.testing.assert_allclose(gradient, by_row, rtol=1e-13, atol=1e-17)


@EVERY_LOSS
def test_equal_weights_change_nothing(backend, draw, name):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(K, N, C), of_kind(kind, draw, K, N)
    value, gradient = evaluate(backend, loss, scores, targets, np.full((K, N), 0.7))
    want, want_gradient = evaluate(backend, loss, scores, targets)
    np.testing.assert_allclose(value, want, rtol=1e-14)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-13, atol=1e-17)


@EVERY_LOSS
def test_shared_targets_are_the_targets_of_each_member(backend, dtype, draw, name):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(K, N, C), of_kind(kind, draw, N)
    weights = np.abs(draw(N))
    got = evaluate(backend, loss, scores, targets, weights, dtype)
    stacked = (np.stack([array] * K) for array in (targets, weights))
    want = evaluate(backend, loss, scores, *stacked, dtype)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@EVERY_LOSS
def test_loss_does_not_write_into_scores_or_targets(backend, draw, name):
    loss, kind, _ = LOSSES[name]
    scores = backend.asarray(draw(N, C))
    targets = of_kind(kind, draw, N)
    before = backend.to_numpy(scores), backend.to_numpy(targets)
    loss(backend, scores, targets)
    np.testing.assert_array_equal(backend.to_numpy(scores), before[0])
    np.testing.assert_array_equal(backend.to_numpy(targets), before[1])
