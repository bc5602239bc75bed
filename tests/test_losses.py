"""Each loss against its plain formula, and its gradient against central differences."""

import numpy as np
import pytest

from mlpkit import (
    BinaryCrossEntropy,
    BinaryFocal,
    Focal,
    HalfSquaredError,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    SoftTargets,
)
from mlpkit.losses import KINDS, Loss

N, C, K = 6, 4, 3
EPS = 0.15
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)


def log_softmax(s):
    return s - np.log(np.sum(np.exp(s), axis=-1, keepdims=True))


def cross_entropy(s, q, e=0.0, c=1.0):
    return -np.sum(c * ((1 - e) * q + e / C) * log_softmax(s), axis=-1)


def one_hot(labels):
    return np.eye(C)[labels]


def focal(s, q, gamma=2.0, a=1.0):
    p = np.exp(log_softmax(s))
    return -np.sum(a * q * (1 - p) ** gamma * np.log(p), axis=-1)


def binary_cross_entropy(s, t, w=1.0):
    p = 1 / (1 + np.exp(-s))
    return np.mean(-w * t * np.log(p) - (1 - t) * np.log(1 - p), axis=-1)


def binary_focal(s, t, gamma=2.0, a=0.25):
    p = 1 / (1 + np.exp(-s))
    on, off = a * t * (1 - p) ** gamma * np.log(p), (1 - a) * (1 - t) * p**gamma * np.log(1 - p)
    return -np.mean(on + off, axis=-1)


def soft_targets(s, t, T=2.0):
    log_p, log_q = log_softmax(s / T), log_softmax(t / T)
    return T**2 * np.sum(np.exp(log_q) * (log_q - log_p), axis=-1)


def huber(s, t, delta=1.0):
    e = np.abs(s - t)
    return np.mean(np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)), axis=-1)


WEIGHTS = np.array(CLASS_WEIGHTS)

# name: the loss, the kind of its targets, and the loss of each sample
LOSSES = {
    "mse": (MeanSquaredError(), "values", lambda s, t: np.mean((s - t) ** 2, axis=-1)),
    "half": (HalfSquaredError(), "values", lambda s, t: np.sum((s - t) ** 2, axis=-1) / 2),
    "mae": (MeanAbsoluteError(), "values", lambda s, t: np.mean(np.abs(s - t), axis=-1)),
    "huber": (Huber(), "values", huber),
    "huber, delta": (Huber(0.3), "values", lambda s, t: huber(s, t, 0.3)),
    "soft": (SoftTargets(), "values", soft_targets),
    "soft, hot": (SoftTargets(4), "values", lambda s, t: soft_targets(s, t, 4.0)),
    "soft, cold": (SoftTargets(0.6), "values", lambda s, t: soft_targets(s, t, 0.6)),
    "bce": (BinaryCrossEntropy(), "truth", binary_cross_entropy),
    "bce, shares": (BinaryCrossEntropy(), "shares", binary_cross_entropy),
    "bce, weighted": (
        BinaryCrossEntropy(CLASS_WEIGHTS),
        "truth",
        lambda s, t: binary_cross_entropy(s, t, WEIGHTS),
    ),
    "bce, shares, weighted": (
        BinaryCrossEntropy(CLASS_WEIGHTS),
        "shares",
        lambda s, t: binary_cross_entropy(s, t, WEIGHTS),
    ),
    "bifocal": (BinaryFocal(), "truth", binary_focal),
    "bifocal, shares": (
        BinaryFocal(0.7, 0.6),
        "shares",
        lambda s, t: binary_focal(s, t, 0.7, 0.6),
    ),
    "bifocal, gamma 0": (BinaryFocal(0), "truth", lambda s, t: binary_focal(s, t, 0.0)),
    "focal": (Focal(), "labels", lambda s, t: focal(s, one_hot(t))),
    "focal, weighted": (
        Focal(0.7, CLASS_WEIGHTS),
        "labels",
        lambda s, t: focal(s, one_hot(t), 0.7, WEIGHTS),
    ),
    "focal, shares": (Focal(3), "shares", lambda s, t: focal(s, t, 3.0)),
    "focal, gamma 0": (Focal(0), "labels", lambda s, t: cross_entropy(s, one_hot(t))),
    "labels": (SoftmaxCrossEntropy(), "labels", lambda s, t: cross_entropy(s, one_hot(t))),
    "labels, smooth": (
        SoftmaxCrossEntropy(EPS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), EPS),
    ),
    "labels, weighted": (
        SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), c=WEIGHTS),
    ),
    "labels, smooth, weighted": (
        SoftmaxCrossEntropy(EPS, CLASS_WEIGHTS),
        "labels",
        lambda s, t: cross_entropy(s, one_hot(t), EPS, WEIGHTS),
    ),
    "shares": (SoftmaxCrossEntropy(), "shares", cross_entropy),
    "shares, smooth, weighted": (
        SoftmaxCrossEntropy(EPS, CLASS_WEIGHTS),
        "shares",
        lambda s, t: cross_entropy(s, t, EPS, WEIGHTS),
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
    """The mean over the samples: weighted, in a cross-entropy by the label's weight as well."""
    loss, kind, _ = LOSSES[name]
    weights = np.broadcast_to(1.0 if weights is None else weights, losses.shape)
    total = weights
    by_class = isinstance(loss, SoftmaxCrossEntropy) and loss.class_weights is not None
    if by_class and kind == "labels":
        total = weights * WEIGHTS[targets]
    return np.sum(weights * losses, axis=-1) / np.sum(total, axis=-1)


def test_every_loss_is_looked_at():
    assert {type(loss) for loss, _, _ in LOSSES.values()} == set(KINDS)


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
def test_weights_that_are_all_0_give_0_to_their_member_alone(backend, dtype, draw, name):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(K, N, C), of_kind(kind, draw, K, N)
    weights = np.ones((K, N))
    weights[1] = 0
    value, gradient = evaluate(backend, loss, scores, targets, weights, dtype)
    assert value[1] == 0
    assert np.all(gradient[1] == 0)
    want, want_gradient = evaluate(backend, loss, scores[::2], targets[::2], None, dtype)
    np.testing.assert_allclose(value[::2], want, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(gradient[::2], want_gradient, atol=TOLERANCE[dtype])


@EVERY_LOSS
def test_scores_far_out_are_finite_and_the_same_in_both_dtypes(backend, name):
    loss, kind, _ = LOSSES[name]
    far = np.array([-1e4, -200, -20, -1e-3, 0, 1e-3, 20, 200, 1e4])
    scores = np.stack(np.meshgrid(far, far, [-1e4, 0, 1e4], [3.0]), axis=-1).reshape(-1, C)
    for label in range(C):
        target = {"labels": label, "values": 1e4 * one_hot(label)}.get(kind, one_hot(label))
        targets = np.broadcast_to(target, (len(scores), *np.shape(target)))
        value, gradient = evaluate(backend, loss, scores, targets)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        rounded = evaluate(backend, loss, scores, targets, dtype="float32")
        np.testing.assert_allclose(rounded[0], value, rtol=1e-5)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(rounded[1], gradient, rtol=1e-4, atol=1e-6 * scale)


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
    # CuPy adds a vector of weights in another order than each row of several.
    error = 8 * np.finfo(dtype).eps if backend.name == "cupy" else 0
    np.testing.assert_allclose(got[0], want[0], rtol=error)
    np.testing.assert_allclose(got[1], want[1], rtol=error, atol=error)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stack", [(), (K,)])
@EVERY_LOSS
def test_the_mean_of_parts_by_their_mass_is_that_of_the_whole(backend, draw, name, stack, weighted):
    loss, kind, _ = LOSSES[name]
    scores, targets = draw(*stack, N, C), of_kind(kind, draw, N)
    weights = np.abs(draw(*stack, N)) if weighted else None
    total = mass = 0
    for rows in (slice(0, 1), slice(1, 3), slice(3, N)):
        part = None if weights is None else weights[..., rows]
        s, t = scores[..., rows, :], targets[rows]
        value, _ = evaluate(backend, loss, s, t, part)
        own = loss.fit_targets(backend, t, s.shape, backend.xp.float64)
        found = loss.mass(backend, own, None if part is None else backend.asarray(part))
        count = backend.to_numpy(backend.asarray(found))
        total, mass = total + count * value, mass + count
    want, _ = evaluate(backend, loss, scores, targets, weights)
    np.testing.assert_allclose(total / mass, want, rtol=1e-13)


def test_a_loss_goes_by_the_name_of_its_class_or_by_its_own():
    class LogCosh(Loss):
        pass

    class Named(LogCosh):
        name = "another"

    assert (LogCosh.name, Named.name) == ("log_cosh", "another")
    names = [kind.name for kind in KINDS]
    assert names == [
        "softmax_cross_entropy", "focal", "binary_cross_entropy", "binary_focal", "soft_targets",
        "mean_squared_error", "half_squared_error", "mean_absolute_error", "huber",
    ]  # fmt: skip


@EVERY_LOSS
def test_loss_does_not_write_into_scores_or_targets(backend, draw, name):
    loss, kind, _ = LOSSES[name]
    scores = backend.asarray(draw(N, C))
    targets = of_kind(kind, draw, N)
    before = backend.to_numpy(scores), backend.to_numpy(targets)
    loss(backend, scores, targets)
    np.testing.assert_array_equal(backend.to_numpy(scores), before[0])
    np.testing.assert_array_equal(backend.to_numpy(targets), before[1])
