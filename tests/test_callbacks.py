"""What happens beside the training: the moments, stopping early, the log, the progress."""

import io
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import mlpkit
from mlpkit import progress


class Recorder(mlpkit.Callback):
    """Writes down its moments, and what the trainer says at each."""

    def __init__(self, moments, name=""):
        self.moments, self.name = moments, name

    def restore(self, state):
        self.moments.append(self.name + "restore")

    def on_fit_begin(self, trainer):
        self.moments.append(self.name + "fit begin")

    def on_step_end(self, trainer):
        self.moments.append(self.name + "step")

    def on_epoch_end(self, trainer, row):
        assert row is trainer.history.rows[-1]
        assert row["epoch"] == trainer.epoch
        self.moments.append(f"{self.name}epoch {row['epoch']}")

    def on_fit_end(self, trainer):
        self.moments.append(self.name + "fit end")

    def close(self):
        self.moments.append(self.name + "close")


class Scripted(mlpkit.Callback):
    """Puts figures of the test's choice into the rows, for the callbacks after it."""

    def __init__(self, values, column="val_loss"):
        self.values, self.column = values, column

    def on_fit_begin(self, trainer):
        trainer.columns.append(self.column)

    def on_epoch_end(self, trainer, row):
        row[self.column] = self.values[row["epoch"] - 1]


class Snapshots(mlpkit.Callback):
    """The parameters after each epoch."""

    def __init__(self):
        self.params = []

    def on_epoch_end(self, trainer, row):
        self.params.append(host(trainer))


def host(trainer):
    return trainer.network.backend.to_numpy(trainer.network.params)


def fit(callbacks, epochs=3, trainer=None, members=None, **data):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 4)), rng.integers(0, 3, 20)
    if trainer is None:
        trainer = mlpkit.Trainer(mlpkit.MLP([4, 6, 3], members=members))
    trainer.fit(x, y, epochs=epochs, batch_size=10, callbacks=callbacks, **data)
    return trainer


def test_the_moments_come_in_order():
    moments = []
    fit([Recorder(moments, "a "), Recorder(moments, "b ")], epochs=2)
    epoch = ["a step", "b step"] * 2
    assert moments == [
        *("a fit begin", "b fit begin"),
        *(*epoch, "a epoch 1", "b epoch 1"),
        *(*epoch, "a epoch 2", "b epoch 2"),
        *("a fit end", "b fit end", "a close", "b close"),
    ]


class Failing(mlpkit.Callback):
    def on_step_end(self, trainer):
        raise RuntimeError("the cable was pulled")


def test_callbacks_are_closed_where_the_training_fails():
    moments = []
    with pytest.raises(RuntimeError, match="cable"):
        fit([Recorder(moments), Failing()])
    assert moments == ["fit begin", "step", "close"]


def test_setting_stop_ends_the_training_after_the_epoch():
    class StopInTheMiddle(mlpkit.Callback):
        def on_step_end(self, trainer):
            trainer.stop = True

    moments = []
    trainer = fit([StopInTheMiddle(), Recorder(moments)], epochs=5)
    assert moments == ["fit begin", "step", "step", "epoch 1", "fit end", "close"]
    fit([], epochs=2, trainer=trainer)  # a later fit is not stopped by it
    assert trainer.epoch == 2


# Epochs made with patience 2, and the epoch whose weights are kept.
COURSES = [
    pytest.param([3, 2, 1, 5, 5, 0], {}, 5, 3, id="two worse ones in a row"),
    pytest.param([3, 4, 2, 4, 1, 4], {}, 6, 5, id="an improvement starts the count anew"),
    pytest.param([3, 3, 3, 0], {}, 3, 1, id="an equal one is no improvement"),
    pytest.param([3, 2.9, 2.8, 0], {"min_delta": 0.5}, 3, 1, id="min_delta from the best"),
    pytest.param([1, 2, 1, 0, 9], {"mode": "max"}, 4, 2, id="max"),
    pytest.param([1, float("nan"), float("nan"), 0], {}, 3, 1, id="nan is no improvement"),
]


@pytest.mark.parametrize(("values", "options", "made", "best"), COURSES)
def test_early_stopping_counts_and_restores(values, options, made, best):
    twin = Snapshots()
    fit([twin], epochs=len(values))
    stopping = mlpkit.EarlyStopping(patience=2, **options)
    stopped = fit([Scripted(values), stopping], epochs=len(values))
    assert stopped.epoch == made
    assert_array_equal(host(stopped), twin.params[best - 1])


def test_early_stopping_keeps_the_best_epoch_of_each_member():
    twin = Snapshots()
    fit([twin], epochs=4, members=2)
    values = [[2, 5], [3, 4], [4, 6], [0, 6]]  # member 0 has stopped before its 0 comes
    stopped = fit([Scripted(values), mlpkit.EarlyStopping(patience=2)], epochs=9, members=2)
    assert stopped.epoch == 4
    assert_array_equal(host(stopped), np.stack([twin.params[0][0], twin.params[1][1]]))


def test_early_stopping_takes_a_high_accuracy_for_a_good_one():
    twin = Snapshots()
    fit([twin], epochs=2)
    accuracies = Scripted([0.5, 0.9, 0.6, 0.7, 0.8], "val_accuracy")
    stopped = fit([accuracies, mlpkit.EarlyStopping("val_accuracy", patience=3)], epochs=9)
    assert stopped.epoch == 5
    assert_array_equal(host(stopped), twin.params[1])


def test_early_stopping_used_again_starts_afresh():
    stopping = mlpkit.EarlyStopping(patience=2)
    fit([Scripted([1, 2, 3]), stopping])
    second = fit([Scripted([5, 4, 3]), stopping])
    assert second.epoch == 3
    assert stopping.state()["best"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "maximum"}, r"mode is 'min' or 'max', got 'maximum'"),
        ({"patience": 0}, r"patience must be at least 1, got 0"),
        ({"min_delta": -0.1}, r"min_delta must lie in .*, got -0\.1"),
    ],
)
def test_early_stopping_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        mlpkit.EarlyStopping(**options)


def test_early_stopping_names_the_columns_there_are():
    with pytest.raises(ValueError, match=r"watches 'val_loss', but an epoch gives .*'loss'.*valid"):
        fit([mlpkit.EarlyStopping()])


def logged(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("members", [None, 2])
def test_the_log_is_the_history(tmp_path, members):
    path = tmp_path / "log.jsonl"
    trainer = fit([mlpkit.JSONLinesLog(path)], members=members)
    assert logged(path) == trainer.history.rows


def test_a_resumed_run_rewrites_the_log(tmp_path):
    log, state = tmp_path / "log.jsonl", tmp_path / "state.safetensors"
    first = fit([mlpkit.JSONLinesLog(log), mlpkit.Checkpoint(state)], epochs=2)
    with log.open("a") as file:  # an epoch whose checkpoint was never written, cut in the middle
        file.write('{"epoch": 3, "lo')
    second = mlpkit.Trainer(mlpkit.MLP([4, 6, 3]))
    mlpkit.restore_state(second, state)
    fit([mlpkit.JSONLinesLog(log)], epochs=4, trainer=second)
    assert logged(log) == second.history.rows
    assert logged(log)[:2] == first.history.rows
    assert [row["epoch"] for row in logged(log)] == [1, 2, 3, 4]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_prints_a_plain_line_an_epoch_where_there_is_no_terminal():
    stream = io.StringIO()
    trainer = fit([mlpkit.Progress(stream)], validation=(np.zeros((2, 4)), np.array([0, 1])))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    for line, row in zip(lines, trainer.history.rows, strict=True):
        assert line.startswith(f"epoch {row['epoch']:>3}  loss {row['loss']:.4g}  ")
        assert f"val_loss {row['val_loss']:.4g}" in line
        assert line.endswith("samples/s")
        assert line.isprintable()


def test_progress_shows_the_mean_and_the_range_of_the_members():
    stream = io.StringIO()
    losses = fit([mlpkit.Progress(stream)], epochs=1, members=3).history["loss"][0]
    mean, low, high = np.mean(losses), min(losses), max(losses)
    assert f"loss {mean:.4g} [{low:.4g}, {high:.4g}]" in stream.getvalue()


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ([1.0, np.nan, 3.0, np.inf], "2 [1, 3]"),
        ([np.nan, 0.25], "0.25"),
        ([np.nan, np.nan], "nan [nan, nan]"),
        (np.nan, "nan"),
    ],
)
def test_progress_shows_the_members_that_have_not_diverged(losses, text):
    assert progress.show(losses) == text


@pytest.mark.parametrize(("refresh", "looks"), [(1e9, 0), (-1.0, 6)])
def test_progress_on_a_terminal_reads_the_loss_as_seldom_as_said(monkeypatch, refresh, looks):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REFRESH", refresh)
    stream, shown = Terminal(), []
    bar = mlpkit.Progress(stream)
    bar._looked = progress.time.monotonic()
    show = progress.show

    def recording_show(value):
        if isinstance(value, np.ndarray):  # from the device; the figures of a row are floats
            shown.append(value)
        return show(value)

    monkeypatch.setattr(progress, "show", recording_show)
    trainer = fit([bar])
    assert len(shown) == looks
    text = stream.getvalue()
    assert "\x1b[" in text
    for row in trainer.history.rows:
        assert f"loss {row['loss']:.4g}" in text


def test_progress_gives_the_terminal_back_where_the_training_fails(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(RuntimeError, match="cable"):
        fit([mlpkit.Progress(stream), Failing()])
    hidden, shown = (stream.getvalue().rfind(f"\x1b[?25{end}") for end in "lh")
    assert 0 <= hidden < shown
