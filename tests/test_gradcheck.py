"""`check_gradients` on a user's own layers, and on derivatives that are wrong on purpose."""

from dataclasses import dataclass

import numpy as np
import pytest

from mlpkit import (
    L1,
    L2,
    MLP,
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Network,
    Residual,
    Tanh,
    Trainer,
    check_gradients,
)
from mlpkit.losses import LOSSES


@dataclass(frozen=True)
class Scale(Layer):
    """y = x s, with a factor s of its own for each feature: a layer as a user would write it."""

    n: int

    def shapes(self):
        return {"factor": (self.n,)}

    def initial(self, name):
        return "he_normal"

    def forward(self, context, x, train):
        xp, factor, dfactor = context.backend.xp, context.params["factor"], context.grads["factor"]

        def backward(dy, need_dx):
            dfactor[...] = xp.reshape(xp.sum(dy * x, axis=-2), dfactor.shape)
            return dy * factor if need_dx else None

        return x * factor, backward


class Softplus(Activation):
    """g(z) = log(1 + e^z); g' = 1 - e^-g."""

    name = "softplus"

    def value(self, xp, z):
        return xp.log1p(xp.exp(z))

    def gradient(self, xp, dy, z, y):
        return dy * (1 - xp.exp(-y))


class WrongTanh(Tanh):
    def gradient(self, xp, dy, z, y):
        return dy * (1 - y)


class NaNTanh(Tanh):
    def gradient(self, xp, dy, z, y):
        return dy * xp.nan


class WrongBias(Dense):
    """The weights are right and the bias is not: it forgets to sum over the batch."""

    def forward(self, context, x, train):
        y, right = super().forward(context, x, train)

        def backward(dy, need_dx):
            dx = right(dy, need_dx)
            dbias = context.grads["bias"]
            dbias[...] = context.backend.xp.reshape(dy[..., 0, :], dbias.shape)
            return dx

        return y, backward


class WrongInput(Scale):
    def forward(self, context, x, train):
        y, right = super().forward(context, x, train)

        def backward(dy, need_dx):
            right(dy, need_dx)
            return dy

        return y, backward


@pytest.mark.parametrize("members", [None, 3])
def test_own_layer_and_own_activation_are_trained_and_checked(backend, draw, members):
    layers = [Scale(4), Dense(4, 5, Softplus()), Scale(5), Softplus(), Dense(5, 2)]
    net = Network(layers, members=members, backend=backend, dtype="float64")
    names = ["0.factor", "1.weight", "1.bias", "2.factor", "3.weight", "3.bias"]
    assert list(net.named_parameters()) == names
    assert net.n_parameters == 4 + 25 + 5 + 12
    x, y = draw(6, 4), draw(6, 2)
    assert list(check_gradients(net, "mean_squared_error", x, y)) == [*names, "x"]
    before = backend.to_numpy(net.params)
    Trainer(net, "mean_squared_error").step(x, y)
    assert np.all(np.any(backend.to_numpy(net.params) != before, axis=-1))


WRONG = {
    "weight": ([Dense(4, 3, WrongTanh())], r"the gradient of 0\.weight at \(\d, \d\) is"),
    "deeper": ([Dense(4, 3), Dense(3, 3, WrongTanh())], r"the gradient of 0\.weight at"),
    "bias": ([Dense(4, 3), WrongBias(3, 3)], r"the gradient of 1\.bias at"),
    "input": ([WrongInput(4), Dense(4, 3)], r"the gradient of x at \(\d, \d\) is"),
    "nan": ([Dense(4, 3, NaNTanh())], r"the gradient of 0\.weight at .* nan"),
}


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(("layers", "message"), WRONG.values(), ids=WRONG)
def test_wrong_derivative_is_caught_and_named(backend, draw, layers, message, members):
    net = Network(layers, members=members, backend=backend, dtype="float64")
    with pytest.raises(AssertionError, match=message):
        check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3))


def test_an_error_in_one_member_alone_is_caught(draw):
    class OnlyLast(Tanh):
        def gradient(self, xp, dy, z, y):
            dz = super().gradient(xp, dy, z, y)
            dz[-1] *= 1.001
            return dz

    net = Network([Dense(4, 3, OnlyLast())], members=3, dtype="float64")
    with pytest.raises(AssertionError, match=r"0\.weight"):
        check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3))


def test_float32_is_refused(draw):
    with pytest.raises(TypeError, match="needs a float64 network, got float32"):
        check_gradients(MLP([4, 3]), "half_squared_error", draw(6, 4), draw(6, 3))


@pytest.mark.parametrize("train", [False, True])
def test_network_and_data_are_left_as_they_were(backend, draw, train):
    net = MLP([4, 5, 3], dropout=0.5, backend=backend, dtype="float64")
    x, before = backend.asarray(draw(6, 4)), backend.to_numpy(net.params)
    x_before = backend.to_numpy(x)
    check_gradients(net, "softmax_cross_entropy", x, draw(6, below=3), train=train)
    np.testing.assert_array_equal(backend.to_numpy(net.params), before)
    np.testing.assert_array_equal(backend.to_numpy(x), x_before)
    assert int(net.passes) == 0


def test_images_of_bytes_are_checked_at_their_scale(backend):
    images = np.random.default_rng(1).integers(0, 256, (5, 4), np.uint8)
    net = MLP([4, 3], backend=backend, dtype="float64")
    errors = check_gradients(net, "softmax_cross_entropy", images, [0, 2, 1, 1, 0])
    assert list(errors) == ["0.weight", "0.bias", "x"]


def test_only_as_many_elements_as_asked_for_are_moved(monkeypatch, draw):
    net = MLP([4, 3], dtype="float64")
    forward, calls = net.forward, []
    monkeypatch.setattr(net, "forward", lambda *args: calls.append(1) or forward(*args))
    check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3), samples=2)
    assert len(calls) == 1 + 2 * 2 * len(["0.weight", "0.bias", "x"])


@pytest.mark.parametrize("seed", range(30))
def test_the_kinks_of_dead_layers_are_no_errors(seed):
    """With biases at zero, a dead layer puts the next one at the kink of its ReLU exactly."""
    rng = np.random.default_rng(seed)
    net = MLP([5, 4, 6, 3], dtype="float64", seed=seed)
    errors = check_gradients(
        net, "softmax_cross_entropy", rng.standard_normal((6, 5)), [0, 1, 2] * 2
    )
    assert max(errors.values()) < 1e-7


def test_gradients_that_are_not_numbers_are_errors(draw):
    net = MLP([3, 2], dtype="float64")
    net.params[...] = np.nan
    with pytest.raises(AssertionError):
        check_gradients(net, "half_squared_error", draw(4, 3), draw(4, 2))


@pytest.mark.parametrize("sizes", [[2, 4, 1], [2, 8, 1], [2, 4, 4, 1]], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_a_blank_row_and_no_biases_put_everything_at_a_kink(sizes, seed):
    x, y = [[0.0, 0], [0, 1], [1, 0], [1, 1]], [0.0, 1, 1, 0]
    net = MLP(sizes, dtype="float64", seed=seed)
    check_gradients(net, "binary_cross_entropy", x, y, tolerance=1e-5)


@pytest.mark.parametrize("z", [1e-7, 1e-6, 3e-6, 8e-6, -4e-6])
def test_a_kink_beside_the_sample_is_left_behind(z):
    net = MLP([1, 1, 1], dtype="float64")
    net.params[...] = np.array([1.0, 0, 1, 0])
    check_gradients(net, "half_squared_error", [[z], [1.0]], [[2.0], [1.0]])


class WrongL2(L2):
    def of(self, xp, w):
        return w * w, w


class WrongL1InOneMember(L1):
    def of(self, xp, w):
        value, slope = super().of(xp, w)
        slope[-1, ...] = slope[-1, ...] * 1.01
        return value, slope


@pytest.mark.parametrize("members", [None, 3])
def test_wrong_derivative_of_a_penalty_is_caught(backend, draw, members):
    net = MLP([4, 3], members=members, backend=backend, dtype="float64")
    check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3), penalties=[L2(0.3)])
    with pytest.raises(AssertionError, match=r"the gradient of 0\.weight at"):
        check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3), penalties=[WrongL2(0.3)])


def test_wrong_derivative_of_a_penalty_in_one_member_alone_is_caught(backend, draw):
    net = MLP([4, 3], members=3, backend=backend, dtype="float64")
    wrong = WrongL1InOneMember((0.1, 0.2, 0.3))
    with pytest.raises(AssertionError, match=r"the gradient of 0\.weight at"):
        check_gradients(net, "half_squared_error", draw(6, 4), draw(6, 3), penalties=[wrong])


class WrongBatchNorm(BatchNorm):
    """Takes the mean and the variance of the batch for constants."""

    def scaled(self, context, u, to_dx):
        variance = context.backend.xp.mean(u * u, axis=-2, keepdims=True)
        return super().scaled(context, u, lambda du: du * variance)


class ForgetfulBatchNorm(BatchNorm):
    """The same, but for the mean."""

    def scaled(self, context, u, to_dx):
        xp = context.backend.xp
        return super().scaled(
            context, u, lambda du: to_dx(du) + xp.mean(du, axis=-2, keepdims=True)
        )


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("wrong", [WrongBatchNorm, ForgetfulBatchNorm])
def test_wrong_derivative_of_batch_norm_is_caught(backend, draw, wrong, members):
    for kind in (BatchNorm, wrong):
        layers = [Dense(4, 5, bias=False), kind(5), Tanh(), Dense(5, 3)]
        net = Network(layers, members=members, backend=backend, dtype="float64")
        how = (net, "half_squared_error", draw(6, 4), draw(6, 3))
        if kind is BatchNorm:
            check_gradients(*how, train=True)
            continue
        with pytest.raises(AssertionError, match=r"the gradient of (x|0\.weight) at"):
            check_gradients(*how, train=True)


def deep(members, backend):
    layers = [
        Dense(4, 5),
        BatchNorm(5),
        Dropout(0.3),
        Residual((LayerNorm(5), Dense(5, 5, Tanh()))),
    ]
    return Network([*layers, Dense(5, 3)], members=members, backend=backend, dtype="float64")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("members", [None, 3])
def test_buffers_and_the_count_of_passes_are_left_as_they_were(backend, draw, members, train):
    net = deep(members, backend)
    for _ in range(2):
        net.forward(draw(6, 4), train=True)
    before = [backend.to_numpy(array) for array in (net.params, net.buffers, net.passes)]
    check_gradients(
        net, "huber", draw(6, 4), draw(6, 3), np.abs(draw(6)), [L1(0.1)], train, samples=5
    )
    after = [backend.to_numpy(array) for array in (net.params, net.buffers, net.passes)]
    for got, want in zip(after, before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_network_that_fails_is_left_as_it_was_too(backend, draw):
    net = deep(None, backend)
    net.forward(draw(6, 4), train=True)
    before = [backend.to_numpy(array) for array in (net.params, net.buffers, net.passes)]
    with pytest.raises(AssertionError, match=r"the gradient of 0\.weight"):
        check_gradients(
            net, "huber", draw(6, 4), draw(6, 3), penalties=[WrongL2(0.3)], train=True, samples=5
        )
    after = [backend.to_numpy(array) for array in (net.params, net.buffers, net.passes)]
    for got, want in zip(after, before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_checked_through_a_network(backend, draw, name):
    net = deep(3, backend)
    values = draw(6, 3)
    targets = {
        "softmax_cross_entropy": draw(6, below=3),
        "focal": draw(6, below=3),
        "binary_cross_entropy": values > 0,
        "binary_focal": values > 0,
    }.get(name, values)
    errors = check_gradients(net, name, draw(6, 4), targets, samples=3)
    assert max(errors.values()) < 1e-7
