"""What is better, of a figure that callbacks watch."""

import numpy as np
import pytest

import mlpkit
from mlpkit.metrics import METRICS
from mlpkit.watch import Watch

ROW = {"val_f1": [0.5, 0.75], "val_confusion_matrix": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}


@pytest.mark.parametrize("prefix", ["", "val_", "average_", "val_average_"])
@pytest.mark.parametrize("metric", ["accuracy", "top_3", "precision", "recall", "f1", "r2"])
def test_more_is_better(prefix, metric):
    name = prefix + metric
    assert Watch(name, None).figure({name: 0.75}, None) == [-0.75]
    assert Watch(name, "min").figure({name: 0.75}, None) == [0.75]


@pytest.mark.parametrize("metric", ["loss", "log_loss", "rmse", "mae", "calibration_error"])
def test_less_is_better(metric):
    name = f"val_{metric}"
    assert Watch(name, None).figure({name: 0.75}, 2).tolist() == [0.75, 0.75]
    assert Watch(name, "max").figure({name: 0.75}, None) == [-0.75]


def test_every_metric_but_the_matrix_is_known():
    for name in set(METRICS) - {"confusion_matrix"}:
        Watch(f"val_{name}", None)


@pytest.mark.parametrize("kind", [mlpkit.EarlyStopping, mlpkit.ReduceOnPlateau])
def test_a_metric_of_ones_own_needs_a_mode(kind):
    with pytest.raises(ValueError, match="say what is better for 'val_profit': mode='min' or"):
        kind("val_profit")
    kind("val_profit", mode="max")


@pytest.mark.parametrize("kind", [mlpkit.EarlyStopping, mlpkit.ReduceOnPlateau])
@pytest.mark.parametrize("column", ["val_loss", "val_f1", "accuracy", "average_loss"])
def test_a_column_that_will_not_be_there_is_refused_before_the_first_step(kind, column):
    trainer = mlpkit.Trainer(mlpkit.MLP([4, 3]), metrics=["accuracy"], average=0.9)
    there = r"\['epoch', 'loss', 'lr', .*\]; val_ columns need validation data$"
    with pytest.raises(ValueError, match=f"{kind.__name__} watches '{column}', .* gives {there}"):
        trainer.fit(np.eye(4), [0, 1, 2, 0], callbacks=[kind(column)])
    assert trainer.steps == 0
    data = np.eye(4), [0, 1, 2, 0]
    trainer.fit(*data, validation=data, callbacks=[kind("val_average_accuracy")])


def test_a_figure_is_one_for_each_member():
    assert Watch("val_f1", None).figure(ROW, 2).tolist() == [-0.5, -0.75]
    with pytest.raises(ValueError, match=r"one figure per network, .* the shape \(2, 3\) for 2"):
        Watch("val_confusion_matrix", "max").figure(ROW, 2)
