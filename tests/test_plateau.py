"""The learning rate where a figure has stopped improving."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mlpkit
from mlpkit import schedules
from mlpkit.plateau import ReduceOnPlateau


class Scripted(mlpkit.Callback):
    """Puts figures of the test's choice into the rows, for the callbacks after it."""

    def __init__(self, values, column="val_loss"):
        self.values, self.column = values, column

    def on_fit_begin(self, trainer):
        trainer.columns.append(self.column)

    def on_epoch_end(self, trainer, row):
        row[self.column] = self.values[row["epoch"] - 1]


def trainer_of(lr=0.1, backend="numpy", members=None):
    network = mlpkit.MLP([2, 2], members=members, backend=backend)
    return mlpkit.Trainer(network, optimizer=mlpkit.SGD(lr, momentum=0.5))


def fit(trainer, callbacks, epochs):
    """One step an epoch; the rate of each, (epochs,) or (epochs, K)."""
    x, y = np.array([[0.5, -1.0], [2.0, 0.25]]), np.array([0, 1])
    history = trainer.fit(x, y, epochs, callbacks=callbacks)
    return np.squeeze(np.array(history["lr"]))


def rates(values, column="val_loss", trainer=None, **options):
    """The rates of a training whose epochs give these figures."""
    callbacks = [Scripted(values, column), ReduceOnPlateau(column, **options)]
    return fit(trainer or trainer_of(), callbacks, len(values))


def wandering(draw, *shape):
    """Figures that improve by fits and starts, with some that are not a number."""
    values = 1 + 1 / (1 + np.arange(shape[0]) / 40).reshape(-1, *[1] * (len(shape) - 1))
    values = values + 0.05 * draw(*shape)
    return np.where(draw(*shape, below=30) == 0, np.nan, values)


# Figures of eight epochs, and how often the rate has been halved before each.
COURSES = [
    pytest.param([1, 2, 2, 2, 2, 2, 2, 2], {}, [0, 0, 0, 0, 1, 1, 1, 2], id="patience borne"),
    pytest.param([3, 4, 4, 2, 4, 4, 1, 4], {}, [0] * 8, id="improvements start the count anew"),
    pytest.param([1, 1, 1, 1, 0, 0, 0, 0], {}, [0, 0, 0, 0, 1, 1, 1, 1], id="an equal one is none"),
    pytest.param([math.nan] * 8, {}, [0, 0, 0, 1, 1, 1, 2, 2], id="nan is none"),
    pytest.param([8, 7, 6, 5, 5, 3, 3, 3], {"threshold": 0.5}, [0, 0, 0, 0, 1, 1, 1, 1],
                 id="a small one is none"),
    pytest.param([1, 2, 3, 4, 5, 6, 7, 8], {"mode": "max"}, [0] * 8, id="max"),
    pytest.param([1] * 8, {"patience": 0}, range(-1, 7), id="no patience"),
    pytest.param([1] * 8, {"patience": 0, "cooldown": 2}, [0, 0, 1, 1, 1, 2, 2, 2], id="cooldown"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "options", "halved"), COURSES)
def test_when_the_rate_is_reduced(backend, values, options, halved):
    found = rates(
        values, trainer=trainer_of(0.5, backend), **{"factor": 0.5, "patience": 2} | options
    )
    assert found.tolist() == [0.5 * 0.5 ** max(times, 0) for times in halved]


def test_an_accuracy_is_better_where_it_is_higher():
    found = rates([0.1, 0.2, 0.3, 0.3, 0.3], "val_accuracy", patience=0)
    assert_allclose(found, [0.1, 0.1, 0.1, 0.1, 0.01], rtol=1e-15)


def test_the_rate_is_not_reduced_below_the_least():
    found = rates([1] * 5, factor=0.5, patience=0, min_lr=0.03)
    assert_allclose(found, [0.1, 0.1, 0.05, 0.03, 0.03], rtol=1e-15)
    assert_array_equal(rates([1] * 4, patience=0, min_lr=0.2), [0.1] * 4)


def test_it_comes_on_top_of_a_schedule():
    found = rates([1] * 5, trainer=trainer_of(schedules.step(0.8, 2, 0.5)), factor=0.1, patience=1)
    assert_allclose(found, [0.8, 0.8, 0.4, 0.04, 0.02], rtol=1e-15)


def test_a_rate_of_zero_stays_as_it_is():
    trainer = trainer_of(schedules.linear(0.8, steps=1))
    assert rates([1] * 4, trainer=trainer, patience=0).tolist() == [0.8, 0, 0, 0]


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 3, "factor": 0.7, "cooldown": 4},
        {"patience": 2, "factor": 0.5, "min_lr": 3e-3},
        {"patience": 4, "factor": 0.6, "threshold": 0.03},
        {"patience": 1, "factor": 0.9, "cooldown": 1, "mode": "max"},
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_whole_course_is_that_of_pytorch(draw, options, sign):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    values = sign * wandering(draw, 400)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0.0, **options)
    wanted = []
    for value in values:
        wanted.append(optimizer.param_groups[0]["lr"])
        plateau.step(value)
    assert_allclose(rates(values, **options), wanted, rtol=1e-12)
    assert wanted[-1] < wanted[0]


def test_each_member_has_a_rate_of_its_own(backend, draw):
    values, lr = wandering(draw, 60, 3), [0.1, 0.2, 0.05]
    options = {"patience": 2, "factor": 0.5, "cooldown": 1, "min_lr": 0.02}
    together = rates(values.tolist(), trainer=trainer_of(lr, backend, 3), **options)
    for k in range(3):
        alone = rates(values[:, k], trainer=trainer_of(lr[k], backend), **options)
        assert_array_equal(together[:, k], alone)
    assert len({tuple(course) for course in (together / together[0]).T}) == 3


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("epoch", [0, 1, 7, 20])
def test_a_resumed_training_is_exact(tmp_path, draw, members, epoch):
    values = wandering(draw, 30, members or 1).squeeze().tolist()

    def callbacks():
        plateau = ReduceOnPlateau(patience=1, factor=0.5, cooldown=2)
        return [Scripted(values), plateau, mlpkit.Checkpoint(tmp_path / f"{epoch}")]

    class Interruption(mlpkit.Callback):
        def on_epoch_end(self, trainer, row):
            trainer.stop = trainer.epoch == epoch

    whole, resumed = trainer_of(members=members), trainer_of(members=members)
    wanted = fit(whole, callbacks(), 30)
    first = trainer_of(members=members)
    if epoch:
        fit(first, [*callbacks(), Interruption()], 30)
    else:
        mlpkit.save_state(first, tmp_path / "0")
    mlpkit.restore_state(resumed, tmp_path / f"{epoch}")
    resumed.stop = False
    assert_array_equal(fit(resumed, callbacks(), 30), wanted)
    assert_array_equal(resumed.network.params, whole.network.params)
    assert wanted.max() > 4 * wanted.min()


def test_a_second_fit_counts_anew_from_the_rate_that_was_reached():
    trainer, plateau = trainer_of(), ReduceOnPlateau(patience=1, factor=0.5)
    values = [1, 2, 2, 2, 7, 7, 7, 7]
    fit(trainer, [Scripted(values), plateau], 4)
    assert plateau.state()["best"] == 1
    found = fit(trainer, [Scripted(values), plateau], 8)
    assert_allclose(found, [0.1] * 3 + [0.05] * 4 + [0.025], rtol=1e-15)
    assert plateau.state()["best"] == 7


def test_two_figures_may_be_watched():
    trainer, options = trainer_of(), {"patience": 0, "factor": 0.5}
    values, accuracies = [3, 3, 2, 2, 1], [0.5, 0.6, 0.6, 0.6, 0.6]
    callbacks = [
        *(Scripted(values), Scripted(accuracies, "val_accuracy")),
        *(ReduceOnPlateau(**options), ReduceOnPlateau("val_accuracy", **options)),
    ]
    found = fit(trainer, callbacks, 5)
    assert_allclose(found, [0.1, 0.1, 0.05, 0.025, 0.00625], rtol=1e-15)
    assert float(trainer.optimizer.scale) == 1 / 32


BAD = [
    ({"mode": "maximum"}, ValueError, r"mode is 'min' or 'max', got 'maximum'"),
    ({"factor": 1.0}, ValueError, r"factor must lie in \[0, 1\), got 1\.0"),
    ({"factor": [0.1, 0.2]}, TypeError, r"factor must be a number, got \[0\.1, 0\.2\]"),
    ({"patience": -1}, ValueError, "patience must be at least 0, got -1"),
    ({"patience": 1.5}, TypeError, r"patience must be an integer, got 1\.5"),
    ({"cooldown": True}, TypeError, r"cooldown must be an integer, got True"),
    ({"threshold": -0.1}, ValueError, r"threshold must lie in \[0, 1\), got -0\.1"),
    ({"min_lr": math.nan}, ValueError, r"min_lr must lie in \[0, inf\), got nan"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        ReduceOnPlateau(**options)


def test_a_missing_column_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match=r"watches 'val_loss', but an epoch gives .*'loss'.*valid"):
        fit(trainer_of(), [ReduceOnPlateau()], 2)


def test_a_column_of_several_figures_is_refused():
    with pytest.raises(ValueError, match=r"one figure per network, but 'val_loss' .*\(3,\) for 1"):
        rates([[1, 2, 3]])
