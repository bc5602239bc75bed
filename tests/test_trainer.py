"""The loop of the training: what it reaches, what it writes down, and when it refuses to go on."""

import copy
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mlpkit
from mlpkit.losses import LOSSES


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
    assert trainer.columns == columns
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
    return trainer, caught


def test_a_member_that_diverges_is_named_once_where_fit_was_called():
    """And NumPy has no warnings of its own to add."""
    _, (warning,) = fit_with_one_diverging()
    assert "members [1] is no longer finite, first in epoch 1 at step" in str(warning.message)
    assert (warning.category, warning.filename) == (RuntimeWarning, __file__)


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


# ---- batch sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "steps"), [(None, 1), (90, 1), (999, 1), (16, 6), (1, 90)])
def test_a_batch_has_so_many_samples(batch_size, steps):
    rows = []

    class Rows(mlpkit.Callback):
        def on_step_end(self, trainer):
            rows.append(trainer.steps_per_epoch)

    trainer = trainer_of()
    trainer.fit(*blobs(), epochs=2, batch_size=batch_size, callbacks=[Rows()])
    assert rows == [steps] * 2 * steps
    assert trainer.steps == 2 * steps


@pytest.mark.parametrize("members", [None, 2])
def test_a_full_batch_is_a_step_along_the_gradient_of_all(backend, members):
    x, y = blobs()
    fitted, by_hand = (trainer_of(members=members, backend=backend) for _ in range(2))
    fitted.fit(x, y, epochs=3, batch_size=None)
    for _ in range(3):
        by_hand.step(x, y)
    assert_array_equal(params(fitted), params(by_hand))


# ---- sample weights and parts of batches ---------------------------------------------------------

NAMES = sorted(LOSSES)
PARTS = [1, 3, 10, 16]


def problem(loss, members=None, n=10):
    """A trainer in float64 and fitting x (N, 4) and targets, the same for all members."""
    rng = np.random.default_rng(12)
    x, binary = rng.standard_normal((n, 4)), "binary" in loss
    if loss in ("softmax_cross_entropy", "focal"):
        targets = rng.integers(0, 3, n)
    else:
        targets = rng.random((n, 3)) if binary else rng.standard_normal((n, 3))

    def trainer(backend="numpy", seed=0, members=members, **options):
        options = {"optimizer": mlpkit.SGD(0.3)} | options
        how = {"multilabel": binary, "dtype": "float64", "seed": seed, "members": members}
        network = mlpkit.MLP([4, 5, 3], activation="tanh", backend=backend, **how)
        return mlpkit.Trainer(network, loss, **options)

    return trainer, x, targets


def host(trainer, array):
    return trainer.network.backend.to_numpy(array)


@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("members", [None, 2])
def test_a_weight_is_how_often_a_sample_is_given(backend, loss, members):
    make, x, targets = problem(loss, members)
    times = np.array([2, 0, 1, 3, 1, 0, 1, 1, 2, 1])
    weighted, repeated = make(backend), make(backend)
    losses = [
        weighted.step(x, targets, times),
        repeated.step(np.repeat(x, times, axis=0), np.repeat(targets, times, axis=0)),
    ]
    assert_allclose(*(host(weighted, loss) for loss in losses), rtol=1e-12)
    assert_allclose(params(weighted), params(repeated), rtol=1e-11, atol=1e-14)
    assert not np.allclose(params(weighted), params(make(backend)), rtol=1e-3)


@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_weights_of_their_own_let_members_train_on_rows_of_their_own(backend, loss, scale):
    make, x, targets = problem(loss)
    masks = np.array([[1, 1, 1, 0, 0, 0, 1, 0, 0, 1], [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]], bool)
    together = make(backend, members=2)
    together.fit(x, targets, 3, None, weights=scale * masks)
    for k, mask in enumerate(masks):
        alone = make(backend, seed=k)
        alone.fit(x[mask], targets[mask], 3, None)
        assert_allclose(params(together)[k], params(alone), rtol=1e-10, atol=1e-13)
        assert_allclose(np.array(together.history["loss"])[:, k], alone.history["loss"], rtol=1e-11)


@pytest.mark.parametrize("weights", [np.arange(90.0), np.stack([np.arange(90.0), np.ones(90)])])
def test_the_loss_of_an_epoch_is_the_weighted_mean_over_its_samples(weights):
    """At a rate of 0 nothing changes; so is that of the validation."""
    x, y = blobs()
    trainer = trainer_of(lr=0.0, members=2, dtype="float64")
    row = trainer.fit(x, y, 1, 40, weights=weights, validation=(x, y, weights)).rows[0]
    scores = trainer.network.predict_scores(x)
    exps = np.exp(scores)
    p = (exps / exps.sum(axis=-1, keepdims=True))[:, np.arange(90), y]
    each = np.broadcast_to(weights, (2, 90))
    expected = [np.average(-np.log(p[k]), weights=each[k]) for k in range(2)]
    assert_allclose(row["loss"], expected, rtol=1e-12)
    assert_allclose(row["val_loss"], expected, rtol=1e-12)
    assert_allclose(trainer.evaluate(x, y, weights)["loss"], expected, rtol=1e-12)


@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("accumulate", PARTS)
def test_a_batch_without_weight_changes_nothing(backend, loss, accumulate):
    make, x, targets = problem(loss, members=2)
    trainer, before = make(backend, accumulate=accumulate), params(make(backend))
    of_first_alone = np.stack([np.ones(10), np.zeros(10)])
    found = host(trainer, trainer.step(x, targets, of_first_alone))
    assert found[1] == 0
    assert np.isfinite(found[0])
    assert_array_equal(params(trainer)[1], before[1])
    assert not np.array_equal(params(trainer)[0], before[0])


def test_batches_without_weight_do_not_count_in_the_epoch():
    x, y = blobs()
    weights = (np.arange(90) % 4 == 0).astype(float)
    trainer = trainer_of(lr=0.0, dtype="float64")
    (row,) = trainer.fit(x, y, 1, 1, weights=weights).rows
    assert_allclose(row["loss"], trainer.evaluate(x[::4], y[::4])["loss"], rtol=1e-12)


@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("weighted", [None, "for all", "for each"])
def test_parts_of_a_batch_make_up_the_whole(backend, loss, members, weighted):
    """Of 10 samples: 4 + 3 + 3, 1 each, and fewer samples than parts."""
    make, x, targets = problem(loss, members)
    weights = np.array([2, 0, 1, 3, 0.5, 0, 0, 0, 0, 1]) if weighted else None
    if weighted == "for each" and members:
        weights = np.stack([weights, np.ones(10)])
    terms = {"penalties": [mlpkit.L2(0.1)], "constraints": [mlpkit.ClipNorm(0.5)]}
    whole = make(backend, **terms)
    expected = host(whole, whole.step(x, targets, weights))
    for accumulate in PARTS:
        trainer = make(backend, **terms, accumulate=accumulate)
        found = host(trainer, trainer.step(x, targets, weights))
        assert_allclose(found, expected, rtol=1e-12)
        assert_allclose(params(trainer), params(whole), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("members", [None, 2])
def test_members_with_data_of_their_own_are_taken_apart_too(members):
    make, x, targets = problem("softmax_cross_entropy", members)
    if members:
        x, targets = np.stack([x, -x]), np.stack([targets, 2 - targets])
    whole, parts = make(), make(accumulate=3)
    for trainer in (whole, parts):
        trainer.fit(x, targets, 2, 7)
    assert_allclose(params(parts), params(whole), rtol=1e-11)


def test_a_last_batch_with_fewer_samples_than_parts_is_trained_on():
    make, x, targets = problem("softmax_cross_entropy")
    whole, parts = make(), make(accumulate=4)
    for trainer in (whole, parts):
        trainer.fit(x, targets, 2, 8)
    assert_allclose(params(parts), params(whole), rtol=1e-11)


def test_parts_too_small_for_a_layer_are_refused_before_the_first_step():
    layers = [mlpkit.Dense(2, 4), mlpkit.BatchNorm(4), mlpkit.Dense(4, 3)]
    trainer = mlpkit.Trainer(mlpkit.Network(layers), accumulate=4)
    with pytest.raises(ValueError, match=r"needs at least 2 in training: 90 samples in batches of"):
        trainer.fit(*blobs(), batch_size=6)
    trainer.fit(*blobs(), epochs=1, batch_size=10)
    assert trainer.epoch == 1


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_batch_read_nothing_on_the_host(monkeypatch, members, weighted):
    strict = pytest.importorskip("array_api_strict")
    make, x, targets = problem("softmax_cross_entropy", members)
    trainer = make(strict, accumulate=3, average=0.9)
    batch = [strict.asarray(array) for array in (x, targets, np.ones(10))[: 2 + weighted]]
    trainer.step(*batch)  # constants are uploaded once
    before = params(trainer)

    def forbidden(*args, **kwargs):
        raise AssertionError("a step read an array on the host")

    reads = ("bool", "float", "int", "index", "complex", "array", "dlpack")
    with monkeypatch.context() as patch:
        for name in reads:
            patch.setattr(type(batch[0]), f"__{name}__", forbidden, raising=False)
        trainer.step(*batch)
    assert not np.array_equal(params(trainer), before)
