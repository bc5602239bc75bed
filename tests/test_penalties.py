"""Penalties: what they add to a loss and its gradient, and their place in a training."""

import numpy as np
import pytest

from mlpkit import (
    L1,
    L2,
    LBFGS,
    MLP,
    SGD,
    ClipNorm,
    Dense,
    LayerNorm,
    Network,
    Penalty,
    Residual,
    Tanh,
    Trainer,
    check_gradients,
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


class LogPenalty(Penalty):
    """strength sum log(1 + w^2), as a user would write it."""

    def of(self, xp, w):
        return xp.log1p(w * w), 2 * w / (1 + w * w)


# name: the penalty, what an element of a weight counts, and its derivative
PENALTIES = {
    "l1": (L1, np.abs, np.sign),
    "l2": (L2, lambda w: w**2 / 2, lambda w: w),
    "own": (LogPenalty, lambda w: np.log(1 + w**2), lambda w: 2 * w / (1 + w**2)),
}
KINDS = [kind for kind, _, _ in PENALTIES.values()]


@pytest.mark.parametrize("members", [None, K])
@pytest.mark.parametrize(("kind", "value", "slope"), PENALTIES.values(), ids=PENALTIES)
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
@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids=str)
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


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_parts_are_penalized_once(backend, draw, kind):
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


# ---- in a training -------------------------------------------------------------------------------


def test_a_training_goes_on_with_its_own_penalties_alone(tmp_path, draw):
    x, y, path = draw(N, D), draw(N, C), tmp_path / "state.safetensors"

    def trainer_with(*penalties):
        net = MLP([D, H, C], members=K)
        return Trainer(net, "half_squared_error", SGD(0.1), penalties=penalties)

    own = L2(STRENGTHS), L1(1)
    trainer, again = trainer_with(*own), trainer_with(*own)
    trainer.fit(x, y, epochs=2, batch_size=4)
    save_state(trainer, path)
    restore_state(again, path)
    for one in (trainer, again):
        one.fit(x, y, epochs=3, batch_size=4)
    np.testing.assert_array_equal(again.network.params, trainer.network.params)
    for other in [(), own[:1], own[::-1], (L1(STRENGTHS), L1(1)), (L2(0.3), L1(1))]:
        with pytest.raises(ValueError, match="of a training with another penalties"):
            restore_state(trainer_with(*other), path)


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("penalty", ["l2", L2, 0.1, ClipNorm(1.0)])
def test_what_is_no_penalty_is_refused(penalty):
    with pytest.raises(TypeError, match="expected a Penalty such as"):
        Trainer(MLP([D, C]), penalties=[penalty])


def test_penalties_are_a_list():
    with pytest.raises(TypeError, match=r"penalties is a list such as \[mlpkit\.L2\(1e-4\)\], got"):
        Trainer(MLP([D, C]), penalties=L2(0.1))


def test_penalties_that_can_be_read_but_once_are_kept():
    penalties = (L2(strength) for strength in (0.1, 0.2))
    assert Trainer(MLP([D, C]), penalties=penalties).penalties == (L2(0.1), L2(0.2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [None, 2])
def test_strengths_for_other_members_are_refused(kind, members):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: strength has 3 values, but"):
        Trainer(MLP([D, C], members=members), penalties=[kind(STRENGTHS)])
