"""L-BFGS goes down to the minimum, and says where it cannot work."""

import numpy as np
import pytest

from mlpkit import (
    LBFGS,
    MLP,
    Adam,
    ClipNorm,
    Dense,
    Dropout,
    MaxNorm,
    Network,
    Residual,
    Trainer,
    restore_state,
    save_state,
)
from mlpkit.optimizers.lbfgs import TRIALS

D, C = 4, 3


def linear(backend, loss, **settings):
    """A network without hidden layers, so that the loss is convex in its parameters."""
    net = MLP([D, C], dtype="float64", backend=backend, seed=1, **settings)
    return Trainer(net, loss, LBFGS())


def host(trainer):
    return trainer.network.backend.to_numpy(trainer.network.params)


def with_ones(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def test_a_quadratic_ends_at_the_solution_of_its_normal_equations(backend, draw):
    x, y = draw(20, D), draw(20, C)
    trainer = linear(backend, "half_squared_error")
    for _ in range(2):
        trainer.step(x, y)
    solution, *_ = np.linalg.lstsq(with_ones(x), y, rcond=None)  # (D + 1, C): W above b
    np.testing.assert_allclose(host(trainer), solution.ravel(), atol=1e-8)


@pytest.mark.parametrize(
    ("of_x", "of_y", "steps"), [(1, 1e-5, 3), (1e4, 1, 3), (1e-4, 1, 20), (1, 1e5, 3)]
)
def test_least_squares_of_any_scale_end_at_the_solution(draw, of_x, of_y, steps):
    x, y = of_x * draw(20, D), of_y * draw(20, C)
    trainer = linear("numpy", "half_squared_error")
    for _ in range(steps):
        trainer.step(x, y)
    solution, *_ = np.linalg.lstsq(with_ones(x), y, rcond=None)
    found = host(trainer).reshape(D + 1, C)
    for part in (slice(D), slice(D, None)):  # W and b, which differ in size
        scale = np.abs(solution[part]).max()
        np.testing.assert_allclose(found[part], solution[part], rtol=0, atol=1e-6 * scale)


def test_at_the_minimum_the_loss_stays_and_few_points_are_tried(backend, draw, monkeypatch):
    x, y = draw(20, D), draw(20, C)
    trainer = linear(backend, "half_squared_error", members=2)
    *_, least = (backend.to_numpy(trainer.step(x, y)) for _ in range(4))
    net, passes = trainer.network, []
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    for _ in range(5):
        np.testing.assert_allclose(backend.to_numpy(trainer.step(x, y)), least, rtol=1e-14)
    assert len(passes) < 5 * 2 * LBFGS().max_iter


def test_where_the_trials_run_out_the_longest_way_down_is_gone(backend):
    """The member far away doubles its step until the end; the other one arrives at once."""
    net = MLP([1, 1], init=0.0, members=2, backend=backend, dtype="float64")
    trainer = Trainer(net, "mean_absolute_error", LBFGS(max_iter=1))
    targets = np.array([1e12, 1.0]).reshape(2, 1, 1)
    trainer.step(np.zeros((2, 1, 1)), targets)
    np.testing.assert_array_equal(host(trainer), [[0, 2.0 ** (TRIALS - 1)], [0, 1]])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_points_that_are_tried_leave_no_trace(backend, draw, accumulate):
    """The statistics and the count of passes are those of the first pass alone."""
    x, y, loss = draw(12, D), draw(12, C), "mean_squared_error"
    net, plain = (
        MLP([D, 6, C], "tanh", norm="batch", members=2, backend=backend, dtype="float64")
        for _ in range(2)
    )
    trainer = Trainer(net, loss, LBFGS(max_iter=4), accumulate=accumulate)
    once = Trainer(plain, loss, accumulate=accumulate)
    for step in range(1, 4):
        plain.params[...] = net.params
        once.gradients(x, y)
        trainer.step(x, y)
        np.testing.assert_array_equal(*map(backend.to_numpy, (net.buffers, plain.buffers)))
        assert int(net.passes) == int(plain.passes) == step * accumulate


def test_logistic_regression_ends_where_newtons_method_does(backend, draw):
    x, labels = draw(40, D), draw(40, below=C)
    trainer = linear(backend, "softmax_cross_entropy")
    for _ in range(3):
        trainer.step(x, labels)

    ones, hot, theta = with_ones(x), np.eye(C)[labels], np.zeros((D + 1, C))
    for _ in range(12):
        exps = np.exp(ones @ theta)
        p = exps / exps.sum(axis=1, keepdims=True)
        gradient = ones.T @ (p - hot)
        outer = p[:, :, None] * np.eye(C) - p[:, :, None] * p[:, None, :]
        hessian = np.einsum("nd,ncb,ne->dceb", ones, outer, ones).reshape(theta.size, -1)
        # Singular, for a number added to all scores changes nothing.
        theta -= (np.linalg.pinv(hessian) @ gradient.ravel()).reshape(theta.shape)
    log_p = np.log(p[np.arange(40), labels])
    assert trainer.evaluate(x, labels)["loss"] == pytest.approx(-log_p.mean(), rel=1e-12)
    own = host(trainer).reshape(D + 1, C)
    centered = [w - w.mean(axis=1, keepdims=True) for w in (own, theta)]
    np.testing.assert_allclose(*centered, atol=1e-7)


@pytest.mark.parametrize("rule", [LBFGS(max_iter=1), LBFGS(5.0, history=2, max_iter=3)])
def test_no_step_of_a_search_goes_up(backend, dtype, draw, rule):
    x, y = draw(12, D), draw(12, 1)
    net = MLP([D, 5, 1], "tanh", backend=backend, dtype=dtype, members=3)
    trainer = Trainer(net, "mean_squared_error", rule)
    losses = np.stack([net.backend.to_numpy(trainer.step(x, y)) for _ in range(10)])
    assert np.all(np.diff(losses, axis=0) <= 0)
    assert np.all(losses[-1] < 0.5 * losses[0])


def test_a_member_that_cannot_improve_stays_while_the_others_go_on(backend, draw):
    x, y = draw(20, D), draw(20, C)
    trainer = linear(backend, "half_squared_error", members=2)
    solution = np.linalg.lstsq(with_ones(x), y, rcond=None)[0].ravel()
    params = trainer.network.params
    params[0, ...] = trainer.network.backend.asarray(solution)
    before = host(trainer)
    trainer.step(x, y)
    np.testing.assert_allclose(host(trainer)[0], solution, rtol=0, atol=1e-14)
    assert np.abs(host(trainer)[1] - before[1]).max() > 0.1


def test_a_member_whose_loss_is_not_finite_holds_up_no_other(draw):
    x, y = draw(20, D), draw(20, C)
    trainer = linear("numpy", "half_squared_error", members=2)
    trainer.network.params[0, 0] = np.nan
    trainer.step(x, y)
    solution, *_ = np.linalg.lstsq(with_ones(x), y, rcond=None)
    np.testing.assert_allclose(host(trainer)[1], solution.ravel(), atol=1e-4)


@pytest.mark.parametrize("layer", [Dropout(0.1), Residual((Dense(D, D), Dropout(0.1)))], ids=str)
def test_dropout_is_refused(layer):
    with pytest.raises(ValueError, match="LBFGS compares losses: it needs a network without"):
        Trainer(Network([layer, Dense(D, C)]), optimizer=LBFGS())


@pytest.mark.parametrize("constraint", [ClipNorm(1.0), MaxNorm(1.0)])
def test_constraints_are_refused(constraint):
    with pytest.raises(ValueError, match=rf"LBFGS goes down .*{type(constraint).__name__}"):
        Trainer(MLP([D, C]), optimizer=LBFGS(), constraints=[constraint])


def test_mini_batches_are_refused(draw):
    trainer = linear("numpy", "mean_squared_error")
    x, y = draw(20, D), draw(20, C)
    with pytest.raises(ValueError, match="LBFGS needs all 20 samples in every step"):
        trainer.fit(x, y, 1, batch_size=19)
    with pytest.raises(ValueError, match="LBFGS needs all 20 samples in every step"):
        trainer.fit(x, y, 1, batch_size=None, sampling=np.ones(20))
    with pytest.raises(ValueError, match="LBFGS needs all data in one batch"):
        trainer.fit([(x, y)], epochs=1)
    history = trainer.fit(x, y, 3, batch_size=None)
    assert history["loss"][2] < history["loss"][0]


def test_a_step_without_a_way_to_evaluate_is_refused(draw):
    trainer = linear("numpy", "mean_squared_error")
    loss = trainer.gradients(draw(20, D), draw(20, C))
    before = host(trainer)
    with pytest.raises(ValueError, match=r"works in Trainer\.step alone"):
        trainer.optimizer.step(loss)
    np.testing.assert_array_equal(host(trainer), before)
    assert int(trainer.optimizer.count) == 0


@pytest.mark.parametrize("setting", ["history", "max_iter"])
def test_counts_are_checked(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        LBFGS(**{setting: 0})
    with pytest.raises(TypeError, match=f"{setting} must be an integer"):
        LBFGS(**{setting: 2.5})


@pytest.mark.parametrize("line_search", [True, False])
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, draw, line_search):
    x, y = draw(12, D), draw(12, 1)

    def trainer():
        net = MLP([D, 5, 1], "tanh", members=2)
        rule = LBFGS((1.0, 0.1), history=3, max_iter=2, line_search=line_search)
        return Trainer(net, "mean_squared_error", rule)

    whole, first, resumed = trainer(), trainer(), trainer()
    whole.fit(x, y, 8, batch_size=None)
    first.fit(x, y, 3, batch_size=None)
    save_state(first, tmp_path / "state")
    restore_state(resumed, tmp_path / "state")
    resumed.fit(x, y, 8, batch_size=None)
    np.testing.assert_array_equal(host(resumed), host(whole))
    assert resumed.history["loss"] == whole.history["loss"]

    other = Trainer(MLP([D, 5, 1], "tanh", members=2), "mean_squared_error", Adam())
    with pytest.raises(ValueError, match="another optimizer"):
        restore_state(other, tmp_path / "state")
