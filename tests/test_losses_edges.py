"""Losses: targets written in two ways, settings per member, PyTorch, limits, what is refused."""

import numpy as np
import pytest

from mlpkit import (
    MLP,
    SGD,
    BinaryCrossEntropy,
    BinaryFocal,
    Focal,
    HalfSquaredError,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    SoftTargets,
    Trainer,
    get_backend,
)

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
    # On a GPU labels have a kernel of their own, whose sums are in another order.
    error = 4 * np.finfo(dtype).eps if backend.name == "cupy" else 0
    np.testing.assert_allclose(got[0], want[0], rtol=error)
    np.testing.assert_allclose(got[1], want[1], rtol=error, atol=error)


def test_class_weights_divide_by_the_labels_weights_but_not_for_distributions(backend, draw):
    """As torch.nn.functional.cross_entropy: only labels have one class whose weight counts."""
    scores, labels, weights = draw(N, C), draw(N, below=C), (0.5, 2.0, 1.0, 3.0)
    loss = SoftmaxCrossEntropy(class_weights=weights)
    of_labels, _ = evaluate(backend, loss, scores, labels)
    of_shares, _ = evaluate(backend, loss, scores, np.eye(C)[labels])
    total = np.array(weights)[labels].sum()
    np.testing.assert_allclose(of_labels * total, of_shares * N, rtol=1e-14)


PER_MEMBER = {
    "label_smoothing": (SoftmaxCrossEntropy, {"label_smoothing": (0.0, 0.1, 0.5)}, "labels"),
    "gamma": (Focal, {"gamma": (0.0, 0.5, 5.0)}, "labels"),
    "gamma, alpha": (BinaryFocal, {"gamma": (0.0, 0.5, 5.0), "alpha": (0.9, 0.5, 0.0)}, "truth"),
    "alpha": (BinaryFocal, {"alpha": (0.9, 0.5, 0.1)}, "truth"),
    "temperature": (SoftTargets, {"temperature": (0.7, 1.0, 3.0)}, "values"),
    "delta": (Huber, {"delta": (0.1, 1.0, 10.0)}, "values"),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("kind", "settings", "target"), PER_MEMBER.values(), ids=PER_MEMBER)
def test_settings_per_member_are_each_members_own(
    backend, dtype, draw, kind, settings, target, shared
):
    stack = () if shared else (K,)
    scores = draw(K, N, C)
    targets = {
        "labels": draw(*stack, N, below=C),
        "truth": draw(*stack, N, C, below=2),
        "values": draw(*stack, N, C),
    }[target]
    values, gradients = evaluate(backend, kind(**settings), scores, targets, dtype)
    for k in range(K):
        loss = kind(**{name: value[k] for name, value in settings.items()})
        own = targets if shared else targets[k]
        value, gradient = evaluate(backend, loss, scores[k], own, dtype)
        rtol = 3e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(values[k], value, rtol=rtol)
        np.testing.assert_allclose(gradients[k], gradient, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("kind", "settings", "target"), PER_MEMBER.values(), ids=PER_MEMBER)
def test_settings_for_other_members_are_refused(kind, settings, target):
    network = MLP([2, C], members=2, multilabel=target == "truth")
    with pytest.raises(ValueError, match=r"has 3 values, but the network has 2 members"):
        Trainer(network, kind(**settings))


def test_gradient_with_labels_is_softmax_minus_one_hot(backend, draw):
    scores, labels = draw(N, C), draw(N, below=C)
    _, dscores = evaluate(backend, SoftmaxCrossEntropy(), scores, labels)
    p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(dscores, (p - np.eye(C)[labels]) / N, atol=1e-16)


ONE_OUTPUT = [
    BinaryCrossEntropy(),
    BinaryCrossEntropy([3.0]),
    BinaryFocal(),
    MeanSquaredError(),
    HalfSquaredError(),
    MeanAbsoluteError(),
    Huber(),
]


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=str)
@pytest.mark.parametrize("stack", [(), (K,)])
def test_one_output_takes_targets_without_their_last_axis(backend, draw, loss, stack):
    scores, targets = draw(*stack, N, 1), draw(*stack, N, below=2)
    want = evaluate(backend, loss, scores, targets[..., None])
    for same in (targets, targets.astype(bool), targets.astype(np.uint8)):
        got = evaluate(backend, loss, scores, same)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])


# ---- what is what else ---------------------------------------------------------------------------


def test_soft_targets_of_its_own_scores_are_nothing_to_learn(backend, dtype, draw):
    for temperature in (0.5, 1.0, 20.0):
        scores = 100 * draw(K, N, C)
        value, gradient = evaluate(backend, SoftTargets(temperature), scores, scores, dtype)
        np.testing.assert_array_equal(value, np.zeros(K))
        np.testing.assert_array_equal(gradient, np.zeros((K, N, C)))


def test_soft_targets_at_high_temperature_compare_the_scores_themselves(backend, draw):
    """The limit T^2 (p - q) / T -> (z - v) / C for centred z and v (Hinton and others 2015)."""
    scores, targets = (x - x.mean(axis=-1, keepdims=True) for x in (draw(N, C), draw(N, C)))
    value, gradient = evaluate(backend, SoftTargets(1e4), scores, targets)
    want, want_gradient = evaluate(backend, HalfSquaredError(), scores, targets)
    np.testing.assert_allclose(value, want / C, rtol=1e-3)
    np.testing.assert_allclose(gradient, want_gradient / C, rtol=1e-2, atol=1e-4)


def test_soft_targets_do_not_see_what_is_added_to_all_scores_of_a_sample(backend, draw):
    scores, targets, shift = draw(N, C), draw(N, C), draw(N, 1)
    got = evaluate(backend, SoftTargets(), scores + 5 * shift, targets - 3 * shift)
    want = evaluate(backend, SoftTargets(), scores, targets)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], want[1], atol=1e-14)


def test_logit_regression_finds_the_teacher(backend, draw):
    """A linear pupil of a linear teacher has the teacher's weights at the minimum."""
    teacher, x = MLP([3, C], backend=backend, dtype="float64", seed=1), draw(40, 3)
    pupil = MLP([3, C], backend=backend, dtype="float64", seed=2)
    trainer, targets = Trainer(pupil, "half_squared_error"), teacher.predict_scores(x)
    full = np.hstack([x, np.ones((40, 1))])  # Newton's method, which needs one step here
    trainer.gradients(x, targets)
    moment = full.T @ full / len(x)
    step = np.linalg.solve(moment, backend.to_numpy(pupil.grads).reshape(4, C))
    pupil.params[...] = pupil.params - backend.asarray(step.reshape(-1))
    got, want = backend.to_numpy(pupil.params), backend.to_numpy(teacher.params)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert trainer.evaluate(x, targets)["loss"] < 1e-24


def test_huber_is_half_the_square_for_a_wide_delta_and_the_size_for_a_narrow_one(backend, draw):
    scores, targets = draw(K, N, C), draw(K, N, C)
    for loss, same, factor in (
        (Huber(1e3), MeanSquaredError(), 1 / 2),
        (Huber(1e-6), MeanAbsoluteError(), 1e-6),
    ):
        got = evaluate(backend, loss, scores, targets)
        want = evaluate(backend, same, scores, targets)
        np.testing.assert_allclose(got[0], factor * want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1], factor * want[1], rtol=1e-5)


@pytest.mark.parametrize("loss", [MeanAbsoluteError(), Huber()], ids=str)
def test_no_error_has_no_gradient(backend, dtype, draw, loss):
    value, gradient = evaluate(backend, loss, draw(N, C), draw(N, C) * 0 + 1, dtype)
    assert value > 0
    same = np.full((N, C), 0.25)
    value, gradient = evaluate(backend, loss, same, same, dtype)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((N, C)))


def test_two_classes_are_one_output_with_the_difference_of_their_scores(backend, draw):
    """softmax(0, s) = (1 - p, p) with p = sigmoid(s), also in the focal losses."""
    s, labels = 3 * draw(N, 1), draw(N, below=2)
    two = np.hstack([np.zeros((N, 1)), s])
    for many, one, factor in (
        (SoftmaxCrossEntropy(class_weights=(1, 1)), BinaryCrossEntropy(), 1),
        (Focal(1.5, alpha=(0.3, 0.7)), BinaryFocal(1.5, 0.7), 1),
        (Focal(2), BinaryFocal(2, 0.5), 2),
    ):
        want = evaluate(backend, many, two, labels)
        got = evaluate(backend, one, s, labels)
        np.testing.assert_allclose(factor * got[0], want[0], rtol=1e-13)
        np.testing.assert_allclose(factor * got[1][:, 0], want[1][:, 1], rtol=1e-12)


@pytest.mark.parametrize(("loss", "labels"), [(Focal(2.5), True), (BinaryFocal(2.5), False)])
def test_focal_of_a_sample_that_is_known_keeps_its_digits(backend, loss, labels):
    """For a score s >> 0, 1 - p is e^-s, and the loss (1 - p)^gamma (1 - p)."""
    s = np.array([[15.0], [18.0], [22.0]])
    scores = np.hstack([s, 0 * s]) if labels else s
    targets = np.zeros(3, int) if labels else np.ones((3, 1))
    value, gradient = evaluate(backend, loss, scores, targets)
    alpha = 1 if labels else loss.alpha
    np.testing.assert_allclose(value, alpha * np.mean(np.exp(-3.5 * s)), rtol=2e-5)
    want = -3.5 * alpha * np.exp(-3.5 * s[:, 0]) / 3
    np.testing.assert_allclose(gradient[:, 0], want, rtol=2e-5)


@pytest.mark.torch
def test_value_and_gradient_are_those_of_pytorch(draw):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    positive, backend = (0.5, 2.0, 1.0, 3.0), get_backend("numpy")

    def focal(s, t, gamma=1.5, alpha=0.3):
        """torchvision.ops.sigmoid_focal_loss, written out."""
        p, ce = torch.sigmoid(s), F.binary_cross_entropy_with_logits(s, t, reduction="none")
        p_t = p * t + (1 - p) * (1 - t)
        return ((alpha * t + (1 - alpha) * (1 - t)) * ce * (1 - p_t) ** gamma).mean()

    def distilled(s, t, T=3.0):
        log_p, q = F.log_softmax(s / T, dim=-1), F.softmax(t / T, dim=-1)
        return T * T * F.kl_div(log_p, q, reduction="batchmean")

    values, truth, shares = draw(N, C), draw(N, C, below=2), 1 / (1 + np.exp(-draw(N, C)))
    for loss, targets, same in (
        (MeanAbsoluteError(), values, F.l1_loss),
        (Huber(0.7), values, lambda s, t: F.huber_loss(s, t, delta=0.7)),
        (
            BinaryCrossEntropy(positive),
            shares,
            lambda s, t: F.binary_cross_entropy_with_logits(
                s, t, pos_weight=torch.tensor(positive, dtype=torch.float64)
            ),
        ),
        (BinaryFocal(1.5, 0.3), truth.astype(float), focal),
        (SoftTargets(3), values, distilled),
    ):
        for scale in (1, 30):
            scores = scale * draw(N, C)
            s = torch.tensor(scores, requires_grad=True)
            want = same(s, torch.tensor(targets))
            want.backward()
            value, gradient = evaluate(backend, loss, scores, targets)
            np.testing.assert_allclose(value, want.item(), rtol=1e-12, err_msg=str(loss))
            np.testing.assert_allclose(gradient, s.grad.numpy(), atol=1e-12, err_msg=str(loss))


# ---- parts of a whole ----------------------------------------------------------------------------

WITH_CLASS_WEIGHTS = pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(0.1, class_weights=(0.5, 2.0, 1.0, 30.0)),
        SoftmaxCrossEntropy(class_weights=(0.5, 2.0, 0.0, 30.0)),
    ],
    ids=["smoothed", "one class left out"],
)
EVERY_SHAPE = pytest.mark.parametrize(
    ("members", "weighted"), [(None, False), (None, True), (K, False), (K, True)]
)


def linear(backend, loss, members, **settings):
    network = MLP([3, C], members=members, backend=backend, dtype="float64")
    return Trainer(network, loss, **settings)


def unequal_parts(draw, members, weighted):
    """Inputs, labels in order, so that parts differ in their classes, and perhaps weights."""
    stack = () if members is None else (members,)
    weights = np.abs(draw(*stack, 12)) if weighted else None
    return draw(12, 3), np.sort(draw(12, below=C)), weights


@EVERY_SHAPE
@WITH_CLASS_WEIGHTS
def test_class_weights_count_in_the_parts_of_a_batch(backend, draw, loss, members, weighted):
    batch = unequal_parts(draw, members, weighted)
    found = []
    for accumulate in (1, 5, 12):
        trainer = linear(backend, loss, members, accumulate=accumulate)
        value = backend.to_numpy(trainer.gradients(*batch))
        found.append((value, backend.to_numpy(trainer.network.grads)))
    for value, grads in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-13)
        np.testing.assert_allclose(grads, found[0][1], rtol=1e-12, atol=1e-15)


@EVERY_SHAPE
@WITH_CLASS_WEIGHTS
def test_class_weights_count_in_the_batches_of_an_epoch(backend, draw, loss, members, weighted):
    """At a rate of 0 nothing changes, and the epoch's loss is that of the evaluation."""
    x, labels, weights = unequal_parts(draw, members, weighted)
    trainer = linear(backend, loss, members, optimizer=SGD(0.0))
    (row,) = trainer.fit(x, labels, 1, 5, weights=weights)
    want = trainer.evaluate(x, labels, weights)["loss"]
    np.testing.assert_allclose(row["loss"], want, rtol=1e-13)


# ---- scores far out ------------------------------------------------------------------------------

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
    "mae": (MeanAbsoluteError(), [[BIG, -BIG]], [[0, 0]], BIG, [[0.5, -0.5]]),
    "huber": (Huber(2), [[BIG, -BIG]], [[0, 0]], 2 * BIG - 2, [[1, -1]]),
    "bce, weighted": (
        BinaryCrossEntropy((1, 3)), [[BIG, -BIG]], [[0, 1]], 2 * BIG, [[0.5, -1.5]]
    ),
    "focal, right": (Focal(), [[BIG, -BIG]], [0], 0.0, [[0, 0]]),
    "focal, right, root": (Focal(0.5), [[BIG, -BIG]], [0], 0.0, [[0, 0]]),
    "focal, wrong": (Focal(), [[BIG, -BIG]], [1], 2 * BIG, [[1, -1]]),
    "bifocal, right": (BinaryFocal(2, 0.5), [[BIG, -BIG]], [[1, 0]], 0.0, [[0, 0]]),
    "bifocal, wrong": (BinaryFocal(2, 0.5), [[BIG, -BIG]], [[0, 1]], BIG / 2, [[0.25, -0.25]]),
    "soft, right": (SoftTargets(1), [[BIG, -BIG]], [[BIG, -BIG]], 0.0, [[0, 0]]),
    "soft, wrong": (SoftTargets(2), [[BIG, -BIG]], [[-BIG, BIG]], 4 * BIG, [[2, -2]]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "scores", "targets", "value", "gradient"), FAR_OUT.values(), ids=FAR_OUT
)
def test_scores_far_out_give_the_exact_loss(backend, dtype, loss, scores, targets, value, gradient):
    got = evaluate(backend, loss, np.array(scores), targets, dtype)
    np.testing.assert_allclose(got[0], value, rtol=1e-7)
    np.testing.assert_allclose(got[1], gradient, rtol=1e-7)


# ---- what is refused -----------------------------------------------------------------------------

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
    "labels for soft targets": (
        SoftTargets(), (N, C), np.zeros(N, int),
        r"soft_targets: targets have shape \(6,\), expected \(6, 4\)",
    ),
    "labels for each output": (
        BinaryFocal(), (N, C), np.zeros(N, int),
        r"binary_focal: targets have shape \(6,\), expected \(6, 4\)",
    ),
    "focal labels": (Focal(), (N, C), np.zeros((N, 1), int), r"focal: .*" + LABELS),
    "class weights": (
        SoftmaxCrossEntropy(class_weights=(1, 2)), (N, C), np.zeros(N, int),
        "got 2 class_weights, 4 classes",
    ),
    "focal alpha": (
        Focal(alpha=(1, 2)), (N, C), np.zeros(N, int), "got 2 alpha, 4 classes"
    ),
    "positive weights": (
        BinaryCrossEntropy((1, 2)), (N, C), np.zeros((N, C)), "got 2 positive_weights, 4 classes"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "shape", "targets", "message"), MISFITS.values(), ids=MISFITS)
def test_targets_that_do_not_fit_are_refused(backend, loss, shape, targets, message):
    with pytest.raises(ValueError, match=message):
        evaluate(backend, loss, np.zeros(shape), targets)


BAD_VALUES = {
    "above 1": (BinaryFocal(), np.full((N, C), 1.5), r"binary_focal: .* \[1\.5, 1\.5\], expected"),
    "below 0": (
        BinaryCrossEntropy(),
        np.full((N, C), -1.0),
        r"lie in \[-1, -1\], expected \[0, 1\]",
    ),
    "nan": (SoftTargets(), np.full((N, C), np.nan), "targets hold NaN or infinite values"),
    "infinite": (Huber(), np.full((N, C), np.inf), "targets hold NaN or infinite values"),
    "label": (Focal(), np.full(N, C), r"labels lie in \[4, 4\], but 4 outputs take .* \[0, 3\]"),
    "negative label": (SoftmaxCrossEntropy(), np.arange(N) // 2 - 1, r"labels lie in \[-1, 1\]"),
    "probabilities": (SoftTargets(), np.eye(C)[[0, 1, 2, 3, 0, 1]], "are probabilities, expected"),
    "shares": (Focal(), np.full((N, C), 0.5), r"focal: target distributions must .* sum to 1"),
}


@pytest.mark.parametrize(("loss", "targets", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_target_values_without_meaning_are_refused(backend, loss, targets, message):
    targets = loss.fit_targets(backend, targets, (N, C), backend.xp.float64)
    with pytest.raises(ValueError, match=message):
        loss.check_values(backend.xp, targets, C)


def test_scores_that_are_positive_or_sum_to_1_are_no_probabilities(backend, draw):
    drawn = draw(N, C)
    for targets in (np.abs(drawn), drawn - drawn.mean(axis=-1, keepdims=True) + 1 / C):
        own = SoftTargets().fit_targets(backend, targets, (N, C), backend.xp.float64)
        SoftTargets().check_values(backend.xp, own, C)


@pytest.mark.parametrize("shape", [(N + 1,), (N, 1), (1,), (2, N), (N, K)], ids=str)
def test_sample_weights_that_do_not_fit_are_refused(backend, draw, shape):
    scores, weights = backend.asarray(draw(K, N, C)), np.ones(shape)
    for loss, targets in ((SoftmaxCrossEntropy(), draw(N, below=C)), (Huber(), draw(N, C))):
        with pytest.raises(ValueError, match=r"sample weights have shape .*, expected \(3, 6\)"):
            loss(backend, scores, targets, weights)


BAD_SETTINGS = [
    (SoftmaxCrossEntropy, {"label_smoothing": -0.1}, ValueError, r"label_smoothing must lie in"),
    (SoftmaxCrossEntropy, {"label_smoothing": (0.1, 1.5)}, ValueError, r"smoothing\[1\] must lie"),
    (SoftmaxCrossEntropy, {"label_smoothing": "0.1"}, TypeError, "must be a number, got '0.1'"),
    (
        SoftmaxCrossEntropy,
        {"class_weights": (1, -1)},
        ValueError,
        r"class_weights\[1\] must lie in",
    ),
    (SoftmaxCrossEntropy, {"class_weights": ()}, ValueError, "class_weights is empty"),
    (Focal, {"alpha": 2.0}, TypeError, r"alpha are a list, one per class, got 2\.0"),
    (Focal, {"alpha": (1, np.nan)}, ValueError, r"alpha\[1\] must lie in \[0, inf\)"),
    (Focal, {"gamma": -1}, ValueError, r"Focal: gamma must lie in \[0, inf\), got -1"),
    (BinaryFocal, {"gamma": (1, -1)}, ValueError, r"BinaryFocal: gamma\[1\] must lie in"),
    (BinaryFocal, {"alpha": 1.0}, ValueError, r"BinaryFocal: alpha must lie in \[0, 1\), got 1"),
    (BinaryCrossEntropy, {"positive_weights": 3.0}, TypeError, "positive_weights are a list"),
    (SoftTargets, {"temperature": 0}, ValueError, r"temperature must lie in .*, got 0"),
    (SoftTargets, {"temperature": None}, TypeError, r"temperature must be a number, got None"),
    (Huber, {"delta": -0.5}, ValueError, r"Huber: delta must lie in .*, got -0\.5"),
]


@pytest.mark.parametrize(("kind", "settings", "error", "message"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(kind, settings, error, message):
    with pytest.raises(error, match=message):
        kind(**settings)
