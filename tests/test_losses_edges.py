"""Losses: targets written in two ways, settings per member, scores far out, what is refused."""

import numpy as np
import pytest

from mlpkit import BinaryCrossEntropy, HalfSquaredError, MeanSquaredError, SoftmaxCrossEntropy

N, C, K = 6, 4, 3


def evaluate(backend, loss, scores, targets, dtype="float64"):
    """The loss and its gradient on the host."""
    of_dtype = getattr(backend.xp, dtype)
    results = loss(backend, backend.asarray(scores, of_dtype), targets)
    return [backend.to_numpy(result) for result in results]


@pytest.mark.parametrize("stack", [(), (K,)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_hot_distributions_equal_labels(backend, dtype, draw, smoothing, stack):
    scores, labels = draw(*stack, N, C), draw(*stack, N, below=C)
    loss = SoftmaxCrossEntropy(smoothing)
    got = evaluate(backend, loss, scores, np.eye(C)[labels], dtype)
    want = evaluate(backend, loss, scores, labels, dtype)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_class_weights_divide_by_the_labels_weights_but_not_for_distributions(backend, draw):
    """As torch.nn.functional.cross_entropy: only labels have one class whose weight counts."""
    scores, labels, weights = draw(N, C), draw(N, below=C), (0.5, 2.0, 1.0, 3.0)
    loss = SoftmaxCrossEntropy(class_weights=weights)
    of_labels, _ = evaluate(backend, loss, scores, labels)
    of_shares, _ = evaluate(backend, loss, scores, np.eye(C)[labels])
    total = np.array(weights)[labels].sum()
    np.testing.assert_allclose(of_labels * total, of_shares * N, rtol=1e-14)


def test_label_smoothing_per_member_is_each_members_own(backend, dtype, draw):
    scores, labels, smoothing = draw(K, N, C), draw(K, N, below=C), (0.0, 0.1, 0.5)
    values, gradients = evaluate(backend, SoftmaxCrossEntropy(smoothing), scores, labels, dtype)
    for k in range(K):
        loss = SoftmaxCrossEntropy(smoothing[k])
        value, gradient = evaluate(backend, loss, scores[k], labels[k], dtype)
        rtol = 1e-6 if dtype == "float32" else 1e-15
        np.testing.assert_allclose(values[k], value, rtol=rtol)
        np.testing.assert_allclose(gradients[k], gradient, rtol=rtol, atol=rtol)


def test_gradient_with_labels_is_softmax_minus_one_hot(backend, draw):
    scores, labels = draw(N, C), draw(N, below=C)
    _, dscores = evaluate(backend, SoftmaxCrossEntropy(), scores, labels)
    p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(dscores, (p - np.eye(C)[labels]) / N, atol=1e-16)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), MeanSquaredError(), HalfSquaredError()])
@pytest.mark.parametrize("stack", [(), (K,)])
def test_one_output_takes_targets_without_their_last_axis(backend, draw, loss, stack):
    scores, targets = draw(*stack, N, 1), draw(*stack, N, below=2)
    want = evaluate(backend, loss, scores, targets[..., None])
    for same in (targets, targets.astype(bool), targets.astype(np.uint8)):
        got = evaluate(backend, loss, scores, same)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])


BIG = 1e4
FAR_OUT = {
    "labels, right": (SoftmaxCrossEntropy(), [[BIG, -BIG]], [0], 0.0, [[0, 0]]),
    "labels, wrong": (SoftmaxCrossEntropy(), [[BIG, -BIG]], [1], 2 * BIG, [[1, -1]]),
    "both high": (SoftmaxCrossEntropy(), [[BIG, BIG]], [1], np.log(2), [[0.5, -0.5]]),
    "both low": (SoftmaxCrossEntropy(), [[-BIG, -BIG]], [1], np.log(2), [[0.5, -0.5]]),
    "shares": (SoftmaxCrossEntropy(), [[BIG, -BIG]], [[0.5, 0.5]], BIG, [[0.5, -0.5]]),
    "smoothed": (SoftmaxCrossEntropy(0.5), [[BIG, -BIG]], [0], BIG / 2, [[0.25, -0.25]]),
    "weighted": (
        SoftmaxCrossEntropy(class_weights=(1, 3)), [[BIG, -BIG]] * 2, [0, 1], 1.5 * BIG,
        [[0, 0], [0.75, -0.75]],
    ),
    "bce, right": (BinaryCrossEntropy(), [[BIG, -BIG]], [[1, 0]], 0.0, [[0, 0]]),
    "bce, wrong": (BinaryCrossEntropy(), [[BIG, -BIG]], [[0, 1]], BIG, [[0.5, -0.5]]),
    "mse": (MeanSquaredError(), [[BIG, -BIG]], [[0, 0]], BIG**2, [[BIG, -BIG]]),
    "half": (HalfSquaredError(), [[BIG, -BIG]], [[0, 0]], BIG**2, [[BIG, -BIG]]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "scores", "targets", "value", "gradient"), FAR_OUT.values(), ids=FAR_OUT
)
def test_scores_far_out_give_the_exact_loss(backend, dtype, loss, scores, targets, value, gradient):
    got = evaluate(backend, loss, np.array(scores), targets, dtype)
    np.testing.assert_allclose(got[0], value, rtol=1e-7)
    np.testing.assert_allclose(got[1], gradient, rtol=1e-7)


LABELS = r"expected integer labels \(6,\) or distributions \(6, 4\)"
MISFITS = {
    "too few labels": (SoftmaxCrossEntropy(), (N, C), np.zeros(5, int), r"\(5,\), " + LABELS),
    "one-hot of integers": (
        SoftmaxCrossEntropy(), (N, C), np.zeros((N, C), int), r"dtype .*int64 .*\(6, 4\), "
    ),
    "labels of floats": (SoftmaxCrossEntropy(), (N, C), np.zeros(N), r"float64 .*\(6,\), "),
    "labels as a column": (SoftmaxCrossEntropy(), (N, C), np.zeros((N, 1), int), LABELS),
    "labels of other members": (
        SoftmaxCrossEntropy(), (K, N, C), np.zeros((2, N), int),
        r"have shape \(2, 6\), expected integer labels \(3, 6\) or distributions \(3, 6, 4\)",
    ),
    "no class axis": (
        MeanSquaredError(), (N, C), np.zeros(N),
        r"mean_squared_error: targets have shape \(6,\), expected \(6, 4\)",
    ),
    "would broadcast": (
        HalfSquaredError(), (N, C), np.zeros((1, C)),
        r"half_squared_error: targets have shape \(1, 4\), expected \(6, 4\)",
    ),
    "would broadcast to a square": (
        MeanSquaredError(), (N, 1), np.zeros((1, N)), r"shape \(1, 6\), expected \(6, 1\)"
    ),
    "too many classes": (
        BinaryCrossEntropy(), (K, N, C), np.zeros((K, N, C + 1)),
        r"binary_cross_entropy: targets have shape \(3, 6, 5\), expected \(3, 6, 4\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "shape", "targets", "message"), MISFITS.values(), ids=MISFITS)
def test_targets_that_do_not_fit_are_refused(backend, loss, shape, targets, message):
    with pytest.raises(ValueError, match=message):
        evaluate(backend, loss, np.zeros(shape), targets)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must lie in \[0, 1\)"),
        ({"label_smoothing": (0.1, 1.5)}, ValueError, r"label_smoothing\[1\] must lie in \[0, 1\)"),
        ({"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number, got '0.1'"),
        ({"class_weights": (1.0, -1.0)}, ValueError, r"class_weights\[1\] must lie in \[0, inf\)"),
        ({"class_weights": ()}, ValueError, "class_weights is empty"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        SoftmaxCrossEntropy(**settings)
