"""Muon: what its steps are made of, its memory, and what it refuses."""

import numpy as np
import pytest

from mlpkit import MLP, SGD, Adam, AdamW, Lion, Muon, NAdam, Trainer, restore_state, save_state
from mlpkit.optimizers.muon import orthogonalize
from mlpkit.schedules import exponential


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 7), (7, 1), (3, 5, 8), (3, 8, 5)])
def test_singular_values_come_close_to_1(backend, dtype, draw, shape):
    matrix = draw(*shape)
    own = backend.asarray(1e3 * matrix, getattr(backend.xp, dtype))
    result = backend.to_numpy(orthogonalize(backend, own, 5)).astype(np.float64)
    U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
    # The published coefficients bring what is not too small into [0.68, 1.13].
    share = S / np.sqrt((S * S).sum(axis=-1, keepdims=True))
    values = np.linalg.svd(result, compute_uv=False)
    assert values.max() < 1.21
    assert values[share > 0.02].min() > 0.67
    # The singular vectors stay: U^T result V is diagonal.
    core = np.swapaxes(U, -1, -2) @ result @ np.swapaxes(Vt, -1, -2)
    diagonal = np.diagonal(core, axis1=-2, axis2=-1)
    tolerance = 1e-3 if dtype == "float32" else 1e-12
    assert np.abs(core - diagonal[..., None] * np.eye(core.shape[-1])).max() < tolerance


def test_each_singular_value_passes_the_published_polynomial(draw):
    S = np.array([0.9, 0.3, 0.1, 1e-3])
    U, V = (np.linalg.qr(draw(4, 4))[0] for _ in range(2))
    expected = S / np.sqrt((S * S).sum())
    for _ in range(3):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    backend = MLP([1, 1]).backend
    np.testing.assert_allclose(
        orthogonalize(backend, U @ np.diag(S) @ V.T, 3), U @ np.diag(expected) @ V.T, atol=1e-12
    )


def test_a_matrix_of_zeros_stays_zero(backend, dtype):
    zeros = backend.xp.zeros((2, 3, 4), dtype=getattr(backend.xp, dtype))
    np.testing.assert_array_equal(backend.to_numpy(orthogonalize(backend, zeros, 5)), 0)


@pytest.mark.parametrize("rest", [Adam(0.05), AdamW(0.05), NAdam(0.05)])
def test_biases_and_norms_follow_the_other_rule_alone(draw, rest):
    """With gradients given, so that the weights have no part in the biases' steps."""
    nets = [MLP([4, 5, 3], norm="layer", dtype="float64") for _ in range(2)]
    trainers = [Trainer(nets[0], optimizer=Muon(0.1, rest=rest)), Trainer(nets[1], optimizer=rest)]
    for grads in draw(3, nets[0].n_parameters):
        for net, trainer in zip(nets, trainers, strict=True):
            net.grads[...] = grads
            trainer.optimizer.step()
    for name, value in nets[0].named_parameters().items():
        same = np.array_equal(value, nets[1].named_parameters()[name])
        assert same is (value.ndim == 1), name


def test_the_schedules_of_weights_and_biases_are_their_own(draw):
    rule = Muon(exponential(0.1, 0.5), 0.0, weight_decay=0.0, rest=AdamW(0.01, weight_decay=0.0))
    net = MLP([4, 3], dtype="float64")
    state, grads = Trainer(net, optimizer=rule).optimizer, draw(net.n_parameters)
    state.begin_run(4)
    moves = []
    for _ in range(4):
        before = net.params.copy()
        net.grads[...] = grads
        state.step()
        moves.append(np.abs(net.params - before))
    assert np.all(np.diff([move[:12].max() for move in moves]) < 0)
    np.testing.assert_allclose([move[12:] for move in moves], 0.01, rtol=1e-6)


def test_a_restored_training_goes_on_bit_for_bit(tmp_path, draw):
    x, labels = draw(30, 4), draw(30, below=3)

    def trainer():
        rule = Muon((0.02, 0.05), rest=NAdam(0.01, momentum_decay=(0.0, 0.1)))
        return Trainer(MLP([4, 6, 3], members=2, dropout=0.2), optimizer=rule)

    whole, first, resumed = trainer(), trainer(), trainer()
    whole.fit(x, labels, 5, batch_size=8)
    first.fit(x, labels, 2, batch_size=8)
    save_state(first, tmp_path / "state")
    restore_state(resumed, tmp_path / "state")
    assert sorted(resumed.optimizer.memory) == ["mean", "momentum", "mu_product", "square"]
    resumed.fit(x, labels, 5, batch_size=8)
    np.testing.assert_array_equal(resumed.network.params, whole.network.params)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, r"momentum must lie in \[0, 1\)"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must lie in"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"rest": SGD(0.1)}, TypeError, "rest is Adam, AdamW or NAdam, got SGD"),
        ({"rest": Lion()}, TypeError, "rest is Adam, AdamW or NAdam, got Lion"),
        ({"lr": "fast"}, TypeError, "lr must be a number"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Muon(**settings)


@pytest.mark.parametrize("rule", [Muon(momentum=(0.9, 0.8)), Muon(rest=AdamW((0.1, 0.2)))])
def test_settings_per_member_need_as_many_members(rule):
    with pytest.raises(ValueError, match=r"Muon: .* has 2 values, but the network has 3 members"):
        Trainer(MLP([4, 3], members=3), optimizer=rule)
