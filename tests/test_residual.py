"""Layers around which their input is led, with masks, statistics and their like inside."""

from dataclasses import dataclass

import numpy as np
import pytest

import mlpkit
from mlpkit import (
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Residual,
    Tanh,
    Trainer,
    check_gradients,
)

N, D, H, C, K = 6, 4, 5, 3, 3

STACKS = {
    "middle": [Dense(D, H), Residual([Dense(H, D, "tanh"), Dense(D, H)]), Dense(H, C)],
    "first": [Residual([Dense(D, H, "tanh"), Dense(H, D)]), Dense(D, C)],
    "last": [Dense(D, C, "tanh"), Residual([Dense(C, C)])],
    "without parameters": [Dense(D, H), Residual([Tanh()]), Dense(H, C)],
    "without parameters, first": [Residual([Tanh()]), Dense(D, C)],
    "begins without parameters": [Residual([Tanh(), Dense(D, D)]), Dense(D, C)],
    "nested": [
        Residual([LayerNorm(D), Residual([Dense(D, D, "tanh")]), Tanh(), Dense(D, D)]), Dense(D, C),
    ],
    "dropout": [
        Dropout(0.2), Dense(D, H),
        Residual([Dropout(0.3), Dense(H, H, "tanh"), Residual([Dropout(0.4)]), Dropout(0.5)]),
        Dense(H, C),
    ],
    "batch norm": [Dense(D, H), Residual([BatchNorm(H), Tanh(), Dense(H, H)]), Dense(H, C)],
}  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("batch", ["one network", "shared batch", "batch per member"])
@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_gradients(backend, draw, layers, batch, train):
    members = None if batch == "one network" else K
    net = Network(layers, members, backend, "float64", seed=4)
    x = draw(K, N, D) if batch == "batch per member" else draw(N, D)
    check_gradients(net, "half_squared_error", x, draw(N, C), train=train, samples=3)


def test_outputs_are_those_of_the_formula(backend, dtype, draw):
    net = Network(STACKS["nested"][:1], backend=backend, dtype=dtype)
    named = net.named_parameters()
    assert list(named) == [
        "0.0.weight", "0.0.bias", "0.1.0.weight", "0.1.0.bias", "0.2.weight", "0.2.bias",
    ]  # fmt: skip
    w, b, inner_w, inner_b, last_w, last_b = (draw(*array.shape) for array in named.values())
    net.load_parameters(dict(zip(named, (w, b, inner_w, inner_b, last_w, last_b), strict=True)))
    x = draw(N, D)
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    z = z + np.tanh(z @ inner_w + inner_b)
    wanted = x + np.tanh(z) @ last_w + last_b
    rtol = 1e-12 if dtype == "float64" else 1e-4
    got = backend.to_numpy(net.predict_scores(x))
    np.testing.assert_allclose(got, wanted, rtol, atol=10 * rtol)


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("name", ["nested", "dropout", "batch norm"])
def test_every_backend_computes_the_same(backend, draw, name, members):
    """The masks are the same, for other ones would give other figures altogether."""
    x, y, results = draw(N, D), draw(N, below=C), []
    for on in ("numpy", backend):
        net = Network(STACKS[name], members, on, "float64", seed=9)
        trainer = Trainer(net, optimizer=mlpkit.SGD(0.1))
        for _ in range(3):
            trainer.step(x, y)
        results.append(net.backend.to_numpy(net.params))
    np.testing.assert_allclose(*results, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["nested", "dropout", "batch norm"])
def test_members_at_once_are_networks_one_by_one(backend, draw, name):
    x, y = draw(N, D), draw(N, below=C)
    together = Network(STACKS[name], K, backend, "float64", seed=[5, 2**40, 7])
    alone = [Network(STACKS[name], None, backend, "float64", seed=seed) for seed in (5, 2**40, 7)]
    for net in (together, *alone):
        trainer = Trainer(net, optimizer=mlpkit.SGD(0.1))
        for _ in range(3):
            trainer.step(x, y)
    wanted = np.stack([backend.to_numpy(net.params) for net in alone])
    np.testing.assert_allclose(backend.to_numpy(together.params), wanted, rtol=1e-11, atol=1e-13)


masks = []


@dataclass(frozen=True)
class Mask(Dropout):
    """Notes its mask: what it makes of ones."""

    def forward(self, context, x, train):
        ones = context.backend.xp.ones_like(x)
        masks.append(context.backend.to_numpy(super().forward(context, ones, train)[0]))
        return super().forward(context, x, train)


@pytest.mark.parametrize("members", [None, K])
def test_no_two_masks_are_alike(backend, draw, members):
    """Not those of two layers, of a layer and one inside it, of two passes or of two members."""
    half = Mask(0.5)
    layers = [half, half, Residual([half, half, Residual([half, half])]), Residual([half])]
    net = Network([*layers, Dense(D, C)], members, backend)
    x = draw(*((K,) if members else ()), 16, D)
    masks.clear()
    for _ in range(2):
        net.forward(x, train=True)
    assert len(masks) == 14
    bits = np.stack(masks).reshape(-1, 16 * D)
    assert set(bits.ravel()) == {0.0, 2.0}
    assert len(np.unique(bits, axis=0)) == len(bits)
    agree = (bits[:, None] == bits).mean(axis=-1)[~np.eye(len(bits), dtype=bool)]
    assert 0.1 < agree.min() < agree.max() < 0.9


def test_a_rate_per_member_inside(backend, draw):
    layers = [Dense(D, H), Residual([Residual([Dropout((0.0, 0.3, 0.8)), Dense(H, H)])])]
    net = Network(layers, K, backend, "float64")
    check_gradients(net, "mean_squared_error", draw(N, D), draw(N, H), train=True, samples=3)
    assert layers[1].hyper() == {"0.0.rate": (0.0, 0.3, 0.8)}
    with pytest.raises(ValueError, match=r"0\.0\.rate has 3 values, but the network has 2 members"):
        Network(layers, 2)


asked = []


@dataclass(frozen=True)
class Watched(mlpkit.Layer):
    """y = x + b, or y = x; notes the layers whose backward runs, and whether they give a dx."""

    name: str
    n: int = 0

    def shapes(self):
        return {"b": (self.n,)} if self.n else {}

    def forward(self, context, x, train):
        def backward(dy, need_dx):
            asked.append(self.name + (" dx" if need_dx else ""))
            return dy if need_dx else None

        return x, backward


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([Residual([Watched("a"), Watched("b", D)]), Watched("c", D)], ["c dx", "b"]),
        ([Watched("a"), Residual([Watched("b")]), Watched("c", D)], ["c"]),
        ([Residual([Residual([Watched("a"), Watched("b", D)])])], ["b"]),
        ([Watched("a", D), Residual([Watched("b"), Watched("c", D)])], ["c dx", "b dx", "a"]),
    ],
)
def test_no_dx_is_computed_before_the_first_parameters(draw, layers, wanted):
    net = Network([*layers, Dense(D, C)])
    scores, backward = net.forward(draw(N, D))
    for need_dx in (False, True):
        asked.clear()
        dx = backward(np.ones_like(scores), need_dx)
        if not need_dx:
            assert dx is None
            assert asked == wanted
    assert dx.shape == (N, D)
    assert len(asked) == len({name[0] for name in asked}) == str(layers).count("Watched")
    assert all(name.endswith(" dx") for name in asked)


def test_activations_are_folded_inside_too():
    written = Residual([Dense(D, H), Tanh(), Dense(H, D)])
    assert written.layers == (Dense(D, H, "tanh"), Dense(H, D))
    assert written == Residual((Dense(D, H, "tanh"), Dense(H, D)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [Dense(D, H), Residual([Dense(H, D)])], ValueError, "f of one width, got 5 -> 4"),
        (lambda: [Dense(D, H), Residual([Dense(D, D)])], ValueError, "expects 4 .* gives 5"),
        (lambda: [Residual([Dense(D, H), Dense(D, D)])], ValueError, "expects 4 .* gives 5"),
        (lambda: [Residual([Residual([Dense(D, H)]), Dense(H, D)])], ValueError, "got 4 -> 5"),
        (lambda: [Residual([Tanh()])], ValueError, "a layer that gives its width"),
        (lambda: Residual(Dense(D, D)), TypeError, "a list of layers, got Dense"),
        (lambda: Residual(["relu"]), TypeError, "made of layers, got 'relu'"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        Network(make())


def test_the_width_may_be_known_by_an_inner_layer_alone():
    net = Network([Tanh(), Residual([Tanh(), Residual([Tanh(), Dense(D, D)])]), Tanh()])
    assert (net.n_in, net.n_out) == (D, D)


def test_names_and_summary_show_the_nesting():
    net = Network([Tanh(), *STACKS["nested"]])
    assert [name for name in net.named_parameters() if "weight" in name] == [
        "0.0.weight", "0.1.0.weight", "0.2.weight", "1.weight",
    ]  # fmt: skip
    middle = Network(STACKS["middle"])
    assert "1.0.weight" in middle.named_parameters()
    assert middle.named_parameters().keys() == middle.named_gradients().keys()
    rows = net.summary().splitlines()[2:]
    starts = [
        "Tanh()",
        "Residual",
        "  LayerNorm(",
        "  Residual",
        "    Dense 4 -> 4, tanh",
        "  Tanh()",
    ]
    assert all(row.startswith(start) for row, start in zip(rows, starts, strict=False))
    assert rows[4].split()[-1] == "20"
    assert rows[-1].split() == ["total", str(8 + 20 + 20 + 15)]


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("name", STACKS)
def test_a_network_with_residuals_is_saved_and_loaded(tmp_path, backend, draw, name, members):
    net = Network(STACKS[name], members, backend, seed=3)
    net.forward(draw(N, D), train=True)
    mlpkit.save(net, tmp_path / "model")
    loaded = mlpkit.load(tmp_path / "model", backend)
    assert loaded.layers == net.layers
    assert loaded.settings() == net.settings()
    x = draw(N, D)
    both = (backend.to_numpy(each.predict_scores(x)) for each in (loaded, net))
    np.testing.assert_array_equal(*both)


def test_the_weights_inside_are_penalized_too(backend, draw):
    net = Network([Residual([Dense(D, D, init="ones")]), Dense(D, C, init="ones")], backend=backend)
    assert [tuple(w.shape) for w in net.on_weights(net.params)] == [(D, D), (D, C)]
    x, y = draw(N, D), draw(N, below=C)
    plain = Trainer(net).evaluate(x, y)["loss"]
    loss = Trainer(net, penalties=[mlpkit.L1(0.5)]).gradients(net.place(x), y)
    np.testing.assert_allclose(float(loss), plain + 0.5 * (D * D + D * C), rtol=1e-5)
