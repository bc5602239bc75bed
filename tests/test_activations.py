"""Each activation against its formula, far out, and its derivative against differences."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

import mlpkit
from mlpkit import ELU, GELU, MLP, Dense, LeakyReLU, Network, Softmax, check_gradients
from mlpkit.activations import KINDS, get_activation

NAMES = [kind.name for kind in KINDS]
N, D, H, C, K = 5, 4, 6, 3, 3


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def cdf(z):
    return (1 + math.erf(z / math.sqrt(2))) / 2


def pdf(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def u(z):
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def du(z):
    return math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)


FORMULAS = {  # g, g', and each of them at 1e4, -1e4 and 0
    "identity": (lambda z: z, lambda z: 1, [1e4, -1e4, 0], [1, 1, 1]),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z), [1, 0, 0.5], [0, 0, 0.25]),
    "tanh": (math.tanh, lambda z: math.cosh(z) ** -2, [1, -1, 0], [0, 0, 1]),
    "relu": (lambda z: max(z, 0), lambda z: z > 0, [1e4, 0, 0], [1, 0, 0]),
    "leaky_relu": (
        lambda z: max(z, 0.01 * z), lambda z: 1 if z > 0 else 0.01, [1e4, -100, 0], [1, 0.01, 0.01],
    ),
    "elu": (
        lambda z: z if z > 0 else math.expm1(z), lambda z: math.exp(min(z, 0)),
        [1e4, -1, 0], [1, 0, 1],
    ),
    "softplus": (lambda z: math.log1p(math.exp(z)), sigmoid, [1e4, 0, math.log(2)], [1, 0, 0.5]),
    "silu": (
        lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z),
        [1e4, 0, 0], [1, 0, 0.5],
    ),
    "gelu": (lambda z: z * cdf(z), lambda z: cdf(z) + z * pdf(z), [1e4, 0, 0], [1, 0, 0.5]),
    "gelu_tanh": (
        lambda z: z / 2 * (1 + math.tanh(u(z))),
        lambda z: (1 + math.tanh(u(z))) / 2 + z / 2 * math.cosh(u(z)) ** -2 * du(z),
        [1e4, 0, 0], [1, 0, 0.5],
    ),
}  # fmt: skip
EACH = [name for name in NAMES if name != "softmax"]  # that takes the elements one by one


def evaluated(backend, activation, z, dy=None):
    """g(z) and dy g'(z) on the host, both of z's dtype."""
    z = backend.asarray(z)
    dy = backend.xp.ones_like(z) if dy is None else backend.asarray(dy, z.dtype)
    y = activation.value(backend.xp, z)
    dz = activation.gradient(backend.xp, dy, z, y)
    assert y.dtype == dz.dtype == z.dtype
    return backend.to_numpy(y), backend.to_numpy(dz)


@pytest.mark.parametrize("name", EACH)
def test_values_and_slopes_are_those_of_the_formula(backend, dtype, name):
    z = np.linspace(-4, 4, 41).astype(dtype)
    y, slopes = evaluated(backend, get_activation(name), z)
    g, dg = FORMULAS[name][:2]
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(y, [g(float(v)) for v in z], **close)
    np.testing.assert_allclose(slopes, [dg(float(v)) for v in z], **close)


@pytest.mark.parametrize("name", EACH)
def test_far_out_the_limits_are_met_and_nan_stays(backend, dtype, name):
    z = np.array([1e4, -1e4, 0, np.nan], dtype)
    y, slopes = evaluated(backend, get_activation(name), z)
    values, limits = FORMULAS[name][2:]
    np.testing.assert_array_equal(y, np.array([*values, np.nan], dtype))
    np.testing.assert_allclose(slopes[:3], limits, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(N, C), (K, N, C)])
def test_softmax_is_shares_of_each_sample(backend, dtype, draw, shape):
    z, dy = draw(*shape).astype(dtype), draw(*shape).astype(dtype)
    y, dz = evaluated(backend, Softmax(), z, dy)
    exps = np.exp(z.astype(np.float64))
    p = exps / exps.sum(axis=-1, keepdims=True)
    jacobian = p[..., :, None] * (np.eye(C) - p[..., None, :])
    rtol, atol = (1e-12, 1e-14) if dtype == "float64" else (1e-5, 1e-6)
    np.testing.assert_allclose(y, p, rtol, atol)
    np.testing.assert_allclose(dz, np.einsum("...ij,...j->...i", jacobian, dy), rtol, atol)


def test_softmax_far_out(backend, dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -2e4], [np.nan, 0, 1]], dtype)
    y, slopes = evaluated(backend, Softmax(), z)
    np.testing.assert_array_equal(y, [[1, 0, 0], [0.5, 0.5, 0], [np.nan] * 3])
    np.testing.assert_array_equal(slopes[:2], 0)  # the shares of a sample add up to 1


def mills(a):
    """P(-a) / P'(-a), a >= 1, by Laplace's continued fraction 1 / (a + 1 / (a + 2 / (a + ..."""
    fraction = 0.0
    for k in range(2000, 0, -1):
        fraction = k / (a + fraction)
    return 1 / (a + fraction)


@pytest.mark.parametrize(("dtype", "deepest"), [("float32", 12), ("float64", 37)])
def test_gelu_keeps_its_digits_where_it_is_tiny(backend, dtype, deepest):
    z = np.arange(-deepest, 0, dtype=dtype)
    y, slopes = evaluated(backend, GELU(), z)
    # The rounding of z^2 / 2 is all that the exponential makes larger.
    rtol = (4 + z.astype(np.float64) ** 2) * np.finfo(dtype).eps
    wanted = np.array([pdf(v) * mills(-v) * v for v in map(float, z)])
    assert (np.abs(y - wanted) <= rtol * np.abs(wanted)).all()
    wanted = np.array([pdf(v) * (mills(-v) + v) for v in map(float, z)])
    assert (np.abs(slopes - wanted) <= 2 * rtol * np.abs(wanted)).all()


@pytest.mark.parametrize(
    ("name", "z", "wanted"),
    [("elu", -1e-6, -1e-6), ("sigmoid", -30, math.exp(-30)), ("softplus", -30, math.exp(-30)),
     ("silu", -30, -30 * math.exp(-30)), ("tanh", 1e-6, 1e-6)],
)  # fmt: skip
def test_small_values_keep_their_digits(backend, dtype, name, z, wanted):
    y, _ = evaluated(backend, get_activation(name), np.array([z], dtype))
    np.testing.assert_allclose(y, [wanted], rtol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(N, C), (K, N, C)])
@pytest.mark.parametrize("name", [*NAMES, "leaky_relu, 0.3", "elu, 0.7"])
def test_values_and_gradients_are_those_of_pytorch(draw, name, shape):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    ours = {"leaky_relu, 0.3": LeakyReLU(0.3), "elu, 0.7": ELU(0.7)}
    theirs = {
        "identity": lambda z: z,
        "softmax": lambda z: F.softmax(z, dim=-1),
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "leaky_relu, 0.3": lambda z: F.leaky_relu(z, 0.3),
        "elu, 0.7": lambda z: F.elu(z, 0.7),
    }
    z, dy = 3 * draw(*shape), draw(*shape)
    tensor = torch.tensor(z, requires_grad=True)
    wanted = (theirs.get(name) or getattr(F, name))(tensor)
    wanted.backward(torch.tensor(dy))
    activation = ours.get(name) or get_activation(name)
    y, dz = evaluated(mlpkit.get_backend("numpy"), activation, z, dy)
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dz, tensor.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_hidden_and_output_activations(backend, draw, name, members):
    net = MLP([D, H, C], name, name, members=members, backend=backend, dtype="float64", seed=3)
    errors = check_gradients(net, "mean_squared_error", draw(N, D), draw(N, C), samples=3)
    assert list(errors) == ["0.weight", "0.bias", "1.weight", "1.bias", "x"]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_an_activation_that_is_a_layer(backend, draw, name):
    layers = [get_activation(name), Dense(D, H), mlpkit.LayerNorm(H), get_activation(name)]
    net = Network([*layers, Dense(H, C)], members=K, backend=backend, dtype="float64", seed=3)
    x = draw(K, N, D)
    check_gradients(net, "half_squared_error", x, draw(N, C), train=True, samples=3)


@dataclass(frozen=True)
class Swish(mlpkit.Activation):
    """g(z) = z s with s = sigmoid(beta z); g' = s (1 + beta z (1 - s))."""

    beta: float = 1.0

    def value(self, xp, z):
        return z / (1 + xp.exp(-self.beta * z))

    def gradient(self, xp, dy, z, y):
        s = 1 / (1 + xp.exp(-self.beta * z))
        return dy * s * (1 + self.beta * z * (1 - s))


@pytest.mark.parametrize("members", [None, K])
def test_an_activation_of_ones_own(backend, dtype, draw, members):
    assert Swish.name == "swish"
    how = {"members": members, "backend": backend}
    check_gradients(
        MLP([D, H, C], Swish(1.7), Swish(), dtype="float64", **how),
        "mean_squared_error", draw(N, D), draw(N, C), samples=3,
    )  # fmt: skip
    own, known = (MLP([D, H, C], g, dtype=dtype, **how) for g in (Swish(), mlpkit.SiLU()))
    own.params[...] = known.params  # what "auto" gives them differs
    x = draw(N, D)
    own, known = (backend.to_numpy(net.predict_scores(x)) for net in (own, known))
    np.testing.assert_allclose(own, known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LeakyReLU(-0.1), ValueError, r"LeakyReLU: slope must lie in \[0, inf\), got -0.1"),
        (lambda: LeakyReLU((0.1, 0.2)), TypeError, r"slope must be a number, got \(0.1, 0.2\)"),
        (lambda: ELU("1"), TypeError, "ELU: alpha must be a number, got '1'"),
        (lambda: ELU(math.nan), ValueError, "ELU: alpha .* got nan"),
        (lambda: Dense(D, C, "gelu_tan"), ValueError, "gelu_tan'; did you mean 'gelu_tanh'"),
        (lambda: Dense(D, C, GELU), ValueError, "unknown activation <class"),
        (lambda: mlpkit.Activation(), TypeError, "abstract method"),
    ],
)
def test_what_is_no_activation_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_activations_are_equal_by_their_kind_and_settings():
    assert ELU(0.5) == ELU(0.5) != ELU(0.6)
    assert get_activation("linear") == mlpkit.Identity() != mlpkit.Tanh()
    assert len({get_activation(name) for name in NAMES + NAMES}) == len(NAMES)


def test_a_softmax_output_learns_shares(backend, draw):
    """The shares that a network of the same shape gives can be learned from them."""
    x = draw(40, D)
    teacher = MLP([D, C], output="softmax", backend=backend, seed=1)
    shares = teacher.predict_proba(x)
    np.testing.assert_allclose(backend.to_numpy(shares).sum(axis=-1), 1, rtol=1e-6)
    net = MLP([D, C], output="softmax", backend=backend, seed=2)
    trainer = mlpkit.Trainer(net, "mean_squared_error", mlpkit.Adam(0.1), metrics=["accuracy"])
    trainer.fit(x, shares, epochs=60, batch_size=None)
    assert trainer.evaluate(x, shares)["loss"] < 1e-3
    assert trainer.evaluate(x, shares)["accuracy"] >= 0.95
    with pytest.raises(ValueError, match="has passed softmax"):
        mlpkit.Trainer(net)
