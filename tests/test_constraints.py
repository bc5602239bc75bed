"""Constraints: what they hold in bounds, and their place in a training."""

import numpy as np
import pytest

from mlpkit import (
    L2,
    MLP,
    SGD,
    ClipNorm,
    ClipValue,
    Constraint,
    MaxNorm,
    Trainer,
    get_backend,
    restore_state,
    save_state,
)

N, D, H, C, K = 8, 5, 4, 3, 3
WEIGHTS = ("0.weight", "2.weight")  # "1.weight" is a vector, of the LayerNorm
KINDS = [ClipValue, ClipNorm, MaxNorm]
MEMBERS = pytest.mark.parametrize("members", [None, K])
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def network(backend, dtype, draw, members=None):
    """Drawn parameters and gradients: of weights, and of vectors, the biases and a norm's."""
    net = MLP([D, H, C], "tanh", norm="layer", members=members, backend=backend, dtype=dtype)
    for flat in (net.params, net.grads):
        flat[...] = net.backend.asarray(draw(*flat.shape), net.dtype)
    return net


def host(net):
    """The parameters and the gradients, flat."""
    return net.backend.to_numpy(net.params), net.backend.to_numpy(net.grads)


def limits(members, *of_members):
    """The limit of one network, or those of K, and the same to compute with."""
    limit = of_members if members else of_members[0]
    return limit, np.reshape(limit, (-1, 1) if members else ())


# ---- of the gradients ----------------------------------------------------------------------------


@MEMBERS
def test_clip_value_bounds_each_element(backend, dtype, draw, members):
    net = network(backend, dtype, draw, members)
    limit, bound = limits(members, 0.5, 0.125, 1e9)
    params, grads = host(net)
    ClipValue(limit).on_gradients(net)
    np.testing.assert_array_equal(host(net)[1], np.clip(grads, -bound, bound))
    np.testing.assert_array_equal(host(net)[0], params)
    assert np.any(host(net)[1] != grads)


@MEMBERS
def test_clip_norm_shortens_the_gradient_of_each_member(backend, dtype, draw, members):
    net = network(backend, dtype, draw, members)
    limit, bound = limits(members, 0.5, 1e9, 1e-3)
    params, grads = host(net)
    ClipNorm(limit).on_gradients(net)
    share = np.minimum(1, bound / (np.linalg.norm(grads, axis=-1, keepdims=True) + 1e-6))
    assert share.min() < 0.9
    np.testing.assert_allclose(host(net)[1], grads * share, rtol=TOLERANCE[dtype])
    np.testing.assert_array_equal(host(net)[0], params)


@pytest.mark.parametrize("clip", [ClipNorm(2.0), ClipNorm(0.0), ClipValue(0.0)], ids=str)
def test_a_gradient_of_0_stays_0(backend, dtype, draw, clip):
    net = network(backend, dtype, draw, K)
    net.grads[...] = 0 * net.grads
    clip.on_gradients(net)
    assert np.all(host(net)[1] == 0)


@pytest.mark.torch
@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e3])
def test_clipping_is_that_of_pytorch(draw, limit):
    torch = pytest.importorskip("torch")
    utils = torch.nn.utils
    for clip, same in ((ClipNorm, utils.clip_grad_norm_), (ClipValue, utils.clip_grad_value_)):
        net = network(get_backend("numpy"), "float64", draw)
        params = []
        for g in net.named_gradients().values():
            params.append(torch.zeros(g.shape, dtype=torch.float64))
            params[-1].grad = torch.tensor(g)
        same(params, limit)
        clip(limit).on_gradients(net)
        for param, g in zip(params, net.named_gradients().values(), strict=True):
            np.testing.assert_allclose(g, param.grad.numpy(), rtol=1e-14)


# ---- of the weights ------------------------------------------------------------------------------


@MEMBERS
def test_max_norm_bounds_the_columns_and_leaves_all_else(backend, dtype, draw, members):
    net = network(backend, dtype, draw, members)
    limit, bound = limits(members, 2.0, 1e3, 0.2)
    named = net.named_parameters()
    before = {name: backend.to_numpy(w) for name, w in named.items()}
    grads = host(net)[1]
    MaxNorm(limit).on_parameters(net)
    shortened = []
    for name, w in before.items():
        if name not in WEIGHTS:
            np.testing.assert_array_equal(backend.to_numpy(named[name]), w, err_msg=name)
            continue
        share = bound[..., None] / np.linalg.norm(w, axis=-2, keepdims=True)
        want = w * np.minimum(1, share)
        np.testing.assert_allclose(
            backend.to_numpy(named[name]), want, rtol=TOLERANCE[dtype], err_msg=name
        )
        shortened.append(share.ravel() < 1)
    assert 0 < np.concatenate(shortened).mean() < 1
    np.testing.assert_array_equal(host(net)[1], grads)


def test_max_norm_leaves_shorter_columns_bit_for_bit(backend, dtype, draw):
    net = network(backend, dtype, draw)
    before = host(net)[0]
    for limit in (31 / 3, 20.7, 1e3):
        MaxNorm(limit).on_parameters(net)
        np.testing.assert_array_equal(host(net)[0], before)


@pytest.mark.parametrize("limit", [0.0, 0.4])
def test_columns_of_zeros_stay(backend, dtype, draw, limit):
    net = network(backend, dtype, draw)
    net.params[...] = 0 * net.params
    MaxNorm(limit).on_parameters(net)
    assert np.all(host(net)[0] == 0)


# ---- in a training -------------------------------------------------------------------------------


def test_max_norm_holds_after_each_step(backend, dtype, draw):
    net = network(backend, dtype, draw)
    trainer = Trainer(net, "half_squared_error", SGD(0.5), constraints=[MaxNorm(0.4)])
    for _ in range(3):
        trainer.step(draw(N, D), 10 * draw(N, C))
        for name in WEIGHTS:
            norms = np.linalg.norm(backend.to_numpy(net.named_parameters()[name]), axis=-2)
            assert norms.max() <= 0.4 * (1 + 1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_bound_in_the_order_given_and_after_the_penalties(backend, draw, accumulate):
    x, y = draw(N, D), draw(N, C)

    def gradients(*constraints):
        net = MLP([D, H, C], backend=backend, dtype="float64")
        loss, penalties = "half_squared_error", [L2(2.0)]
        trainer = Trainer(
            net, loss, penalties=penalties, constraints=constraints, accumulate=accumulate
        )
        return backend.to_numpy(trainer.gradients(x, y)), host(net)[1]

    def by_norm(g):
        return g * min(1, 0.5 / (np.linalg.norm(g) + 1e-6))

    def by_value(g):
        return np.clip(g, -0.1, 0.1)

    loss, g = gradients()
    first, second = ClipNorm(0.5), ClipValue(0.1)
    for constraints, want in (
        ([first, second], by_value(by_norm(g))),
        ([second, first], by_norm(by_value(g))),
    ):
        found_loss, found = gradients(*constraints)
        np.testing.assert_array_equal(found_loss, loss)
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-15)
    assert np.abs(by_norm(by_value(g)) - by_value(by_norm(g))).max() > 0.01


def test_a_constraint_of_ones_own_is_called_before_and_after_the_update(draw):
    class Recorder(Constraint):
        def on_gradients(self, network):
            seen.append(host(network))

        def on_parameters(self, network):
            seen.append(host(network))

    seen, net = [], network(get_backend("numpy"), "float64", draw)
    Trainer(net, "huber", SGD(0.1), constraints=[Recorder(1.0)]).step(draw(N, D), draw(N, C))
    (before, grads), (after, _) = seen
    np.testing.assert_allclose(after, before - 0.1 * grads, rtol=1e-14)


def test_a_training_goes_on_with_its_own_constraints_alone(tmp_path, draw):
    x, y, path = draw(N, D), draw(N, C), tmp_path / "state.safetensors"

    def trainer_with(*constraints):
        net = MLP([D, H, C], members=K)
        return Trainer(net, "half_squared_error", SGD(0.1), constraints=constraints)

    own = ClipNorm((0.5, 1.0, 2.0)), MaxNorm(1)
    trainer, again = trainer_with(*own), trainer_with(*own)
    trainer.fit(x, y, epochs=2, batch_size=4)
    save_state(trainer, path)
    restore_state(again, path)
    for one in (trainer, again):
        one.fit(x, y, epochs=3, batch_size=4)
    np.testing.assert_array_equal(again.network.params, trainer.network.params)
    for other in [(), own[:1], own[::-1], (ClipNorm(0.5), MaxNorm(1)), (ClipValue(1), MaxNorm(1))]:
        with pytest.raises(ValueError, match="of a training with another constraints"):
            restore_state(trainer_with(*other), path)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limit", "error"), [(-0.1, ValueError), ((0.1, -1), ValueError), ("0.1", TypeError)]
)
def test_limits_out_of_range_are_refused(kind, limit, error):
    with pytest.raises(error, match=rf"{kind.__name__}: limit.* must .* got"):
        kind(limit)


@pytest.mark.parametrize("constraint", ["clip", ClipNorm, 0.1, L2(0.1)])
def test_what_is_no_constraint_is_refused(constraint):
    with pytest.raises(TypeError, match="expected a Constraint such as"):
        Trainer(MLP([D, C]), constraints=[constraint])


def test_constraints_are_a_list():
    with pytest.raises(TypeError, match="constraints is a list such as"):
        Trainer(MLP([D, C]), constraints=ClipNorm(1.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [None, 2])
def test_limits_for_other_members_are_refused(kind, members):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: limit has 3 values, but"):
        Trainer(MLP([D, C], members=members), constraints=[kind((0.1, 0.2, 0.3))])
