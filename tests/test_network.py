"""What a network does with its layers, its parameters and its random masks."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import mlpkit


def test_each_training_pass_drops_other_elements(backend):
    network = mlpkit.MLP([6, 50, 3], dropout=0.5, backend=backend)
    x = np.ones((4, 6))
    first, second, *_ = (backend.to_numpy(network.forward(x, train=True)[0]) for _ in range(2))
    assert (first != second).any()
    still = [backend.to_numpy(network.forward(x)[0]) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert int(backend.to_numpy(network.passes)) == 2


def test_backward_uses_the_mask_of_its_own_pass(backend, draw):
    network = mlpkit.Network([mlpkit.Dropout(0.5), mlpkit.Dense(40, 1)], backend=backend)
    x = draw(1, 40)
    scores, backward = network.forward(x, train=True)
    network.forward(x, train=True)  # another pass, with another mask
    dx = backend.to_numpy(backward(backend.xp.ones_like(scores), need_dx=True))
    weight = backend.to_numpy(network.named_parameters()["0.weight"])[:, 0]
    bias = backend.to_numpy(network.named_parameters()["0.bias"])[0]
    kept = dx[0] != 0
    assert 0 < kept.sum() < 40
    expected = 2 * (x[0] * weight)[kept].sum() + bias
    np.testing.assert_allclose(backend.to_numpy(scores)[0, 0], expected, rtol=1e-5)


def test_parameters_may_be_loaded_from_views_of_themselves(backend):
    network = mlpkit.MLP([3, 3, 3], backend=backend)
    views = network.named_parameters()
    before = {name: backend.to_numpy(view) for name, view in views.items()}
    swapped = {f"{1 - int(name[0])}{name[1:]}": view for name, view in views.items()}
    network.load_parameters(swapped)
    for name, view in network.named_parameters().items():
        expected = before[f"{1 - int(name[0])}{name[1:]}"]
        np.testing.assert_array_equal(backend.to_numpy(view), expected)


class Slope(mlpkit.Activation):
    def __init__(self, slope):
        object.__setattr__(self, "slope", slope)

    def value(self, xp, z):
        return self.slope * z

    def gradient(self, xp, dy, z, y):
        return self.slope * dy


@dataclass(frozen=True)
class Scalar(mlpkit.Layer):
    def shapes(self):
        return {"s": ()}

    def forward(self, context, x, train):
        return x, lambda dy, need_dx: dy


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([Slope(2.0)], TypeError, "Slope must be a frozen dataclass of its settings"),
        ([Scalar()], ValueError, r"Scalar\(\): s has shape \(\), expected \(H,\) or \(D, H\)"),
        ([mlpkit.ReLU()], ValueError, "a layer that gives its width, such as Dense"),
        (["relu"], TypeError, "a network is made of layers, got 'relu'"),
        ([mlpkit.Dense(2, 3), mlpkit.Dense(4, 1)], ValueError, "expects 4 inputs, .* gives 3"),
    ],
)
def test_layers_that_make_no_network(layers, error, message):
    with pytest.raises(error, match=message):
        mlpkit.Network([mlpkit.Dense(2, 2), *layers] if layers[0] != mlpkit.ReLU() else layers)


def test_an_unfinished_layer_cannot_be_made():
    class Unfinished(mlpkit.Layer):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        Unfinished()


def test_the_summary_shows_shapes_and_the_total():
    summary = mlpkit.MLP([784, 256, 128, 10], dropout=0.1, members=3).summary()
    assert "0.weight (784, 256)" in summary
    assert "Dropout(rate=0.1)" in summary
    assert summary.splitlines()[-1].split() == ["total", *["each", "of", "3", "members"], "235,146"]


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]
)
def test_a_copy_has_parameters_of_its_own_and_layers_that_see_them(backend, members, make):
    network = mlpkit.MLP([4, 5, 3], dropout=0.4, members=members, backend=backend, seed=3)
    x = np.ones((2, 4))
    network.forward(x, train=True)
    twin = make(network)
    assert twin.backend is network.backend
    assert twin.settings() == network.settings()
    again, same = (n.forward(x, train=True)[0] for n in (network, twin))
    np.testing.assert_array_equal(backend.to_numpy(again), backend.to_numpy(same))
    twin.params[...] = backend.xp.zeros_like(twin.params)
    assert not backend.to_numpy(twin.predict_scores(x)).any()
    assert backend.to_numpy(network.predict_scores(x)).any()


def test_the_parameters_cannot_be_taken_from_under_the_layers():
    network = mlpkit.MLP([2, 2])
    with pytest.raises(AttributeError, match=r"params.*no setter"):
        network.params = network.params * 0


def test_the_output_is_that_of_the_last_layer_that_changes_it():
    network = mlpkit.Network([mlpkit.Dense(2, 3), mlpkit.Sigmoid(), mlpkit.Dropout(0.1)])
    assert network.output == mlpkit.Sigmoid()
    with pytest.raises(ValueError, match=r"computed from scores, but .* passed sigmoid"):
        mlpkit.Trainer(network)
