"""Metrics, and the predictions they are made of."""

import functools

import numpy as np
import pytest

import mlpkit


def linear(weights, backend, members=None, **options):
    """A network whose scores are x times the weights."""
    weights = np.asarray(weights, np.float64)
    layer = mlpkit.Dense(*weights.shape[-2:], bias=False, **options)
    network = mlpkit.Network([layer], members=members, backend=backend, dtype="float64")
    network.load_parameters({"0.weight": weights})
    return network


def accuracy(network, loss, x, targets):
    return mlpkit.Trainer(network, loss, metrics=["accuracy"]).evaluate(x, targets)["accuracy"]


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
        ([4, 3], "binary_cross_entropy", "lets a sample have several"),
        ([4, 1], "mean_squared_error", "has no threshold: use binary_cross_entropy"),
        ([4, 1], "half_squared_error", "has no threshold: use binary_cross_entropy"),
    ],
)
def test_an_accuracy_that_would_not_be_what_it_seems_is_refused(sizes, loss, message):
    with pytest.raises(ValueError, match=message):
        mlpkit.Trainer(mlpkit.MLP(sizes), loss, metrics=["accuracy"])
    mlpkit.Trainer(mlpkit.MLP(sizes), loss)


def loss(network, scores, targets):
    return network.backend.xp.max(scores)


@pytest.mark.parametrize("metric", [loss, lambda *a: a[1], functools.partial(loss)])
def test_a_metric_without_a_name_of_its_own_is_refused(metric):
    with pytest.raises(ValueError, match="goes by the name of its function"):
        mlpkit.Trainer(linear(WEIGHTS, "numpy"), metrics=[metric])
