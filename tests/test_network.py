"""What a network does with its layers, its parameters and its random masks."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import mlpkit
from mlpkit.backends import Backend
from mlpkit.backends.base import SIGNIFICANT


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


@dataclass(frozen=True)
class Count(mlpkit.Layer):
    """y = x + (passes in training), and a parameter that no one needs."""

    n: int

    def shapes(self):
        return {"unused": (self.n,)}

    def buffers(self):
        return {"passes": (1,)}

    def initial(self, name):
        return 5.0 if name == "passes" else "zeros"

    def forward(self, context, x, train):
        passes = context.buffers["passes"]
        if train:
            passes[...] = passes + 1

        def backward(dy, need_dx):
            context.grads["unused"][...] = context.grads["unused"] * 0
            return dy if need_dx else None

        return x + passes, backward


@pytest.mark.parametrize("members", [None, 2])
def test_a_layer_of_ones_own_may_remember(backend, dtype, members):
    network = mlpkit.Network([mlpkit.Dense(3, 2, init="zeros"), Count(2)], members, backend, dtype)
    assert list(network.named_buffers()) == ["1.passes"]
    assert tuple(network.buffers.shape) == ((1,) if members is None else (2, 1))
    x = np.ones((4, 3))
    for want, train in ((5, False), (6, True), (7, True), (7, False)):
        scores = backend.to_numpy(network.forward(x, train=train)[0])
        assert scores.dtype == dtype
        np.testing.assert_array_equal(scores, want)
    zeros = backend.xp.zeros_like(network.named_buffers()["1.passes"])
    network.load_parameters(network.named_parameters() | {"1.passes": zeros})
    np.testing.assert_array_equal(backend.to_numpy(network.predict_scores(x)), 0)


@pytest.mark.parametrize("members", [None, 2])
def test_the_activations_are_those_of_each_layer(backend, draw, members):
    layers = [
        mlpkit.Dense(4, 5, "tanh"), mlpkit.Dropout(0.5), mlpkit.BatchNorm(5),
        mlpkit.Residual([mlpkit.Dense(5, 5)]), mlpkit.Dense(5, 3), mlpkit.Softmax(),
    ]  # fmt: skip
    network = mlpkit.Network(layers, members, backend, "float64")
    x = draw(2, 6, 4) if members else draw(6, 4)
    outputs = [backend.to_numpy(output) for output in network.activations(x)]
    assert [output.shape for output in outputs] == [(*x.shape[:-1], h) for h in (5, 5, 5, 5, 3)]
    named = {name: backend.to_numpy(view) for name, view in network.named_parameters().items()}
    hidden = np.tanh(x @ named["0.weight"] + named["0.bias"])
    np.testing.assert_allclose(outputs[0], hidden, rtol=1e-12)
    np.testing.assert_array_equal(outputs[1], outputs[0])
    np.testing.assert_allclose(outputs[2], hidden / np.sqrt(1 + 1e-5), rtol=1e-12)
    np.testing.assert_array_equal(outputs[-1], backend.to_numpy(network.predict_scores(x)))
    assert int(backend.to_numpy(network.passes)) == 0


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("members", [None, 2])
def test_a_multilabel_network_says_yes_or_no_to_each_class(backend, draw, members, output):
    network = mlpkit.MLP([4, 3], output=output, members=members, backend=backend, multilabel=True)
    x = draw(20, 4)
    scores = backend.to_numpy(network.predict_scores(x))
    wanted = scores if output == "sigmoid" else 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(backend.to_numpy(network.predict_proba(x)), wanted, rtol=1e-5)
    classes = backend.to_numpy(network.predict(x))
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, wanted > 0.5)
    assert set(classes.sum(axis=-1).ravel()) > {0, 1}  # none, one or several of a sample
    assert copy.copy(network).multilabel


def rounded(a, precision):
    """The nearest numbers of a precision, and where two are as near."""
    digits = SIGNIFICANT[precision]
    fraction, exponent = np.frexp(a.astype(np.float64))
    scaled = np.ldexp(fraction, digits)
    nearest = np.ldexp(np.rint(scaled), exponent - digits)
    if precision == "float16":
        with np.errstate(over="ignore"):
            nearest = a.astype(np.float16).astype(np.float64)
    return nearest, np.abs(scaled % 1 - 0.5) == 0


@pytest.mark.parametrize("precision", SIGNIFICANT)
def test_operands_are_rounded_to_the_digits_of_the_precision(backend, draw, precision):
    # A GPU may round otherwise, or not at all where that is no faster: see test_gpu.py.
    matmul = (Backend if backend.name == "cupy" else type(backend)).matmul
    scales = np.exp2(np.arange(-60, 61, dtype=np.float64))[:, None]
    a = (draw(121, 50) * scales).astype(np.float32).reshape(-1, 1)
    one = backend.xp.ones((1, 1), dtype=backend.xp.float32)
    low = backend.at(precision)
    for product in (
        matmul(low, backend.asarray(a), one),
        backend.xp.matrix_transpose(matmul(low, one, backend.asarray(a), transpose_b=True)),
    ):
        wanted, tie = rounded(a, precision)
        got = backend.to_numpy(product)
        np.testing.assert_array_equal(got[~tie], wanted[~tie])
        assert (got != a).mean() > 0.99
    assert backend.precision is None
    np.testing.assert_array_equal(backend.to_numpy(backend.matmul(backend.asarray(a), one)), a)


@pytest.mark.torch
def test_bfloat16_is_that_of_pytorch(draw):
    torch = pytest.importorskip("torch")
    a = draw(100, 50).astype(np.float32)
    ours = mlpkit.get_backend("numpy").at("bfloat16").matmul(a, np.eye(50, dtype=np.float32))
    theirs = torch.tensor(a).to(torch.bfloat16).to(torch.float32).numpy()
    tie = rounded(a, "bfloat16")[1]
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])


def test_what_cannot_be_rounded_stays(backend):
    """The splitting overflows near the largest float."""
    a = np.array([[3e38, -3e38, np.inf, -np.inf, np.nan, 0.0]], np.float32)
    with np.errstate(all="ignore"):
        got = backend.at("tf32").matmul(backend.asarray(a.T), backend.xp.ones((1, 1)))
    np.testing.assert_array_equal(backend.to_numpy(got)[:, 0], a[0])


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("precision", SIGNIFICANT)
def test_a_network_of_a_precision_rounds_all_its_products(backend, draw, members, precision):
    how = {"members": members, "backend": backend, "seed": 6}
    network = mlpkit.MLP([4, 3], precision=precision, **how)
    network.params[...] = backend.asarray(draw(*network.params.shape), network.dtype)
    named = {name: backend.to_numpy(view) for name, view in network.named_parameters().items()}
    x, dy = (draw(*named["0.weight"].shape[:-2], 5, n).astype(np.float32) for n in (4, 3))
    scores, backward = network.forward(x)
    dx = backward(backend.asarray(dy), need_dx=True)
    low_x, low_w, low_dy = (rounded(a, precision)[0] for a in (x, named["0.weight"], dy))
    for got, wanted in (
        (scores, low_x @ low_w + named["0.bias"]),
        (dx, low_dy @ low_w.swapaxes(-1, -2)),
        (network.named_gradients()["0.weight"], low_x.swapaxes(-1, -2) @ low_dy),
        (network.named_gradients()["0.bias"], dy.sum(axis=-2, keepdims=members is not None)),
    ):
        error = 2.0 ** (2 - SIGNIFICANT[precision]) if backend.name == "cupy" else 1e-5
        np.testing.assert_allclose(backend.to_numpy(got), wanted, rtol=error, atol=error)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.settings() == network.settings()
        assert twin.settings()["precision"] == precision
        again = backend.to_numpy(twin.predict_scores(x))
        np.testing.assert_array_equal(again, backend.to_numpy(network.predict_scores(x)))
    assert mlpkit.MLP([4, 3], **how).settings()["precision"] is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"precision": "tf32", "dtype": "float64"}, "'tf32' is for dtype='float32', not 'float64'"),
        ({"precision": "bf16"}, r"unknown precision 'bf16'.*\(known: bfloat16, float16, tf32\)"),
        ({"precision": 16}, "unknown precision 16"),
        ({"dtype": "bfloat16"}, "unknown dtype 'bfloat16'"),
        ({"norm": "lair"}, "unknown norm 'lair'; did you mean 'layer'"),
    ],
)
def test_settings_that_make_no_mlp(how, message):
    with pytest.raises(ValueError, match=message):
        mlpkit.MLP([4, 3, 2], **how)


def test_the_precision_of_a_backend_is_kept(backend):
    low = backend.at("bfloat16")
    assert mlpkit.MLP([4, 3], backend=low).settings()["precision"] == "bfloat16"
    assert mlpkit.MLP([4, 3], backend=low, precision="tf32").settings()["precision"] == "tf32"
    with pytest.raises(ValueError, match="'bfloat16' is for dtype='float32', not 'float64'"):
        mlpkit.MLP([4, 3], backend=low, dtype="float64")


@pytest.mark.parametrize("name", ["params", "grads", "buffers", "passes"])
def test_the_arrays_of_a_network_are_written_into_not_replaced(name):
    net = mlpkit.MLP([4, 3])
    with pytest.raises(AttributeError):
        setattr(net, name, getattr(net, name).copy())


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
