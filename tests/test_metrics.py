"""Metrics, and the predictions they are made of."""

import functools

import array_api_strict
import numpy as np
import pytest
from test_step import READS

import mlpkit
from mlpkit.history import read
from mlpkit.metrics import METRICS, get_metric, judges_classes, top_k


def linear(weights, backend, members=None, **options):
    """A network whose scores are x times the weights."""
    weights = np.asarray(weights, np.float64)
    layer = mlpkit.Dense(*weights.shape[-2:], bias=False, **options)
    network = mlpkit.Network([layer], members=members, backend=backend, dtype="float64")
    network.load_parameters({"0.weight": weights})
    return network


def accuracy(network, loss, x, targets):
    return mlpkit.Trainer(network, loss, metrics=["accuracy"]).evaluate(x, targets)["accuracy"]


JUDGES = {name for name, metric in METRICS.items() if judges_classes(metric)}
X = np.eye(4)
WEIGHTS = [[3.0, 1, 2], [0, 5, 1], [1, 1, 9], [2, 0, 1]]  # classes 0, 1, 2, 0


@pytest.mark.parametrize(
    "targets",
    [
        [0, 1, 1, 0],
        np.array([0, 1, 1, 0], np.uint8),
        [[0.8, 0.1, 0.1], [0, 1, 0], [0.1, 0.7, 0.2], [0.5, 0.2, 0.3]],
    ],
    ids=["labels", "uint8 labels", "distributions"],
)
def test_accuracy_of_labels_and_distributions(backend, targets):
    assert accuracy(linear(WEIGHTS, backend), "softmax_cross_entropy", X, targets) == 0.75


def test_accuracy_of_each_member_with_labels_of_its_own(backend):
    network = linear([WEIGHTS, np.negative(WEIGHTS)], backend, members=2)
    shared = accuracy(network, "softmax_cross_entropy", X, [0, 1, 2, 0])
    assert shared == [1.0, 0.0]
    own = accuracy(network, "softmax_cross_entropy", X, [[0, 1, 0, 0], [1, 0, 0, 1]])
    assert own == [0.75, 1.0]


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_accuracy_of_one_output(backend, output, shape):
    """Scores of +-0.3 lie on either side of the threshold only if it is that of the output."""
    network = linear([[0.3], [-0.3], [2], [-2]], backend, activation=output)
    loss = "binary_cross_entropy" if output == "linear" else "mean_squared_error"
    assert accuracy(network, loss, X, np.reshape([1, 0, 1, 1], shape)) == 0.75
    predicted = network.backend.to_numpy(network.predict(X))
    assert predicted.tolist() == [1, 0, 1, 0]


def test_probabilities_are_the_softmax_or_the_sigmoid_of_the_scores(backend):
    many = linear(WEIGHTS, backend)
    exps = np.exp(WEIGHTS)
    expected = exps / exps.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(backend.to_numpy(many.predict_proba(X)), expected, rtol=1e-13)
    scores = np.array([[0.3], [-0.3], [2], [-2]])
    for output in ("linear", "sigmoid"):
        one = linear(scores, backend, activation=output)
        found = backend.to_numpy(one.predict_proba(X))
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores)), rtol=1e-13)
    with pytest.raises(ValueError, match="an output of tanh gives no probabilities"):
        linear(WEIGHTS, backend, activation="tanh").predict_proba(X)


def test_a_metric_of_ones_own():
    def largest_score(network, scores, targets):
        return network.backend.xp.max(scores)

    trainer = mlpkit.Trainer(linear(WEIGHTS, "numpy"), metrics=["accuracy", largest_score])
    figures = trainer.evaluate(X, [0, 1, 2, 0])
    assert list(figures) == ["loss", "accuracy", "largest_score"]
    assert figures["largest_score"] == 9


@pytest.mark.parametrize(
    ("sizes", "loss", "message"),
    [
        ([4, 1], "mean_squared_error", "has no threshold: use binary_cross_entropy"),
        ([4, 1], "half_squared_error", "has no threshold: use binary_cross_entropy"),
    ],
)
def test_an_accuracy_that_would_not_be_what_it_seems_is_refused(sizes, loss, message):
    with pytest.raises(ValueError, match=message):
        mlpkit.Trainer(mlpkit.MLP(sizes), loss, metrics=["accuracy"])
    mlpkit.Trainer(mlpkit.MLP(sizes), loss)


def test_a_loss_and_a_network_that_differ_on_the_classes_of_a_sample_are_refused():
    one, many = mlpkit.MLP([4, 3]), mlpkit.MLP([4, 3], multilabel=True)
    with pytest.raises(ValueError, match=r"lets a sample have several classes.*multilabel=True"):
        mlpkit.Trainer(one, "binary_cross_entropy")
    with pytest.raises(ValueError, match="of one class a sample, but the network is multilabel"):
        mlpkit.Trainer(many, "softmax_cross_entropy")
    mlpkit.Trainer(many, "binary_cross_entropy", metrics=["accuracy"])


def loss(network, scores, targets):
    return network.backend.xp.max(scores)


@pytest.mark.parametrize("metric", [loss, lambda *a: a[1], functools.partial(loss)])
def test_a_metric_without_a_name_of_its_own_is_refused(metric):
    with pytest.raises(ValueError, match="goes by the name of its function"):
        mlpkit.Trainer(linear(WEIGHTS, "numpy"), metrics=[metric])


def top_5(network, scores, targets):
    return network.backend.xp.min(scores)


@pytest.mark.parametrize("metric", ["top_5", top_k(5), top_5], ids=["name", "the same", "own"])
def test_two_metrics_of_one_name_are_refused(metric):
    with pytest.raises(ValueError, match=r"two metrics have one name: \['top_5'\]"):
        mlpkit.Trainer(linear(WEIGHTS, "numpy"), metrics=["top_5", "accuracy", metric])


# ---- every metric against plain NumPy ----------------------------------------------------------

PER_CLASS = ["precision", "recall", "f1"]
KINDS = {  # the network's output, its width, multilabel, targets
    "labels": ("linear", 4, False, "labels"),
    "labels of a softmax": ("softmax", 4, False, "labels"),
    "labels of sigmoids": ("sigmoid", 4, False, "labels"),
    "distributions": ("linear", 4, False, "distributions"),
    "distributions of a softmax": ("softmax", 4, False, "distributions"),
    "one": ("linear", 1, False, "bits"),
    "one sigmoid": ("sigmoid", 1, False, "bits"),
    "multilabel": ("linear", 3, True, "bits"),
    "multilabel sigmoids": ("sigmoid", 3, True, "bits"),
}
MEMBERS = pytest.mark.parametrize(
    ("members", "own"), [(None, False), (1, False), (3, False), (3, True)]
)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def per_class(pairs):
    """The means of precision, recall and F1 over pairs of boolean vectors, predicted and true."""
    figures = []
    for predicted, true in pairs:
        hits = (predicted & true).sum()
        precision = hits / predicted.sum() if predicted.any() else 0
        recall = hits / true.sum() if true.any() else 0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0
        figures.append((precision, recall, f1))
    return dict(zip(PER_CLASS, np.mean(figures, axis=0), strict=True))


def calibration(confidence, right):
    """Equation 3 of Guo and others 2017, with M = 15."""
    total = 0.0
    for m in range(15):
        inside = (m / 15 < confidence) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def expected_of_classes(p, targets):
    """The figures of classes that exclude each other, of probabilities (N, C)."""
    classes = range(p.shape[1])
    labels = targets.ndim == 1
    true = targets if labels else targets.argmax(axis=1)
    q = np.eye(p.shape[1])[targets] if labels else targets
    predicted = p.argmax(axis=1)
    first_two = np.argsort(-p, axis=1)[:, :2]
    table = [[((true == i) & (predicted == j)).sum() for j in classes] for i in classes]
    return {
        "accuracy": (predicted == true).mean(),
        "top_2": (first_two == true[:, None]).any(axis=1).mean(),
        "confusion_matrix": table,
        "log_loss": -(q * np.log(p)).sum(axis=1).mean(),
        "calibration_error": calibration(p.max(axis=1), predicted == true),
        **per_class([(predicted == c, true == c) for c in classes]),
    }


def expected_of_bits(p, targets):
    """The figures of outputs that are a yes or no each, of probabilities (N, C) of yes."""
    true, predicted = targets == 1, p > 0.5
    confidence, right = np.where(predicted, p, 1 - p), predicted == true
    figures = {
        "accuracy": right.all(axis=1).mean(),
        "log_loss": -np.log(np.where(true, p, 1 - p)).mean(),
        "calibration_error": np.mean([*map(calibration, confidence.T, right.T)]),
        **per_class(zip(predicted.T, true.T, strict=True)),
    }
    if p.shape[1] == 1:
        table = [[((true == i) & (predicted == j)).sum() for j in (0, 1)] for i in (0, 1)]
        figures["confusion_matrix"] = table
    return figures


def targets_of(draw, kind, *shape):
    """Targets for scores of the shape; the last of several classes is absent."""
    if kind == "labels":
        return draw(*shape[:-1], below=shape[-1] - 1)
    if kind == "bits":
        return draw(*shape, below=2).astype(float)
    weights = draw(*shape, below=9) + 0.5
    weights[..., -1] = 0
    return weights / weights.sum(axis=-1, keepdims=True)


def check(backend, metric, network, scores, targets, expected, rtol):
    """Compare a metric with what is expected of each member, or of the one network."""
    found = get_metric(metric)[1](network, scores, targets)
    assert found.dtype == backend.xp.float64
    expected = np.array(expected if network.members else expected[0])
    assert found.shape == expected.shape
    found = backend.to_numpy(found)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol, err_msg=str(metric))


@MEMBERS
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_classes_are_those_of_plain_numpy(backend, dtype, draw, kind, members, own):
    output, width, multilabel, targets_kind = KINDS[kind]
    options = {"members": members, "backend": backend, "dtype": dtype}
    network = mlpkit.MLP([2, width], output=output, multilabel=multilabel, **options)
    stack = (members,) if members else ()
    z = 2 * draw(*stack, 40, width).astype(dtype)
    targets = targets_of(draw, targets_kind, *(stack if own else ()), 40, width)

    bits = multilabel or width == 1
    link = sigmoid if bits or output == "sigmoid" else softmax
    p = [link(each) for each in z.reshape(-1, 40, width).astype(np.float64)]
    expected_of = expected_of_bits if bits else expected_of_classes
    expected = [expected_of(each, targets[k] if own else targets) for k, each in enumerate(p)]

    scores = backend.asarray(z if output == "linear" else np.reshape(p, z.shape), network.dtype)
    placed = backend.asarray(targets, None if targets_kind == "labels" else network.dtype)
    rtol = 1e-12 if dtype == "float64" else 2e-6
    for name in expected[0]:
        check(backend, name, network, scores, placed, [of[name] for of in expected], rtol)


@MEMBERS
def test_metrics_of_numbers_are_those_of_plain_numpy(backend, dtype, draw, members, own):
    network = mlpkit.MLP([2, 3], members=members, backend=backend, dtype=dtype)
    stack = (members,) if members else ()
    scores = draw(*stack, 20, 3).astype(dtype)
    targets = (draw(*(stack if own else ()), 20, 3) * 2 + 1).astype(dtype)
    expected = {"r2": [], "rmse": [], "mae": []}
    for k, s in enumerate(scores.reshape(-1, 20, 3).astype(float)):
        t = (targets[k] if own else targets).astype(float)
        expected["r2"].append(np.mean(1 - ((s - t) ** 2).mean(axis=0) / t.var(axis=0)))
        expected["rmse"].append(np.linalg.norm(s - t) / 60**0.5)
        expected["mae"].append(np.abs(s - t).sum() / 60)
    scores, targets = backend.asarray(scores), backend.asarray(targets)
    for name, values in expected.items():
        check(backend, name, network, scores, targets, values, 1e-12)


# ---- edges -------------------------------------------------------------------------------------


def judge(metric, backend, scores, targets, dtype="float64", **options):
    """A metric of the given scores (N, C), as an array of the host."""
    network = mlpkit.MLP([1, np.shape(scores)[-1]], backend=backend, dtype=dtype, **options)
    scores = backend.asarray(np.array(scores, dtype))
    found = get_metric(metric)[1](network, scores, backend.asarray(np.array(targets)))
    return backend.to_numpy(found)


def test_when_all_is_wrong(backend):
    scores, labels = np.eye(3), [1, 2, 0]
    for name in ("accuracy", "top_1", *PER_CLASS):
        assert judge(name, backend, scores, labels) == 0
    assert judge("top_3", backend, scores, labels) == 1
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(judge("confusion_matrix", backend, scores, labels), expected)


def test_of_equal_scores_the_lower_class_comes_first(backend, draw):
    flat = np.zeros((4, 4))
    for k in (1, 2, 3, 4):
        hits = [judge(top_k(k), backend, flat[:1], [label]) for label in range(4)]
        assert hits == [label < k for label in range(4)]
    scores, labels = draw(50, 4, below=3), draw(50, below=4)
    assert judge("top_1", backend, scores, labels) == judge("accuracy", backend, scores, labels)


def test_scores_that_are_not_a_number_hit_nothing(backend):
    scores = [[np.nan] * 3, [0, 1, np.nan]]
    assert judge("top_2", backend, scores, [0, 0]) == 0
    assert np.isnan(judge("log_loss", backend, scores, [0, 0]))
    assert np.isnan(judge("calibration_error", backend, scores, [0, 0]))


def test_log_loss_of_large_scores_is_exact(backend, dtype):
    many = [[1e4, 0, -1e4], [1e4, 1e4, 0]]
    expected = (2e4 + np.log(2)) / 2
    found = judge("log_loss", backend, many, [2, 1], dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    for multilabel in (False, True):
        one = judge(
            "log_loss",
            backend,
            [[1e4], [-1e4], [1e4]],
            [[1.0], [0], [0]],
            dtype,
            multilabel=multilabel,
        )
        np.testing.assert_allclose(one, 1e4 / 3, rtol=1e-15)


def test_log_loss_of_a_probability_of_zero_is_that_of_epsilon(backend, dtype):
    least = -np.log(float(np.finfo(dtype).eps))
    softmax = judge("log_loss", backend, [[1, 0], [1, 0]], [0, 1], dtype, output="softmax")
    np.testing.assert_allclose(softmax, least / 2, rtol=1e-15)
    one = judge("log_loss", backend, [[1], [0], [1]], [[1.0], [1], [0]], dtype, output="sigmoid")
    np.testing.assert_allclose(one, least * 2 / 3, rtol=1e-15)


def test_calibration_error_by_hand(backend):
    """Of ten predictions of 0.8 seven are right; those of 1 and of 0 are sure, and right."""
    scores = [[0.8]] * 10 + [[1], [0]]
    targets = [[1.0]] * 7 + [[0]] * 3 + [[1], [0]]
    found = judge("calibration_error", backend, scores, targets, output="sigmoid")
    np.testing.assert_allclose(found, 10 / 12 * 0.1, rtol=1e-12)
    last = judge("calibration_error", backend, [[1], [0.95]], [[0.0], [1]], output="sigmoid")
    np.testing.assert_allclose(last, (1 - 0.05) / 2, rtol=1e-12)  # a bin has its upper end
    nothing = judge("calibration_error", backend, np.zeros((2, 3)), [0, 1], output="sigmoid")
    assert nothing == 0.5  # a confidence of 0 belongs to the first bin


@pytest.mark.parametrize("constant", [0.1, 3.0])
def test_r2_of_constant_targets_is_1_where_they_are_met_and_else_0(backend, constant):
    targets = np.full((7, 2), constant)
    half = targets * [1, 2]
    assert judge("r2", backend, targets, targets) == 1
    assert judge("r2", backend, half, targets) == 0.5
    targets[:, 0] = range(7)
    assert judge("r2", backend, np.full((7, 2), 3.0), targets) == (1 if constant == 3 else 0) / 2


def test_a_single_row(backend):
    figures = {name: judge(name, backend, [[0.0, 2, 1]], [1]) for name in JUDGES if name != "top_5"}
    p = np.exp(2) / (1 + np.exp(2) + np.exp(1))
    thirds = dict.fromkeys(PER_CLASS, 1 / 3)  # the mean of 1, 0 and 0
    table = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    expected = {"accuracy": 1, "confusion_matrix": table, "log_loss": -np.log(p), **thirds}
    expected["calibration_error"] = 1 - p
    assert figures.keys() == expected.keys()
    for name, figure in figures.items():
        np.testing.assert_allclose(figure, expected[name], rtol=1e-12)
    assert judge("r2", backend, [[1.0, 2]], [[1.0, 3]]) == 0.5


# ---- bad input and names -----------------------------------------------------------------------

SCORES, LABELS, BITS = np.zeros((2, 3)), [0, 1], np.zeros((2, 3))


@pytest.mark.parametrize(
    ("metric", "scores", "targets", "options", "message"),
    [
        ("top_5", SCORES, LABELS, {}, "top_5 needs at least 5 classes .* got outputs=3"),
        ("top_1", [[0.0]], [[1.0]], {}, "top_1 needs at least 2 classes .* got outputs=1"),
        ("top_2", SCORES, BITS, {"multilabel": True}, "exclude each other, .* multilabel=True"),
        ("confusion_matrix", SCORES, BITS, {"multilabel": True}, "has no confusion matrix"),
        ("f1", SCORES, LABELS, {"multilabel": True}, "0 or 1 for each output, got labels"),
        ("log_loss", SCORES, LABELS, {"output": "tanh"}, "tanh gives no probabilities"),
        ("calibration_error", SCORES, LABELS, {"output": "tanh"}, "tanh gives no probabilities"),
        ("r2", SCORES, LABELS, {}, "numbers like the scores, got class labels"),
        ("rmse", SCORES, LABELS, {}, "numbers like the scores, got class labels"),
        ("mae", SCORES, LABELS, {}, "numbers like the scores, got class labels"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(backend, metric, scores, targets, options, message):
    with pytest.raises(ValueError, match=message):
        judge(metric, backend, scores, targets, **options)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "top_k: k must be at least 1"),
        (2.0, TypeError, "top_k: k must be an integer"),
        (True, TypeError, "top_k: k must be an integer"),
    ],
)
def test_a_k_that_is_none_is_refused(k, error, message):
    with pytest.raises(error, match=message):
        top_k(k)


@pytest.mark.parametrize("name", ["top_0", "top_", "top_k", "top_-1", "top_03", "top_2 ", None, 3])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown metric {name!r}"):
        get_metric(name)


def test_metrics_by_name():
    for name, metric in METRICS.items():
        assert get_metric(metric) == (name, metric)
        assert get_metric(name)[0] == name
        assert type(get_metric(name)[1]) is type(metric)
    for k in (1, 5, 12):
        name, metric = get_metric(f"top_{k}")
        assert (name, metric.k, get_metric(metric)[0]) == (f"top_{k}", k, f"top_{k}")
    with pytest.raises(ValueError, match="did you mean 'top_5'"):
        get_metric("top5")


def test_which_metrics_need_classes():
    assert METRICS.keys() - JUDGES == {"r2", "rmse", "mae"}
    assert judges_classes(top_k(7))
    assert not judges_classes(loss)


# ---- from the device to the host ---------------------------------------------------------------


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("name", [name for name in METRICS if name != "top_5"])
def test_a_metric_reads_nothing_on_the_host(monkeypatch, draw, name, members):
    stack = (members,) if members else ()
    cases = []
    for output in ("linear", "sigmoid"):
        network = mlpkit.MLP([2, 3], output=output, members=members, backend=array_api_strict)
        scores = network.backend.asarray(sigmoid(draw(*stack, 5, 3)), network.dtype)
        targets = targets_of(draw, "labels" if name in JUDGES else "bits", 5, 3)
        cases.append((network, scores, network.backend.asarray(targets)))

    def forbidden(*args, **kwargs):
        raise AssertionError("a metric read an array on the host")

    with monkeypatch.context() as patch:
        for read_by in READS:
            patch.setattr(type(cases[0][1]), read_by, forbidden, raising=False)
        with pytest.raises(AssertionError, match="read an array"):
            float(cases[0][1][..., 0, 0])
        figures = [METRICS[name](*case) for case in cases]
    for figure in figures:
        assert figure.shape[: len(stack)] == stack
        assert np.isfinite(np.asarray(figure._array)).all()


def test_figures_are_read_in_one_transfer(monkeypatch, backend):
    xp = backend.xp
    figures = {
        "loss": xp.asarray(0.5, dtype=xp.float32),
        "each": xp.asarray([1, 2, 3], dtype=xp.int64),
        "table": xp.asarray([[[1.0, 2.0], [3.0, 0.1]]], dtype=xp.float64),
        "host": 7,
    }
    transfers = []
    to_numpy = backend.to_numpy
    monkeypatch.setattr(backend, "to_numpy", lambda a: transfers.append(a) or to_numpy(a))
    found = read(backend, figures)
    assert found == {"loss": 0.5, "each": [1, 2, 3], "table": [[[1, 2], [3, 0.1]]], "host": 7}
    assert [type(value) for value in (found["loss"], *found["each"])] == [float] * 4
    assert len(transfers) == 1


def test_a_trainer_evaluates_a_table_for_each_member():
    network = linear([WEIGHTS, np.negative(WEIGHTS)], "numpy", members=2)
    trainer = mlpkit.Trainer(network, metrics=["confusion_matrix", "top_2"])
    figures = trainer.evaluate(X, [0, 1, 2, 0])
    assert figures["confusion_matrix"][0] == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert np.shape(figures["confusion_matrix"]) == (2, 3, 3)
    assert figures["top_2"][0] == 1
