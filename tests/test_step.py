"""A step can be recorded: it reads no array on the host, and bakes in no number that changes."""

import array_api_strict
import numpy as np
import pytest

import mlpkit
from mlpkit.schedules import cosine

Array = type(array_api_strict.zeros(1))
READS = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__dlpack__")
OPERATORS = [
    f"__{prefix}{name}__"
    for name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "and", "or", "xor")
    for prefix in ("", "r", "i")
] + ["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__lshift__", "__rshift__"]

RULES = [
    mlpkit.SGD(cosine(0.1, warmup=0.2, steps=9), momentum=0.9, nesterov=True, weight_decay=1e-4),
    mlpkit.Adam(cosine(1e-3, warmup=0.2, steps=9), weight_decay=1e-4),
    mlpkit.AdamW(cosine(1e-3, steps=9)),
]
LOSSES = [
    "softmax_cross_entropy",
    "binary_cross_entropy",
    "mean_squared_error",
    "half_squared_error",
]


def trainer_and_batch(members, rule, loss):
    network = mlpkit.MLP(
        [6, 5, 4, 3],
        dropout=0.3,
        members=members,
        backend=array_api_strict,
        multilabel=loss == "binary_cross_entropy",
    )
    rng = np.random.default_rng(0)
    backend = network.backend
    x = backend.asarray(rng.random((8, 6)), network.dtype)
    labels = loss == "softmax_cross_entropy"
    y = backend.asarray(rng.integers(0, 3, 8) if labels else rng.random((8, 3)))
    trainer = mlpkit.Trainer(network, loss, rule)
    trainer.step(x, y)  # constants are uploaded once, by the first step
    return trainer, x, y


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_reads_nothing_on_the_host(monkeypatch, members, rule, loss):
    trainer, x, y = trainer_and_batch(members, rule, loss)
    before = np.asarray(trainer.network.params._array).copy()

    def forbidden(*args, **kwargs):
        raise AssertionError("a step read an array on the host")

    with monkeypatch.context() as patch:
        for name in READS:
            if hasattr(Array, name):
                patch.setattr(Array, name, forbidden)
        with pytest.raises(AssertionError, match="read an array"):
            float(x[0, 0])
        trainer.step(x, y)
    assert (np.asarray(trainer.network.params._array) != before).any()


class Recording:
    """A namespace that notes the numbers, of Python or of NumPy, in every call."""

    def __init__(self, xp, note):
        self._xp, self._note = xp, note

    def __getattr__(self, name):
        found = getattr(self._xp, name)
        return self._note(found) if callable(found) and not isinstance(found, type) else found


def recorded_numbers(monkeypatch, trainer, x, y):
    """All numbers of the host that get into one step, by an operator or a function, in order."""
    numbers = []

    def note(function):
        def call(*args, **kwargs):
            given = [*args, *kwargs.values()]
            flat = [e for a in given for e in (a if isinstance(a, list | tuple) else [a])]
            hosts = [e for e in flat if isinstance(e, int | float | np.generic | np.ndarray)]
            numbers.extend((function.__name__, str(e)) for e in hosts)
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in [*OPERATORS, "__setitem__"]:
            if hasattr(Array, name):
                patch.setattr(Array, name, note(getattr(Array, name)))
        backend = trainer.network.backend
        patch.setattr(backend, "xp", Recording(backend.xp, note))
        trainer.step(x, y)
    return numbers


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_python_number_changes_from_step_to_step(monkeypatch, members, rule, loss):
    trainer, x, y = trainer_and_batch(members, rule, loss)
    first = recorded_numbers(monkeypatch, trainer, x, y)
    second = recorded_numbers(monkeypatch, trainer, x, y)
    assert len(first) > 10
    assert first == second


def test_a_number_that_changes_would_be_seen(monkeypatch):
    trainer, x, y = trainer_and_batch(None, RULES[1], "softmax_cross_entropy")
    updates = iter(range(9))

    update = mlpkit.Adam.update

    def uploading(self, on):
        xp = on.network.backend.xp
        update(self, on._replace(step=xp.asarray(float(next(updates)), dtype=xp.float64)))

    monkeypatch.setattr(mlpkit.Adam, "update", uploading)
    first = recorded_numbers(monkeypatch, trainer, x, y)
    assert first != recorded_numbers(monkeypatch, trainer, x, y)


def test_the_step_count_lives_on_the_device_and_is_not_replaced():
    trainer, x, y = trainer_and_batch(None, RULES[0], "softmax_cross_entropy")
    network, count = trainer.network, trainer.optimizer.count
    params, grads = network.params, network.grads
    trainer.step(x, y)
    assert trainer.optimizer.count is count
    assert int(count) == 2
    assert network.params is params
    assert network.grads is grads


def test_the_first_layer_computes_no_dx(monkeypatch):
    network = mlpkit.MLP([6, 5, 4])
    trainer = mlpkit.Trainer(network)
    products = []
    matmul = type(network.backend).matmul

    def counting(self, a, b, transpose_a=False, transpose_b=False, out=None):
        products.append((transpose_a, transpose_b))
        return matmul(self, a, b, transpose_a, transpose_b, out)

    monkeypatch.setattr(type(network.backend), "matmul", counting)
    trainer.step(np.ones((3, 6)), [0, 1, 2])
    assert products.count((False, False)) == 2  # forward
    assert products.count((True, False)) == 2  # dW
    assert products.count((False, True)) == 1  # dx, of the second layer alone


def test_dx_is_there_when_it_is_asked_for(backend, draw):
    network = mlpkit.MLP([6, 5, 4], backend=backend, dtype="float64")
    scores, backward = network.forward(draw(3, 6))
    assert backward(backend.xp.ones_like(scores)) is None
    assert backward(backend.xp.ones_like(scores), need_dx=True).shape == (3, 6)
