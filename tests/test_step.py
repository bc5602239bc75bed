"""A step can be recorded: it reads no array on the host, and bakes in no number that changes."""

import array_api_strict
import numpy as np
import pytest

import mlpkit
from mlpkit.losses import LOSSES, ManyClasses, get_loss
from mlpkit.losses.classification import OneClass
from mlpkit.optimizers import KINDS
from mlpkit.schedules import cosine

Array = type(array_api_strict.zeros(1))
READS = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__dlpack__")
OPERATORS = [
    f"__{prefix}{name}__"
    for name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "and", "or", "xor")
    for prefix in ("", "r", "i")
] + ["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__lshift__", "__rshift__"]

ANNEALED = cosine(1e-3, warmup=0.2, steps=9)
RULES = [
    mlpkit.SGD(cosine(0.1, warmup=0.2, steps=9), momentum=0.9, nesterov=True, weight_decay=1e-4),
    mlpkit.RMSprop(ANNEALED, momentum=0.9, centered=True, weight_decay=1e-4),
    mlpkit.Adagrad(ANNEALED, lr_decay=0.1, weight_decay=1e-4),
    mlpkit.Adam(ANNEALED, weight_decay=1e-4),
    mlpkit.AdamW(ANNEALED),
    mlpkit.NAdam(ANNEALED, weight_decay=1e-4),
    mlpkit.Lion(ANNEALED, weight_decay=0.1),
    mlpkit.Muon(ANNEALED, rest=mlpkit.NAdam(ANNEALED)),
]
WITH_SETTINGS = [
    mlpkit.SoftmaxCrossEntropy(0.1, class_weights=(1, 2, 3)),
    mlpkit.Focal(1.5, alpha=(1, 2, 3)),
    mlpkit.BinaryCrossEntropy((1, 2, 3)),
]
BLOCK = [mlpkit.LayerNorm(5), mlpkit.Dense(5, 5), mlpkit.ReLU(), mlpkit.Dropout(0.2)]
LAYERS = {
    "batch norm": [mlpkit.Dense(6, 5, bias=False), mlpkit.BatchNorm(5), mlpkit.ReLU()],
    "layer norm": [mlpkit.Dense(6, 5), mlpkit.LayerNorm(5), mlpkit.GELU()],
    "residual": [mlpkit.Dense(6, 5), mlpkit.Residual(tuple(BLOCK))],
}
PENALTIES = [mlpkit.L1(0.01), mlpkit.L2(0.1)]
CONSTRAINTS = [mlpkit.ClipValue(0.5), mlpkit.ClipNorm(0.1), mlpkit.MaxNorm(0.5)]

# name: what a training has that another one has not
CASES = (
    {f"loss {name}": {"loss": name} for name in LOSSES}
    | {f"settings of {loss.name}": {"loss": loss} for loss in WITH_SETTINGS}
    | {f"rule {type(rule).__name__}": {"optimizer": rule} for rule in RULES}
    | {name: {"layers": layers} for name, layers in LAYERS.items()}
    | {f"penalty {type(p).__name__}": {"penalties": [p]} for p in PENALTIES}
    | {f"constraint {type(c).__name__}": {"constraints": [c]} for c in CONSTRAINTS}
    | {
        "all of both": {"penalties": PENALTIES, "constraints": CONSTRAINTS},
        "weights": {"weighted": True},
        "accumulate": {"accumulate": 3},
        "accumulate, weights": {"accumulate": 3, "weighted": True},
        "accumulate, class weights": {"accumulate": 3, "loss": WITH_SETTINGS[0]},
        "average": {"average": 0.9, "layers": LAYERS["batch norm"]},
    }
)
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def trainer_and_batch(members, case, backend=array_api_strict):
    """A trainer that has made a step, and the batch of that step."""
    how = {"loss": "softmax_cross_entropy", "optimizer": RULES[0]} | CASES[case]
    layers = how.pop("layers", [mlpkit.Dense(6, 5), mlpkit.ReLU(), mlpkit.Dropout(0.3)])
    weighted, loss = how.pop("weighted", False), get_loss(how["loss"])
    network = mlpkit.Network(
        [*layers, mlpkit.Dense(5, 4), mlpkit.ReLU(), mlpkit.Dense(4, 3)],
        members=members,
        backend=backend,
        multilabel=isinstance(loss, ManyClasses),
    )
    rng = np.random.default_rng(0)
    backend = network.backend
    labels = isinstance(loss, OneClass)
    batch = [
        backend.asarray(rng.random((8, 6)), network.dtype),
        backend.asarray(rng.integers(0, 3, 8) if labels else rng.random((8, 3))),
    ]
    if weighted:
        batch.append(backend.asarray(rng.random(8), network.dtype))
    trainer = mlpkit.Trainer(network, **how)
    trainer.step(*batch)  # constants are uploaded once, by the first step
    return trainer, batch


def test_every_loss_and_every_rule_that_can_be_recorded_is_looked_at():
    assert {type(rule) for rule in RULES} == {rule for rule in KINDS if rule.recordable}
    assert {f"loss {name}" for name in LOSSES} <= set(CASES)


@pytest.mark.parametrize("members", [None, 3])
@EVERY_CASE
def test_a_step_reads_nothing_on_the_host(monkeypatch, members, case):
    trainer, batch = trainer_and_batch(members, case)
    before = np.asarray(trainer.network.params._array).copy()

    def forbidden(*args, **kwargs):
        raise AssertionError("a step read an array on the host")

    with monkeypatch.context() as patch:
        for name in READS:
            if hasattr(Array, name):
                patch.setattr(Array, name, forbidden)
        with pytest.raises(AssertionError, match="read an array"):
            float(batch[0][0, 0])
        trainer.step(*batch)
    assert (np.asarray(trainer.network.params._array) != before).any()


class Recording:
    """A namespace that notes the numbers, of Python or of NumPy, in every call."""

    def __init__(self, xp, note):
        self._xp, self._note = xp, note

    def __getattr__(self, name):
        found = getattr(self._xp, name)
        return self._note(found) if callable(found) and not isinstance(found, type) else found


def recorded_numbers(monkeypatch, trainer, batch):
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
        trainer.step(*batch)
    return numbers


@pytest.mark.parametrize("members", [None, 3])
@EVERY_CASE
def test_no_python_number_changes_from_step_to_step(monkeypatch, members, case):
    trainer, batch = trainer_and_batch(members, case)
    first = recorded_numbers(monkeypatch, trainer, batch)
    second = recorded_numbers(monkeypatch, trainer, batch)
    assert len(first) > 10
    assert first == second


def test_a_number_that_changes_would_be_seen(monkeypatch):
    trainer, batch = trainer_and_batch(None, "rule Adam")
    updates = iter(range(9))

    update = mlpkit.Adam.update

    def uploading(self, on):
        xp = on.network.backend.xp
        update(self, on._replace(step=xp.asarray(float(next(updates)), dtype=xp.float64)))

    monkeypatch.setattr(mlpkit.Adam, "update", uploading)
    first = recorded_numbers(monkeypatch, trainer, batch)
    assert first != recorded_numbers(monkeypatch, trainer, batch)


def test_the_step_count_lives_on_the_device_and_is_not_replaced():
    trainer, batch = trainer_and_batch(None, "rule SGD")
    network, count = trainer.network, trainer.optimizer.count
    params, grads = network.params, network.grads
    trainer.step(*batch)
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
