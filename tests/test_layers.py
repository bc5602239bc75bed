"""Layers in a row against central differences; what they compute and what they refuse."""

import numpy as np
import pytest

from mlpkit import (
    MLP,
    Dense,
    Dropout,
    HalfSquaredError,
    MeanSquaredError,
    Network,
    ReLU,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
    check_gradients,
)

ACTIVATIONS = ["identity", "relu", "sigmoid", "tanh"]
N, D, H, C, K = 5, 4, 6, 3, 3


def of_kind(kind, draw):
    """Targets for N samples and C outputs."""
    if kind == "labels":
        return draw(N, below=C)
    if kind == "truth":
        return draw(N, C, below=2)
    if kind == "shares":
        exps = np.exp(draw(N, C))
        return exps / exps.sum(axis=-1, keepdims=True)
    return draw(N, C)


WEIGHTED = SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=(0.5, 2.0, 1.0))
COMBINATIONS = [
    ("softmax_cross_entropy", "labels", "linear"),
    ("softmax_cross_entropy", "shares", "linear"),
    (WEIGHTED, "labels", "linear"),
    (WEIGHTED, "shares", "linear"),
    ("binary_cross_entropy", "truth", "linear"),
    *[("mean_squared_error", "values", output) for output in ACTIVATIONS],
    *[("half_squared_error", "values", output) for output in ACTIVATIONS],
]


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("hidden", ACTIVATIONS)
@pytest.mark.parametrize(
    ("loss", "kind", "output"),
    COMBINATIONS,
    ids=lambda value: value if isinstance(value, str) else "weighted",
)
def test_gradients_of_every_activation_and_loss(backend, draw, members, hidden, loss, kind, output):
    net = MLP([D, H, C], hidden, output, members=members, backend=backend, dtype="float64", seed=3)
    errors = check_gradients(net, loss, draw(N, D), of_kind(kind, draw), samples=3)
    assert list(errors) == ["0.weight", "0.bias", "1.weight", "1.bias", "x"]


STACKS = {
    "deep": [Dense(D, H, "tanh"), Dense(H, H, "sigmoid"), Dense(H, C)],
    "no bias": [Dense(D, H, "tanh", bias=False), Dense(H, C, bias=False)],
    "one layer": [Dense(D, C)],
    "dropout": [Dense(D, H, "tanh"), Dropout(0.4), Dense(H, C)],
    "dropout first": [Dropout(0.3), Dense(D, C)],
    "dropout last": [Dense(D, C), Dropout(0.3)],
    "activation after dropout": [Dense(D, H), Dropout(0.4), Sigmoid(), Dense(H, C)],
    "activation first": [Tanh(), Dense(D, H, "relu"), Dense(H, C)],
    "activation twice": [Dense(D, H), Sigmoid(), Tanh(), Dense(H, C)],
    "activation last": [Dense(D, C), Dropout(0.2), Tanh()],
}


@pytest.mark.parametrize("batch", ["one network", "shared batch", "batch per member"])
@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_gradients_of_every_kind_of_stack_in_training(backend, draw, layers, batch):
    net = Network(
        layers, members=None if batch == "one network" else K, backend=backend, dtype="float64"
    )
    x = draw(K, N, D) if batch == "batch per member" else draw(N, D)
    check_gradients(net, HalfSquaredError(), x, draw(N, C), train=True, samples=3)


@pytest.mark.parametrize("name", [name for name in STACKS if "dropout" in name])
def test_gradients_without_training_pass_through_dropout(backend, draw, name):
    net = Network(STACKS[name], members=K, backend=backend, dtype="float64")
    check_gradients(net, HalfSquaredError(), draw(N, D), draw(N, C), samples=3)


def test_gradients_with_a_dropout_rate_per_member(backend, draw):
    layers = [Dense(D, H, "tanh"), Dropout((0.0, 0.3, 0.8)), Dense(H, C)]
    net = Network(layers, members=K, backend=backend, dtype="float64")
    check_gradients(net, MeanSquaredError(), draw(N, D), draw(K, N, C), train=True, samples=8)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Dense(4, 5), Dense(6, 3)], "expects 6 inputs, the layer before it gives 5"),
        ([Dense(4, 5), ReLU(), Dropout(0.5), Dense(4, 3)], "expects 4 inputs.* gives 5"),
        ([], "at least one layer|gives its width"),
        ([Dropout(0.5), ReLU()], "gives its width"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Network(layers)


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="made of layers, got 'relu'"):
        Network([Dense(4, 5), "relu"])


SAME = {
    "folded": Network([Dense(D, H), ReLU(), Dense(H, C)], seed=5),
    "written out": Network([Dense(D, H, "relu"), Dense(H, C)], seed=5),
    "from sizes": MLP([D, H, C], "relu", seed=5),
}


@pytest.mark.parametrize("name", ["folded", "from sizes"])
def test_an_activation_after_dense_is_the_same_as_inside_it(draw, name):
    net, wanted = SAME[name], SAME["written out"]
    assert net.layers == wanted.layers
    assert net.settings() == wanted.settings()
    np.testing.assert_array_equal(net.params, wanted.params)
    x, results = draw(N, D), []
    for network in (net, wanted):
        scores, backward = network.forward(x, train=True)
        backward(scores)
        results.append((scores, network.grads))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_only_the_first_activation_after_dense_is_folded(draw):
    net = Network([Dense(D, C), ReLU(), Tanh()], dtype="float64")
    assert net.layers == [Dense(D, C, "relu"), Tanh()]
    x, weights = draw(N, D), net.named_parameters()
    want = np.tanh(np.maximum(x @ weights["0.weight"] + weights["0.bias"], 0))
    np.testing.assert_allclose(net.forward(x)[0], want, rtol=1e-14)
