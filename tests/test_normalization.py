"""Layers that standardize: their figures, their derivatives, and what they remember."""

import copy
import pickle

import numpy as np
import pytest

import mlpkit
from mlpkit import MLP, BatchNorm, Dense, LayerNorm, Network, Residual, Trainer, check_gradients

N, D, H, C, K = 6, 4, 5, 3, 3
LAYERS = {"layer": LayerNorm, "batch": BatchNorm}


def host(backend, named):
    return {name: backend.to_numpy(array) for name, array in named.items()}


def close(dtype):
    return {"rtol": 1e-12, "atol": 1e-13} if dtype == "float64" else {"rtol": 2e-5, "atol": 2e-5}


def set_affine(net, draw):
    """A scale and a shift that are not 1 and 0, and the parameters on the host."""
    named = net.named_parameters()
    net.load_parameters({name: 1 + draw(*array.shape) for name, array in named.items()})
    return host(net.backend, named)


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_are_those_of_the_formula(backend, dtype, draw, kind, train, members):
    net = Network([LAYERS[kind](D, 0.01)], members, backend, dtype)
    named = set_affine(net, draw)
    x = 3 * draw(*((K,) if members else ()), N, D) + 2
    axis = -1 if kind == "layer" else -2
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    if kind == "batch" and not train:
        mean, var = 0.0, 1.0
    u = (x - mean) / np.sqrt(var + 0.01)
    wanted = u * named["0.weight"] + named["0.bias"]
    y = backend.to_numpy(net.forward(x, train=train)[0])
    assert y.dtype == dtype
    np.testing.assert_allclose(y, wanted, **close(dtype))


@pytest.mark.torch
def test_a_layer_norm_is_that_of_pytorch(draw):
    torch = pytest.importorskip("torch")
    net = Network([LayerNorm(D, eps=0.003)], dtype="float64")
    named = set_affine(net, draw)
    x, dy = 3 * draw(N, D) + 2, draw(N, D)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *named.values())]
    wanted = torch.nn.functional.layer_norm(tensors[0], (D,), *tensors[1:], eps=0.003)
    wanted.backward(torch.tensor(dy))
    y, backward = net.forward(x, train=True)
    dx = backward(dy, need_dx=True)
    np.testing.assert_allclose(y, wanted.detach(), rtol=1e-12)
    for ours, theirs in zip((dx, *net.named_gradients().values()), tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.torch
@pytest.mark.parametrize("how", [{}, {"eps": 0.003, "momentum": 0.3}], ids=["default", "other"])
def test_a_batch_norm_is_that_of_pytorch(draw, how):
    """Five batches in training, then one in evaluation: outputs, gradients, running statistics."""
    torch = pytest.importorskip("torch")
    net = Network([BatchNorm(D, **how)], dtype="float64")
    named = set_affine(net, draw)
    norm = torch.nn.BatchNorm1d(D, **how, dtype=torch.float64)
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = map(torch.tensor, named.values())
    for train in [True] * 5 + [False]:
        norm.train(train)
        norm.zero_grad()
        x, dy = 3 * draw(N, D) + 2, draw(N, D)
        tensor = torch.tensor(x, requires_grad=True)
        wanted = norm(tensor)
        wanted.backward(torch.tensor(dy))
        y, backward = net.forward(x, train=train)
        dx = backward(dy, need_dx=True)
        grads = net.named_gradients()
        pairs = [
            (y, wanted.detach()), (dx, tensor.grad),
            (grads["0.weight"], norm.weight.grad), (grads["0.bias"], norm.bias.grad),
            (net.named_buffers()["0.running_mean"], norm.running_mean),
            (net.named_buffers()["0.running_var"], norm.running_var),
        ]  # fmt: skip
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


STACKS = {
    "layer": [Dense(D, H), LayerNorm(H), mlpkit.Tanh(), Dense(H, C)],
    "batch": [Dense(D, H, bias=False), BatchNorm(H), mlpkit.Tanh(), Dense(H, C)],
    "layer first": [LayerNorm(D), Dense(D, C)],
    "batch first": [BatchNorm(D), Dense(D, C)],
    "layer last": [Dense(D, C), LayerNorm(C)],
    "batch last": [Dense(D, C, "sigmoid"), BatchNorm(C, eps=0.1)],
    "both, with dropout": [
        BatchNorm(D), Dense(D, H, "tanh"), mlpkit.Dropout(0.3), LayerNorm(H), Dense(H, C),
    ],
}  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("batch", ["one network", "shared batch", "batch per member"])
@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_gradients(backend, draw, layers, batch, train):
    members = None if batch == "one network" else K
    net = Network(layers, members, backend, "float64", seed=4)
    set_affine(net, draw)
    x = draw(K, N, D) if batch == "batch per member" else draw(N, D)
    if net.buffers.shape[-1]:
        net.forward(3 * x + 1, train=True)  # other statistics than 0 and 1
    passes, buffers = (backend.to_numpy(a) for a in (net.passes, net.buffers))
    check_gradients(net, "half_squared_error", x, draw(N, C), train=train, samples=3)
    np.testing.assert_array_equal(backend.to_numpy(net.buffers), buffers)
    np.testing.assert_array_equal(backend.to_numpy(net.passes), passes)


@pytest.mark.parametrize("batch", ["shared batch", "batch per member"])
@pytest.mark.parametrize("name", ["layer", "batch", "layer first", "batch first"])
def test_members_at_once_are_networks_one_by_one(backend, dtype, draw, name, batch):
    x, y = draw(K, 3, N, D) + 1, draw(N, below=C)
    together = Network(STACKS[name], K, backend, dtype, seed=7)
    alone = [Network(STACKS[name], None, backend, dtype, seed=7 + k) for k in range(K)]
    trainers = [Trainer(net, optimizer=mlpkit.SGD(0.1)) for net in (together, *alone)]
    for step in range(3):
        for k, trainer in enumerate(trainers, start=-1):
            own = x[:, step] if k < 0 and batch == "batch per member" else x[max(k, 0), step]
            trainer.step(own if batch == "batch per member" else x[0, step], y)
    for got, parts in (
        (together.params, [net.params for net in alone]),
        (together.buffers, [net.buffers for net in alone]),
        (together.predict_scores(x[0, 0]), [net.predict_scores(x[0, 0]) for net in alone]),
    ):
        wanted = np.stack([backend.to_numpy(part) for part in parts])
        np.testing.assert_allclose(backend.to_numpy(got), wanted, **close(dtype))


def test_running_statistics_belong_to_training_alone(backend, draw):
    net = Network(STACKS["batch first"], backend=backend)
    names = {"0.running_mean", "0.running_var"}
    assert set(net.named_buffers()) == names
    assert names.isdisjoint(net.named_parameters())
    before = backend.to_numpy(net.buffers)
    np.testing.assert_array_equal(before, [0] * D + [1] * D)
    x = draw(N, D) + 1
    net.predict(x)
    net.activations(x)
    Trainer(net).evaluate(x, draw(N, below=C))
    np.testing.assert_array_equal(backend.to_numpy(net.buffers), before)
    net.forward(x, train=True)
    wanted = np.concatenate([0.1 * x.mean(0), 0.9 + 0.1 * x.var(0, ddof=1)])
    np.testing.assert_allclose(backend.to_numpy(net.buffers), wanted, rtol=1e-5, atol=1e-6)


def test_a_prediction_does_not_depend_on_its_batch(backend, draw):
    net = MLP([D, H, C], norm="batch", backend=backend, dtype="float64")
    net.forward(draw(N, D), train=True)
    x = draw(N, D)
    whole = backend.to_numpy(net.predict_scores(x))
    single = [backend.to_numpy(net.predict_scores(x[i : i + 1]))[0] for i in range(N)]
    np.testing.assert_allclose(whole, single, rtol=1e-12)


def test_a_feature_that_is_constant_and_one_far_from_zero(backend, dtype):
    """Neither divides by 0, and the mean is subtracted before the squares are taken."""
    x = np.array([[7.0, 1e4], [7.0, 1e4 + 1], [7.0, 1e4 + 2]], dtype)
    net = Network([BatchNorm(2)], backend=backend, dtype=dtype)
    y = backend.to_numpy(net.forward(x, train=True)[0])
    np.testing.assert_array_equal(y[:, 0], 0)
    np.testing.assert_allclose(y[:, 1], np.array([-1, 0, 1]) * np.sqrt(1.5), rtol=1e-4, atol=1e-4)


# ---- what is remembered --------------------------------------------------------------------------


def trained(backend="numpy", members=None, epochs=2, trainer=None, **fit):
    """A trainer of a network with running statistics, and the data it saw."""
    if trainer is None:
        layers = [BatchNorm(D), Dense(D, H), Residual([BatchNorm(H, momentum=0.4)]), Dense(H, C)]
        trainer = Trainer(Network(layers, members, backend, seed=2), optimizer=mlpkit.Adam(0.05))
    rng = np.random.default_rng(3)
    x, y = 2 * rng.standard_normal((20, D)) + 1, rng.integers(0, C, 20)
    trainer.fit(x, y, epochs, batch_size=8, **fit)
    return trainer


def assert_same(backend, first, second):
    for name in ("params", "buffers"):
        both = (backend.to_numpy(getattr(net, name)) for net in (first, second))
        np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("members", [None, K])
def test_running_statistics_are_saved_and_loaded(tmp_path, backend, members):
    net = trained(backend, members).network
    mlpkit.save(net, tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", backend)
    assert list(loaded.named_buffers()) == [
        "0.running_mean", "0.running_var", "2.0.running_mean", "2.0.running_var",
    ]  # fmt: skip
    assert_same(backend, loaded, net)


@pytest.mark.parametrize("members", [None, K])
def test_a_resumed_training_has_the_statistics_it_stopped_with(tmp_path, backend, members):
    whole, half = trained(backend, members, epochs=4), trained(backend, members, epochs=2)
    mlpkit.save_state(half, tmp_path / "state")
    again = Trainer(
        Network(half.network.layers, members, backend, seed=2), optimizer=mlpkit.Adam(0.05)
    )
    mlpkit.restore_state(again, tmp_path / "state")
    assert_same(backend, again.network, half.network)
    trained(epochs=4, trainer=again)
    assert_same(backend, again.network, whole.network)
    assert_same(backend, mlpkit.load(tmp_path / "state", backend), half.network)


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]
)
@pytest.mark.parametrize("members", [None, K])
def test_a_copy_has_statistics_of_its_own(backend, draw, members, make):
    net = trained(backend, members).network
    twin = make(net)
    assert_same(backend, twin, net)
    before = backend.to_numpy(net.buffers)
    twin.forward(draw(N, D), train=True)
    assert (backend.to_numpy(twin.buffers) != before).any()
    np.testing.assert_array_equal(backend.to_numpy(net.buffers), before)


class Record(mlpkit.Callback):
    """The parameters and buffers after each epoch, (K, ...) each."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, trainer, row):
        net = trainer.network
        flats = (net.backend.to_numpy(flat) for flat in (net.params, net.buffers))
        self.states.append([flat.reshape(net.members or 1, -1) for flat in flats])


@pytest.mark.parametrize("members", [None, K])
def test_early_stopping_restores_the_statistics_of_the_best_epoch(backend, members):
    rng = np.random.default_rng(5)
    validation = rng.standard_normal((20, D)), rng.integers(0, C, 20)
    record, stopping = Record(), mlpkit.EarlyStopping(patience=2)
    trainer = trained(
        backend, members, epochs=30, validation=validation, callbacks=[stopping, record]
    )
    losses = np.array([row["val_loss"] for row in trainer.history.rows]).reshape(-1, members or 1)
    assert len(losses) < 30
    final = [backend.to_numpy(flat) for flat in (trainer.network.params, trainer.network.buffers)]
    for k, own in enumerate(losses.T):
        # The first that the two epochs after it do not improve on.
        best = next(e for e in range(len(own)) if (own[e + 1 : e + 3] >= own[: e + 1].min()).all())
        assert best < len(losses) - 1
        for flat, kept in zip(final, record.states[best], strict=True):
            np.testing.assert_array_equal(flat.reshape(members or 1, -1)[k], kept[k])


def test_parameters_are_loaded_with_or_without_statistics(backend):
    net, other = trained(backend).network, trained(backend, epochs=1).network
    kept = backend.to_numpy(other.buffers)
    other.load_parameters(net.named_parameters())
    np.testing.assert_array_equal(backend.to_numpy(other.buffers), kept)
    other.load_parameters(net.named_parameters() | {"0.running_mean": np.arange(D)})
    kept[:D] = np.arange(D)
    np.testing.assert_array_equal(backend.to_numpy(other.buffers), kept)
    other.load_parameters(net.named_parameters() | net.named_buffers())
    assert_same(backend, other, net)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"0.running_mean": np.zeros(D + 1)}, r"0.running_mean has shape \(5,\), expected \(4,\)"),
        ({"1.running_mean": np.zeros(H)}, r"unknown \['1.running_mean'\]"),
    ],
)
def test_statistics_that_misfit_set_nothing(backend, wrong, message):
    net, other = trained(backend).network, trained(backend, epochs=1).network
    before = [backend.to_numpy(flat) for flat in (other.params, other.buffers)]
    with pytest.raises(ValueError, match=message):
        other.load_parameters(net.named_parameters() | wrong)
    after = [backend.to_numpy(flat) for flat in (other.params, other.buffers)]
    np.testing.assert_array_equal(np.concatenate(after), np.concatenate(before))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, K])
def test_one_sample_has_no_variance(backend, draw, members):
    net = Network(STACKS["batch first"], members, backend)
    with pytest.raises(ValueError, match="at least 2 samples a batch in training, got 1"):
        net.forward(draw(1, D), train=True)
    np.testing.assert_array_equal(backend.to_numpy(net.named_buffers()["0.running_mean"]), 0)
    assert net.forward(draw(1, D))[0].shape[-2:] == (1, C)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("size", "accumulate"),
    [(8, 1), (1, 1), (17, 17), (9, 5)],
)
def test_fit_refuses_a_last_batch_of_one_before_it_begins(draw, size, accumulate, inside):
    layers = [Residual([BatchNorm(D)]) if inside else BatchNorm(D), Dense(D, C)]
    net = Network(layers)
    trainer = Trainer(net, accumulate=accumulate)
    message = "smallest batch has 1 samples, .* needs at least 2 in training: 17 samples"
    with pytest.raises(ValueError, match=message):
        trainer.fit(draw(17, D), draw(17, below=C), 1, batch_size=size)
    assert int(net.passes) == 0
    trainer.accumulate = 1
    trainer.fit(draw(17, D), draw(17, below=C), 1, batch_size=None)
    assert trainer.steps == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: BatchNorm(D, momentum=1.0),
            ValueError,
            r"BatchNorm: momentum .*\[0, 1\), got 1.0",
        ),
        (lambda: BatchNorm(D, momentum=(0.1, 0.2)), TypeError, "momentum must be a number"),
        (lambda: LayerNorm(D, eps=-1e-5), ValueError, r"eps must lie in \[0, inf\), got -1e-05"),
        (lambda: LayerNorm(0), ValueError, "LayerNorm: n_in must be at least 1, got 0"),
        (lambda: BatchNorm(2.0), TypeError, "BatchNorm: n_in must be an integer, got 2.0"),
        (lambda: Network([Dense(D, H), BatchNorm(C)]), ValueError, "expects 3 inputs, .* gives 5"),
        (lambda: MLP([D, H, C], norm="bach"), ValueError, "unknown norm 'bach'.* mean 'batch'"),
    ],
)
def test_bad_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- MLP(norm=...) -------------------------------------------------------------------------------


def test_the_norm_of_an_mlp_comes_before_the_activation():
    """He and others' initializer stays that of the activation; a bias would be subtracted again."""
    relu = mlpkit.ReLU()
    assert MLP([D, H, C], norm="layer", dropout=0.1).layers == [
        Dense(D, H, init="he_normal"), LayerNorm(H), relu, mlpkit.Dropout(0.1), Dense(H, C),
    ]  # fmt: skip
    assert MLP([D, H, H, C], "tanh", norm="batch", init="lecun_normal").layers == [
        Dense(D, H, bias=False, init="lecun_normal"), BatchNorm(H), mlpkit.Tanh(),
        Dense(H, H, bias=False, init="lecun_normal"), BatchNorm(H), mlpkit.Tanh(),
        Dense(H, C, init="lecun_normal"),
    ]  # fmt: skip
    assert MLP([D, C], norm="batch").layers == [Dense(D, C)]


@pytest.mark.parametrize("norm", LAYERS)
def test_a_normalized_mlp_learns(norm):
    (x, y), (x_test, y_test) = mlpkit.data.digits(1000), mlpkit.data.digits(300, seed=1)
    net = MLP([784, 32, 10], norm=norm)
    trainer = Trainer(net, optimizer=mlpkit.Adam(3e-3), metrics=["accuracy"])
    trainer.fit(x, y, epochs=3, batch_size=50)
    assert trainer.evaluate(x_test, y_test)["accuracy"] > 0.75
