"""The loop of the training: what it reaches, what it writes down, and when it refuses to go on."""

import copy
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mlpkit


def blobs(n=90, seed=7):
    """Three clouds in the plane, far apart, with labels in turn."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(0, 0.3, (n, 2)) + np.array([[0, 2], [2, -1], [-2, -1]])[y], y


def regression(n=64):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, 4)), rng.standard_normal((n, 2))


def trainer_of(sizes=(2, 8, 3), lr=0.1, loss="softmax_cross_entropy", seed=0, **network):
    net = mlpkit.MLP(list(sizes), seed=seed, **network)
    metrics = ["accuracy"] if loss == "softmax_cross_entropy" else []
    return mlpkit.Trainer(net, loss, mlpkit.SGD(lr), metrics=metrics)


def params(trainer):
    return trainer.network.backend.to_numpy(trainer.network.params)


@pytest.mark.parametrize("members", [None, 3])
def test_a_separable_problem_is_learnt(backend, dtype, members):
    x, y = blobs()
    net = mlpkit.MLP([2, 8, 3], members=members, backend=backend, dtype=dtype)
    trainer = mlpkit.Trainer(net, optimizer=mlpkit.Adam(0.05), metrics=["accuracy"])
    history = trainer.fit(x, y, epochs=12, batch_size=16)
    assert np.min(trainer.evaluate(x, y)["accuracy"]) > 0.97
    assert np.max(history["loss"][-1]) < np.min(history["loss"][0]) / 3


def test_rows_have_these_columns():
    x, y = blobs()
    trainer = trainer_of(lr=mlpkit.schedules.cosine(0.2))
    history = trainer.fit(x, y, epochs=3, batch_size=32, validation=(x[:9], y[:9]))
    columns = ["epoch", "loss", "lr", "seconds", "samples_per_second", "val_loss", "val_accuracy"]
    assert [list(row) for row in history.rows] == [columns] * 3
    assert history["epoch"] == [1, 2, 3]
    # The rate of the last step of each epoch; 3 steps an epoch, 9 in all.
    assert_allclose(history["lr"], 0.1 * (1 + np.cos(np.pi * np.array([2, 5, 8]) / 9)))
    for row in history.rows:
        assert type(row["loss"]) is float
        assert row["seconds"] > 0
        assert row["samples_per_second"] == pytest.approx(90 / row["seconds"])


def test_validation_columns_are_what_evaluate_gives_after_the_epoch():
    x, y = blobs()
    trainer = trainer_of()
    row = trainer.fit(x[:60], y[:60], epochs=2, validation=(x[60:], y[60:])).rows[-1]
    assert {"loss": row["val_loss"], "accuracy": row["val_accuracy"]} == trainer.evaluate(
        x[60:], y[60:]
    )


@pytest.mark.parametrize("members", [None, 3])
def test_the_loss_of_an_epoch_is_the_mean_over_its_samples(members):
    """At a rate of 0 nothing changes, so the mean over 40 + 40 + 10 samples is the loss of all."""
    x, y = blobs()
    trainer = trainer_of(lr=0.0, members=members, dtype="float64")
    (row,) = trainer.fit(x, y, epochs=1, batch_size=40).rows
    assert_allclose(row["loss"], trainer.evaluate(x, y)["loss"], rtol=1e-12)


def test_members_give_a_list_of_one_number_each():
    x, y = blobs()
    trainer = trainer_of(members=3, lr=(0.1, 0.2, 0.3))
    (row,) = trainer.fit(x, y, epochs=1, validation=(x, y)).rows
    for column in ("loss", "val_loss", "val_accuracy"):
        assert isinstance(row[column], list)
        assert [type(value) for value in row[column]] == [float] * 3
    assert row["lr"] == [0.1, 0.2, 0.3]


def test_data_of_their_own_train_the_members_apart():
    x, y = blobs()
    xs, ys = np.stack([x[:45], x[45:]]), np.stack([y[:45], y[45:]])
    together = trainer_of(members=2, dtype="float64")
    together.fit(xs, ys, epochs=2, batch_size=16)
    for k in range(2):
        alone = trainer_of(dtype="float64", seed=k)
        alone.fit(xs[k], ys[k], epochs=2, batch_size=16)
        assert_allclose(params(together)[k], params(alone), rtol=1e-10)


def test_epochs_count_from_the_first():
    x, y = blobs()
    once, twice = trainer_of(), trainer_of()
    once.fit(x, y, epochs=5, batch_size=16)
    twice.fit(x, y, epochs=2, batch_size=16)
    with pytest.raises(ValueError, match=r"epochs=2, but this trainer has made 2 already"):
        twice.fit(x, y, epochs=2, batch_size=16)
    twice.fit(x, y, epochs=5, batch_size=16)
    assert twice.history["loss"] == once.history["loss"]
    assert_array_equal(params(twice), params(once))


def test_evaluate_is_the_loss_of_the_scores(backend):
    x, y = blobs()
    trainer = trainer_of(backend=backend, dtype="float64")
    scores = backend.to_numpy(trainer.network.predict_scores(x))
    exps = np.exp(scores)
    p = exps / exps.sum(axis=1, keepdims=True)
    figures = trainer.evaluate(x, y)
    assert figures["loss"] == pytest.approx(-np.log(p[np.arange(90), y]).mean(), rel=1e-12)
    assert figures["accuracy"] == (scores.argmax(axis=1) == y).mean()


@pytest.mark.parametrize("members", [None, 2])
def test_evaluate_does_not_depend_on_the_rows_computed_at_once(monkeypatch, members):
    x, y = blobs()
    trainer = trainer_of(members=members, dtype="float64")
    whole = trainer.evaluate(x, y)
    monkeypatch.setattr(mlpkit.network, "ROWS_AT_ONCE", 14)
    parts = trainer.evaluate(x, y)
    assert_allclose(parts["loss"], whole["loss"], rtol=1e-12)
    assert parts["accuracy"] == whole["accuracy"]


def test_dropout_is_off_in_evaluate():
    x, y = blobs()
    trainer = trainer_of(dropout=0.5)
    assert trainer.evaluate(x, y) == trainer_of().evaluate(x, y)


def test_bytes_train_like_floats_divided_by_255(backend):
    images, y = mlpkit.data.digits(60)
    trainers = [trainer_of((784, 8, 10), backend=backend, dtype="float64") for _ in range(2)]
    for trainer, x in zip(trainers, (images, images / 255), strict=True):
        trainer.fit(x, y, epochs=2, batch_size=16, validation=(x, y))
    losses = [[t.history["loss"], t.history["val_loss"]] for t in trainers]
    assert_allclose(losses[0], losses[1], rtol=1e-10)
    assert_allclose(params(trainers[0]), params(trainers[1]), rtol=1e-8, atol=1e-12)


def test_images_stay_bytes_on_the_device(backend, monkeypatch):
    images, y = mlpkit.data.digits(40)
    trainer = trainer_of((784, 4, 10), backend=backend)
    assert trainer.network.place(images).dtype == backend.xp.uint8
    gathered, rows = [], trainer.network.rows

    def recording_rows(x, *args):
        gathered.append(x)
        return rows(x, *args)

    monkeypatch.setattr(trainer.network, "rows", recording_rows)
    trainer.fit(images, y, epochs=1, batch_size=40)
    assert gathered[0].dtype == backend.xp.uint8
    assert tuple(gathered[0].shape) == (40, 784)


def test_a_loss_that_is_not_finite_ends_the_training(backend):
    """One clear error: the warnings of NumPy on the way there are errors in this suite."""
    trainer = trainer_of((4, 8, 2), lr=1e30, loss="mean_squared_error", backend=backend)
    with pytest.raises(FloatingPointError, match=r"finite: (inf|nan) in epoch 1 at step 2 of 4"):
        trainer.fit(*regression(), epochs=3, batch_size=16)


def fit_with_one_diverging():
    """Members 0 and 2 of this training are fine; also the warnings that came out of it."""
    trainer = trainer_of(
        (4, 8, 2), (0.01, 1e30, 0.02), "mean_squared_error", [5, 6, 7], members=3, dtype="float64"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(*regression(), epochs=3, batch_size=16)
    return trainer, [str(warning.message) for warning in caught]


def test_a_member_that_diverges_is_named_once():
    _, messages = fit_with_one_diverging()
    named = [message for message in messages if "member" in message]
    assert len(named) == 1
    assert "members [1] is no longer finite, first in epoch 1 at step" in named[0]


def test_a_member_that_diverges_leaves_no_warning_of_numpy():
    _, messages = fit_with_one_diverging()
    assert [message for message in messages if "member" not in message] == []


def test_the_other_members_go_on_as_if_it_were_not_there():
    trainer, _ = fit_with_one_diverging()
    without = trainer_of(
        (4, 8, 2), (0.01, 0.02), "mean_squared_error", [5, 7], members=2, dtype="float64"
    )
    without.fit(*regression(), epochs=3, batch_size=16)
    assert not np.isfinite(params(trainer)[1]).all()
    assert_allclose(params(trainer)[[0, 2]], params(without), rtol=1e-12)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_losses_on_scores_refuse_a_sigmoid_output(loss):
    with pytest.raises(ValueError, match=rf"{loss} .* passed sigmoid; build it with output='linea"):
        mlpkit.Trainer(mlpkit.MLP([2, 3], output="sigmoid"), loss)


def test_the_history_is_a_sequence_of_rows():
    x, y = blobs()
    history = trainer_of().fit(x, y, epochs=2)
    assert len(history) == 2
    assert [row["epoch"] for row in history] == history["epoch"] == [1, 2]


def test_a_trainer_is_copied_with_what_it_remembers():
    x, y = blobs()
    trainer = trainer_of()
    trainer.fit(x, y, epochs=2, callbacks=[mlpkit.Progress()])
    twin = copy.deepcopy(trainer)
    histories = [each.fit(x, y, epochs=4) for each in (trainer, twin)]
    assert histories[0]["loss"] == histories[1]["loss"]
    assert_array_equal(trainer.network.params, twin.network.params)
