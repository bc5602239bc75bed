"""What the parameters begin with: variances, bounds, orthogonality, constants."""

import math

import numpy as np
import pytest

from mlpkit import MLP, Dense, Network, activations
from mlpkit.initializers import INITIALIZERS, draw
from mlpkit.random import Purpose, make_key

KEY = make_key(11, Purpose.WEIGHTS, 0)
D, H = 200, 300
VARIANCES = {"glorot": 2 / (D + H), "he": 2 / D, "lecun": 1 / D}


@pytest.mark.parametrize("scheme", VARIANCES)
def test_normal_weights_have_the_variance_and_tails_of_their_scheme(scheme):
    w = draw(f"{scheme}_normal", (D, H), KEY)
    std, n = math.sqrt(VARIANCES[scheme]), D * H
    assert w.shape == (D, H)
    assert abs(w.mean()) < 4 * std / math.sqrt(n)
    assert abs(w.var() / std**2 - 1) < 4 * math.sqrt(2 / n)
    beyond = (np.abs(w) > 2 * std).mean()
    share = math.erfc(math.sqrt(2))
    assert abs(beyond - share) < 4 * math.sqrt(share / n)
    assert np.abs(w).max() > 3.5 * std  # not truncated


@pytest.mark.parametrize("scheme", VARIANCES)
def test_uniform_weights_fill_their_bounds_evenly(scheme):
    w = draw(f"{scheme}_uniform", (D, H), KEY)
    std, n = math.sqrt(VARIANCES[scheme]), D * H
    bound = math.sqrt(3) * std
    assert 0.999 * bound < np.abs(w).max() < bound
    assert abs(w.mean()) < 4 * std / math.sqrt(n)
    counts, _ = np.histogram(w, 10, (-bound, bound))
    assert np.abs(counts / n - 0.1).max() < 4 * math.sqrt(0.09 / n)


@pytest.mark.torch
def test_the_bounds_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    init, w = torch.nn.init, torch.empty(H, D)  # PyTorch's weights are (H, D)
    for name, fill in (("glorot", init.xavier_uniform_), ("he", init.kaiming_uniform_)):
        fill(w, **({"nonlinearity": "relu"} if name == "he" else {}))
        ours = np.abs(draw(f"{name}_uniform", (D, H), KEY)).max()
        assert abs(ours / float(w.abs().max()) - 1) < 1e-3


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (12, 12), (1, 5), (5, 1), (1, 1)])
def test_orthogonal_weights(shape):
    q = draw("orthogonal", shape, KEY)
    assert q.shape == shape
    product = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_weights_favour_no_direction():
    """Elements have mean 0 and variance 1 / D, and the diagonal is no more positive than the rest.

    A QR factorization alone would give R, and so Q, signs that are not random.
    """
    drawn = np.stack([
        draw("orthogonal", (6, 6), make_key(seed, Purpose.WEIGHTS, 0)) for seed in range(2000)
    ])  # fmt: skip
    assert np.abs(drawn.mean(axis=0)).max() < 4.5 / math.sqrt(6 * 2000)
    assert np.abs(6 * (drawn**2).mean(axis=0) - 1).max() < 4.5 * math.sqrt(1.5 / 2000)


@pytest.mark.parametrize("members", [None, 2])
def test_constants(backend, dtype, members):
    layers = [Dense(3, 4, init=0.25), Dense(4, 5, init=-2), Dense(5, 6, init="ones")]
    net = Network([*layers, Dense(6, 2, init="zeros")], members, backend, dtype)
    for i, value in enumerate((0.25, -2, 1, 0)):
        weight = backend.to_numpy(net.named_parameters()[f"{i}.weight"])
        assert weight.dtype == dtype
        np.testing.assert_array_equal(weight, value)
        np.testing.assert_array_equal(backend.to_numpy(net.named_parameters()[f"{i}.bias"]), 0)


def test_every_backend_begins_with_the_same_bits(backend, dtype):
    names = [name for name in INITIALIZERS if "_" in name] + ["orthogonal"]
    layers = [Dense(6, 6, init=name) for name in names]
    wanted, net = (Network(layers, 2, on, dtype, seed=2**63) for on in ("numpy", backend))
    np.testing.assert_array_equal(backend.to_numpy(net.params), wanted.params)


def test_no_two_weights_and_no_two_members_begin_alike():
    net = MLP([8, 8, 8, 8], members=3, init="orthogonal")
    weights = [w for stacked in net.on_weights(net.params) for w in stacked]
    assert len(np.unique(np.stack(weights).reshape(9, -1), axis=0)) == 9


RECTIFIERS = {"relu", "leaky_relu", "elu", "softplus", "silu", "gelu", "gelu_tanh"}


@pytest.mark.parametrize("kind", activations.KINDS)
def test_auto_is_he_for_rectifiers_and_glorot_for_the_others(kind):
    wanted = "he_normal" if kind.name in RECTIFIERS else "glorot_uniform"
    assert Dense(3, 4, kind.name).initial("weight") == wanted
    auto, named = (Network([Dense(3, 4, kind(), init=init)]) for init in ("auto", wanted))
    np.testing.assert_array_equal(auto.params, named.params)
    # A normalization between the two changes nothing.
    norm = MLP([3, 4, 2], kind(), norm="layer").named_parameters()["0.weight"]
    np.testing.assert_array_equal(norm, auto.named_parameters()["0.weight"])


def test_auto_follows_an_activation_that_is_folded_in():
    folded = Network([Dense(3, 4), activations.ReLU()])
    np.testing.assert_array_equal(folded.params, Network([Dense(3, 4, "relu")]).params)


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("he", ValueError, r"unknown initializer 'he' \(known: .*he_normal"),
        ("glorot_norm", ValueError, "did you mean 'glorot_normal'"),
        (math.nan, ValueError, "initializer .* got nan"),
        (math.inf, ValueError, "initializer .* got inf"),
        (True, TypeError, "initializer must be a number, got True"),
        (None, TypeError, "initializer must be a number, got None"),
        ([0.1], TypeError, r"initializer must be a number, got \[0.1\]"),
    ],
)
def test_what_is_no_initializer_is_refused(init, error, message):
    with pytest.raises(error, match=message):
        Dense(3, 4, init=init)
