"""Penalties: their gradients, what they bound, and their place in a training."""

import numpy as np
import pytest

from mlpkit import (
    L1,
    L2,
    LBFGS,
    MLP,
    SGD,
    ClipNorm,
    ClipValue,
    Dense,
    LayerNorm,
    MaxNorm,
    Network,
    Residual,
    Tanh,
    Trainer,
    check_gradients,
    get_backend,
    restore_state,
    save_state,
)

N, D, H, C, K = 8, 5, 4, 3, 3
STRENGTHS = (0.3, 0.0, 0.05)
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def network(backend, members=None, dtype="float64", seed=0):
    """Weights of several shapes, and vectors that are no weights: biases, and those of a norm."""
    layers = [Dense(D, H, Tanh()), LayerNorm(H), Residual((Dense(H, H, Tanh()),)), Dense(H, C)]
    net = Network(layers, members=members, backend=backend, dtype=dtype, seed=seed)
    rng = np.random.default_rng(3)  # so that the biases are not 0
    noise = rng.standard_normal(tuple(net.params.shape)) / 5
    net.params[...] = net.params + net.backend.asarray(noise, net.dtype)
    return net


def host(network, named):
    """The arrays by name, on the host."""
    return {name: network.backend.to_numpy(array) for name, array in named.items()}


WEIGHTS = ("0.weight", "2.0.weight", "3.weight")  # "1.weight" is a vector, of the LayerNorm


def gradients(net, x, y, *penalties):
    """The loss and the gradients by name."""
    loss = Trainer(net, "half_squared_error", penalties=penalties).gradients(x, y)
    return net.backend.to_numpy(loss), host(net, net.named_gradients())


def names(kinds):
    return " ".join(kind.__name__ for kind in kinds)


def flat(named, stack):
    return np.concatenate([array.reshape(*stack, -1) for array in named.values()], axis=-1)


# ---- added to the loss ---------------------------------------------------------------------------

ADDED = {
    "l1": (L1, np.abs, np.sign),
    "l2": (L2, lambda w: w**2 / 2, lambda w: w),
}
EVERY_ADDED = pytest.mark.parametrize(("kind", "value", "slope"), ADDED.values(), ids=ADDED)


@pytest.mark.parametrize("members", [None, K])
@EVERY_ADDED
def test_penalty_is_the_plain_formula_on_the_weights_alone(
    backend, dtype, draw, members, kind, value, slope
):
    net, x, y = network(backend, members, dtype), draw(N, D), draw(N, C)
    strength = STRENGTHS if members else STRENGTHS[0]
    loss, plain = gradients(net, x, y)
    penalized, got = gradients(net, x, y, kind(strength))
    s = np.array(strength, dtype).reshape((-1, 1, 1) if members else ())
    total = 0
    for name, w in host(net, net.named_parameters()).items():
        if name not in WEIGHTS:
            np.testing.assert_array_equal(got[name], plain[name], err_msg=name)
            continue
        total = total + np.sum(s * value(w), axis=(-2, -1))
        want = plain[name] + s * slope(w)
        np.testing.assert_allclose(got[name], want, atol=TOLERANCE[dtype], err_msg=name)
    assert penalized.shape == loss.shape
    np.testing.assert_allclose(penalized, loss + total, rtol=TOLERANCE[dtype])
    assert np.any(total > 0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize("kinds", [(L1,), (L2,), (L2, L1)], ids=names)
def test_gradients_are_the_central_differences(backend, draw, kinds, members, weighted):
    net = network(backend, members)
    strength = STRENGTHS if members else 0.3
    weights = np.abs(draw(N)) if weighted else None
    penalties = [kind(strength) for kind in kinds]
    errors = check_gradients(
        net, "mean_squared_error", draw(N, D), draw(N, C), weights, penalties, samples=4
    )
    assert list(errors) == [*net.named_parameters(), "x"]


def test_weights_at_0_stay_there_under_l1(backend, dtype):
    net = MLP([D, C], init=0.0, backend=backend, dtype=dtype)
    zeros = np.zeros((N, D))
    _, got = gradients(net, zeros, np.ones((N, C)), L1(0.5))
    np.testing.assert_array_equal(got["0.weight"], np.zeros((D, C)))


def test_l2_is_the_weight_decay_of_sgd_on_the_weights(backend, draw):
    ends, x, y = [], draw(5, N, D), draw(5, N, C)
    for decay, penalties in ((0.1, ()), (0.0, [L2(0.1)])):
        net = Network(
            [Dense(D, H, Tanh(), bias=False), Dense(H, C, bias=False)],
            backend=backend,
            dtype="float64",
        )
        rule = SGD(0.1, momentum=0.9, weight_decay=decay)
        trainer = Trainer(net, "half_squared_error", rule, penalties=penalties)
        for batch in zip(x, y, strict=True):
            trainer.step(*batch)
        ends.append(backend.to_numpy(net.params))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-13)


@pytest.mark.parametrize("members", [None, K])
def test_l2_on_a_linear_network_is_ridge_regression(backend, draw, members):
    """W = (X^T X / N + s I)^-1 X^T Y / N."""
    x, y = draw(N, D), draw(N, C)
    strength = (0.3, 0.01, 2.0) if members else 0.3
    layers = [Dense(D, C, bias=False)]
    net = Network(layers, members=members, backend=backend, dtype="float64")
    trainer = Trainer(net, "half_squared_error", LBFGS(max_iter=40), penalties=[L2(strength)])
    loss = backend.to_numpy(trainer.step(x, y))
    got = backend.to_numpy(net.named_parameters()["0.weight"])
    s = np.reshape(strength, (-1, 1, 1))
    want = np.linalg.solve(x.T @ x / N + s * np.eye(D), x.T @ y / N)
    np.testing.assert_allclose(got, want.reshape(got.shape), atol=1e-6)
    assert np.all(backend.to_numpy(trainer.gradients(x, y)) < loss)


@EVERY_ADDED
def test_accumulated_parts_are_penalized_once(backend, draw, kind, value, slope):
    x, y, found = draw(N, D), draw(N, C), []
    for accumulate in (1, 3):
        net = network(backend)
        trainer = Trainer(net, "half_squared_error", penalties=[kind(0.3)], accumulate=accumulate)
        loss = backend.to_numpy(trainer.gradients(x, y))
        found.append((loss, backend.to_numpy(net.grads)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-13)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-14)


def test_evaluation_is_without_penalties(backend, draw):
    x, y = draw(N, D), draw(N, C)
    net = network(backend)
    plain = Trainer(net, "half_squared_error").evaluate(x, y)
    assert Trainer(net, "half_squared_error", penalties=[L2(3.0)]).evaluate(x, y) == plain


# ---- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, K])
def test_clip_value_bounds_each_element(backend, dtype, draw, members):
    net, x, y = network(backend, members, dtype), draw(N, D), draw(N, C)
    limit = (0.05, 0.01, 1e9) if members else 0.05
    loss, plain = gradients(net, x, y)
    clipped_loss, got = gradients(net, x, y, ClipValue(limit))
    np.testing.assert_array_equal(clipped_loss, loss)
    assert any(np.any(np.abs(g) > 0.05) for g in plain.values())
    for name, g in plain.items():
        bound = np.array(limit, dtype).reshape((-1, 1, 1) if members else ())
        np.testing.assert_array_equal(got[name], np.clip(g, -bound, bound), err_msg=name)


@pytest.mark.parametrize("members", [None, K])
def test_clip_norm_shortens_the_gradient_of_each_member(backend, dtype, draw, members):
    net, x, y = network(backend, members, dtype), draw(N, D), draw(N, C)
    stack = () if members is None else (members,)
    limit = np.array((0.5, 1e9, 1e-3) if members else 0.5)
    loss, plain = gradients(net, x, y)
    clipped_loss, got = gradients(net, x, y, ClipNorm(limit if members else float(limit)))
    np.testing.assert_array_equal(clipped_loss, loss)
    g = flat(plain, stack)
    share = np.minimum(1, limit / (np.linalg.norm(g, axis=-1) + 1e-6))
    assert share.min() < 0.9
    np.testing.assert_allclose(
        flat(got, stack), g * share[..., None], rtol=5 * TOLERANCE[dtype], atol=1e-12
    )


@pytest.mark.parametrize("penalty", [ClipNorm(2.0), ClipNorm(0.0), ClipValue(0.0)], ids=str)
def test_a_gradient_of_0_stays_0(backend, dtype, penalty):
    net = network(backend, K, dtype)
    net.grads[...] = 0 * net.grads
    penalty.on_gradients(net)
    assert np.all(backend.to_numpy(net.grads) == 0)


@pytest.mark.torch
@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e3])
def test_clipping_is_that_of_pytorch(draw, limit):
    torch = pytest.importorskip("torch")
    utils = torch.nn.utils
    for clip, same in ((ClipNorm, utils.clip_grad_norm_), (ClipValue, utils.clip_grad_value_)):
        net, x, y = network(get_backend("numpy")), draw(N, D), draw(N, C)
        _, plain = gradients(net, x, y)
        params = [torch.zeros(g.shape, dtype=torch.float64) for g in plain.values()]
        for param, g in zip(params, plain.values(), strict=True):
            param.grad = torch.tensor(g)
        same(params, limit)
        _, got = gradients(net, x, y, clip(limit))
        for param, g in zip(params, got.values(), strict=True):
            np.testing.assert_allclose(g, param.grad.numpy(), rtol=1e-14)


@pytest.mark.parametrize("members", [None, K])
def test_max_norm_bounds_the_columns_and_leaves_all_else(backend, dtype, members):
    net = network(backend, members, dtype)
    limit = np.array((0.9, 1e3, 0.2) if members else 0.9)
    before = host(net, net.named_parameters())
    MaxNorm(limit if members else float(limit)).on_parameters(net)
    bound = limit.reshape((-1, 1, 1) if members else ())
    shortened = shorter = 0
    for name, w in host(net, net.named_parameters()).items():
        if name not in WEIGHTS:
            np.testing.assert_array_equal(w, before[name], err_msg=name)
            continue
        norm = np.linalg.norm(before[name], axis=-2, keepdims=True)
        want = before[name] * np.minimum(1, bound / norm)
        np.testing.assert_allclose(w, want, rtol=5 * TOLERANCE[dtype], err_msg=name)
        shortened += np.sum(norm > bound)
        shorter += np.sum(norm < bound)
    assert shortened > 0
    assert shorter > 0


def test_max_norm_leaves_shorter_columns_bit_for_bit(backend, dtype):
    net = network(backend, dtype=dtype)
    before = backend.to_numpy(net.params)
    for limit in (3.7, 10 / 3, 1e3):
        MaxNorm(limit).on_parameters(net)
        np.testing.assert_array_equal(backend.to_numpy(net.params), before)


def test_max_norm_holds_after_each_step_and_zero_columns_stay(backend, dtype, draw):
    net = MLP([D, H, C], backend=backend, dtype=dtype)
    trainer = Trainer(net, "half_squared_error", SGD(0.5), penalties=[MaxNorm(0.4)])
    for _ in range(3):
        trainer.step(draw(N, D), 10 * draw(N, C))
        for name, w in host(net, net.named_parameters()).items():
            if name.endswith("weight"):
                assert np.linalg.norm(w, axis=-2).max() <= 0.4 * (1 + 1e-6)
    net.params[...] = 0 * net.params
    MaxNorm(0.4).on_parameters(net)
    assert np.all(backend.to_numpy(net.params) == 0)


# ---- in a training -------------------------------------------------------------------------------


def test_penalties_come_in_the_order_given(backend, draw):
    net, x, y = network(backend), draw(N, D), draw(N, C)
    _, plain = gradients(net, x, y)
    g = flat(plain, ())
    weights = {
        name: w if name in WEIGHTS else 0 * w
        for name, w in host(net, net.named_parameters()).items()
    }
    w = flat(weights, ())

    def clip(g):
        return g * min(1, 0.1 / (np.linalg.norm(g) + 1e-6))

    _, last = gradients(net, x, y, L2(2.0), ClipNorm(0.1))
    _, first = gradients(net, x, y, ClipNorm(0.1), L2(2.0))
    np.testing.assert_allclose(flat(last, ()), clip(g + 2 * w), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(flat(first, ()), clip(g) + 2 * w, rtol=1e-12, atol=1e-15)


ALL = {
    L1: (0.01, 0.0, 0.2),
    L2: (0.1, 1.0, 0.0),
    ClipNorm: (0.5, 1e3, 0.05),
    ClipValue: (0.1, 0.02, 1e3),
    MaxNorm: (0.6, 1e3, 0.3),
}


@pytest.mark.parametrize("kinds", [*((kind,) for kind in ALL), tuple(ALL)], ids=names)
def test_members_together_are_one_by_one(backend, dtype, draw, kinds):
    x, y = draw(4, N, D), draw(4, N, C)

    def train(members, seed, k=None):
        net = MLP([D, H, C], "tanh", members=members, backend=backend, dtype=dtype, seed=seed)
        penalties = [kind(ALL[kind] if k is None else ALL[kind][k]) for kind in kinds]
        trainer = Trainer(net, "half_squared_error", SGD(0.2, momentum=0.9), penalties=penalties)
        losses = [backend.to_numpy(trainer.step(*batch)) for batch in zip(x, y, strict=True)]
        return np.array(losses), backend.to_numpy(net.params)

    losses, params = train(K, 20)
    for k in range(K):
        want_losses, want = train(None, 20 + k, k)
        scale = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(losses[:, k], want_losses, rtol=scale)
        np.testing.assert_allclose(params[k], want, atol=scale * np.abs(want).max())


def test_a_training_goes_on_with_its_own_penalties_alone(tmp_path, draw):
    x, y, path = draw(N, D), draw(N, C), tmp_path / "state.safetensors"

    def trainer_with(*penalties):
        net = MLP([D, H, C], members=K)
        return Trainer(net, "half_squared_error", SGD(0.1), penalties=penalties)

    trainer = trainer_with(L2(STRENGTHS), MaxNorm(1))
    trainer.fit(x, y, epochs=2, batch_size=4)
    save_state(trainer, path)
    again = trainer_with(L2(STRENGTHS), MaxNorm(1.0))
    restore_state(again, path)
    for one in (trainer, again):
        one.fit(x, y, epochs=3, batch_size=4)
    np.testing.assert_array_equal(again.network.params, trainer.network.params)
    others = [(), (L2(STRENGTHS),), (MaxNorm(1), L2(STRENGTHS)), (L1(STRENGTHS), MaxNorm(1))]
    for other in [*others, (L2(0.3), MaxNorm(1))]:
        with pytest.raises(ValueError, match="of a training with another penalties"):
            restore_state(trainer_with(*other), path)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("strength", "error", "message"),
    [
        (-0.1, ValueError, r"strength must lie in \[0, inf\), got -0\.1"),
        (np.nan, ValueError, r"strength must lie in \[0, inf\), got nan"),
        ((0.1, -1), ValueError, r"strength\[1\] must lie in \[0, inf\), got -1"),
        ((), ValueError, "strength is empty"),
        ("0.1", TypeError, "strength must be a number, got '0.1'"),
        (True, TypeError, "strength must be a number, got True"),
    ],
)
def test_strengths_out_of_range_are_refused(kind, strength, error, message):
    with pytest.raises(error, match=f"{kind.__name__}: {message}"):
        kind(strength)


@pytest.mark.parametrize("penalty", ["l2", L2, 0.1])
def test_what_is_no_penalty_is_refused(penalty):
    with pytest.raises(TypeError, match="expected a Penalty such as"):
        Trainer(MLP([D, C]), penalties=[penalty])


def test_penalties_that_can_be_read_but_once_are_kept():
    penalties = (L2(strength) for strength in (0.1, 0.2))
    assert Trainer(MLP([D, C]), penalties=penalties).penalties == (L2(0.1), L2(0.2))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("members", [None, 2])
def test_strengths_for_other_members_are_refused(kind, members):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: strength has 3 values, but"):
        Trainer(MLP([D, C], members=members), penalties=[kind(STRENGTHS)])
