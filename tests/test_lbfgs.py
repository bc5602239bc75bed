"""L-BFGS goes down to the minimum, and says where it cannot work."""

import numpy as np
import pytest

from mlpkit import LBFGS, MLP, Adam, Trainer, restore_state, save_state

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


def test_dropout_has_one_mask_a_step_and_another_in_the_next(draw):
    net = MLP([D, 8, 1], dropout=0.5, dtype="float64")
    trainer = Trainer(net, "mean_squared_error", LBFGS(max_iter=3))
    x, y = draw(12, D), draw(12, 1)
    for step in range(3):
        trainer.step(x, y)
        assert int(net.passes) == step + 1


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
    assert sorted(history["loss"], reverse=True) == history["loss"]


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
