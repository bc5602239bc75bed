"""Where batches come from: files that stay files, iterables, and samples drawn by weight."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import mlpkit
from mlpkit.batches import ArrayBatches, Batch, sampling_weights

rng = np.random.default_rng(8)
X, Y = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 3, 50)


def trainer_of(members=None, backend="numpy", dtype="float32", n_in=4, lr=0.05, seed=0, **options):
    network = mlpkit.MLP([n_in, 6, 3], members=members, backend=backend, dtype=dtype, dropout=0.2)
    return mlpkit.Trainer(network, optimizer=mlpkit.Adam(lr), seed=seed, **options)


def host(trainer):
    return trainer.network.backend.to_numpy(trainer.network.params)


def assert_same(trainer, other):
    assert_array_equal(host(trainer), host(other))
    for column in ("epoch", "loss", "lr"):
        assert trainer.history[column] == other.history[column]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert [t for t in threading.enumerate() if t.name == "mlpkit prefetch"] == []


def prefetching():
    return any(thread.name == "mlpkit prefetch" for thread in threading.enumerate())


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """A function that puts an array in a file and maps it."""

    def mapped(x):
        np.save(tmp_path / "x.npy", x)
        return np.load(tmp_path / "x.npy", mmap_mode="r")

    return mapped


INPUTS = {
    "float32": X,
    "float64": X.astype(np.float64),
    "uint8": rng.integers(0, 256, X.shape, np.uint8),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_file_trains_like_the_array_in_it(backend, mapped, kind, batch_size):
    from_file, from_array = trainer_of(backend=backend), trainer_of(backend=backend)
    for trainer, x in ((from_file, mapped(INPUTS[kind])), (from_array, INPUTS[kind])):
        trainer.fit(x, Y, 2, batch_size, validation=(x, Y), sampling=np.arange(50))
    assert_same(from_file, from_array)
    assert from_file.history["val_loss"] == from_array.history["val_loss"]


@pytest.mark.parametrize("each", [False, True])
def test_members_read_from_one_file_for_all_or_with_rows_for_each(backend, mapped, each):
    x = np.stack([X, -X, 2 * X]) if each else X
    y = np.stack([Y, (Y + 1) % 3, 2 - Y]) if each else Y
    weights = np.random.default_rng(2).random((3, 50))
    trainers = [trainer_of(3, backend) for _ in range(2)]
    for trainer, given in zip(trainers, (mapped(x), x), strict=True):
        trainer.fit(given, y, 2, 8, weights=weights)
    assert_same(*trainers)


def test_a_file_is_read_batch_by_batch(mapped):
    """Training, validating and evaluating take less memory than the file has bytes."""
    x = mapped(np.ones((60_000, 64), np.float32))  # 15 MB
    y = np.arange(len(x)) % 3
    trainer = trainer_of(n_in=64)
    tracemalloc.start()
    try:
        trainer.fit(x, y, 1, 256, validation=(x, y), max_steps=20)
        trainer.evaluate(x, y)
        trainer.network.predict(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2


@pytest.mark.parametrize("members", [None, 2])
def test_a_value_in_a_file_that_is_not_finite_is_named_by_its_row(mapped, members):
    x = np.stack([X, X]) if members else X.copy()
    x[..., 37, 2] = np.inf
    if members:
        x[0, 37, 2] = 0  # bad for the second alone
    with pytest.raises(ValueError, match=r"^x holds NaN or infinite values, in row 37$") as caught:
        trainer_of(members).fit(mapped(x), Y, 1, 8)
    assert not prefetching(), caught


@pytest.mark.parametrize("members", [None, 2])
def test_a_file_that_is_judged_is_checked_part_by_part(mapped, monkeypatch, members):
    """Nothing of it is in memory at once, and no row past the bad one is in the message."""
    monkeypatch.setattr(mlpkit.intake, "ROWS_AT_ONCE", 16)
    x = np.stack([X, X]) if members else X.copy()
    x[..., 37:, 2] = np.nan
    trainer, bad = trainer_of(members), mapped(x)
    with pytest.raises(ValueError, match=r"^x holds NaN or infinite values, in row 37$"):
        trainer.evaluate(bad, Y)
    with pytest.raises(ValueError, match=r"^validation: x holds NaN .* values, in row 37$"):
        trainer.fit(X, Y, 1, validation=(bad, Y))
    assert trainer.steps == 0


def test_a_file_of_another_kind_is_refused_before_it_is_read(mapped):
    with pytest.raises(TypeError, match="x has dtype int32, expected floating point, or uint8"):
        trainer_of().fit(mapped(X.astype(np.int32)), Y)
    with pytest.raises(ValueError, match=r"x has shape \(50, 3\), this network expects \(N, 4\)"):
        trainer_of().fit(mapped(X[:, :3]), Y)
    with pytest.raises(ValueError, match=r"targets .* \(49,\), expected .*\(50,\)"):
        trainer_of().fit(mapped(X), Y[:49])


def test_a_training_from_a_file_goes_on_in_the_middle_of_an_epoch(mapped):
    whole, cut = trainer_of(), trainer_of()
    whole.fit(X, Y, 2, 8)
    for max_steps in (3, 9):
        cut.fit(mapped(X), Y, 2, 8, max_steps=max_steps)
    cut.fit(mapped(X), Y, 2, 8)
    assert_array_equal(host(cut), host(whole))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_takes_a_mapped_batch(backend, mapped, accumulate):
    trainers = [trainer_of(backend=backend, accumulate=accumulate) for _ in range(2)]
    for trainer, x in zip(trainers, (mapped(X), X), strict=True):
        trainer.step(x, Y)
    assert_array_equal(*map(host, trainers))


# ---- iterables -----------------------------------------------------------------------------------


class Once:
    """Batches without a length, given anew every time."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Sized(Once):
    def __len__(self):
        return len(self.batches)


def batches_of(x, y, *weights, size=20):
    rows = [slice(i, i + size) for i in range(0, len(y), size)]
    return [(x[r], y[r], *(w[..., r] for w in weights)) for r in rows]


@pytest.mark.parametrize("kind", [list, tuple, Sized, Once])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_train_like_the_steps_made_by_hand(backend, kind, weighted):
    more = [np.random.default_rng(3).random((2, 50))] if weighted else []
    batches = batches_of(X, Y, *more)
    by_hand, fitted = (trainer_of(2, backend) for _ in range(2))
    for batch in batches * 2:
        by_hand.step(*batch)
    fitted.fit(kind(batches), epochs=2)
    assert_array_equal(host(fitted), host(by_hand))
    assert (fitted.epoch, fitted.steps) == (2, 6)
    assert fitted.steps_per_epoch == (None if kind is Once else 3)


def test_batches_in_the_order_of_the_arrays_give_the_same_weights(backend):
    """The order is that of `ArrayBatches`, whose batches are put in a list."""
    weights = np.random.default_rng(3).random(50)
    arrays, listed = trainer_of(backend=backend), trainer_of(backend=backend)
    network = arrays.network
    data = arrays._intake.data_set(X, Y, weights)
    batches = list(ArrayBatches(network, data, 8, 0, None).epoch(0, 0))
    rows = [row.tolist() for batch in batches for row in backend.to_numpy(batch.x)]
    assert sorted(rows) == sorted(X.tolist())
    assert rows != X.tolist()
    arrays.fit(X, Y, 1, 8, weights=weights)
    listed.fit(batches, epochs=1)
    assert_same(arrays, listed)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("members", [None, 2])
def test_batches_with_weights_and_without_may_be_mixed(backend, members, order):
    """A batch without weights counts its rows."""
    weights = np.full((members, 20) if members else 20, 0.5)
    batches = [(X[:20], Y[:20], weights), (X[20:50], Y[20:50])][order]
    trainer = trainer_of(members, backend, lr=0.0)
    seen = []

    class Losses(mlpkit.Callback):
        def on_step_end(self, trainer):
            seen.append(backend.to_numpy(trainer.last_loss))

    (row,) = trainer.fit(batches, epochs=1, callbacks=[Losses()]).rows
    expected = np.average(seen, axis=0, weights=[10, 30][order])
    np.testing.assert_allclose(row["loss"], expected, rtol=1e-6)


def test_batches_with_weights_for_all_members_and_for_each_may_be_mixed():
    batches = [(X[:20], Y[:20], np.ones(20)), (X[20:], Y[20:], np.ones((2, 30)))]
    (row,) = trainer_of(2).fit(batches, epochs=1).rows
    assert np.isfinite(row["loss"]).all()


def test_shares_of_a_run_of_unknown_length_are_refused():
    share = mlpkit.Trainer(mlpkit.MLP([4, 3]), optimizer=mlpkit.SGD(mlpkit.schedules.cosine(0.1)))
    with pytest.raises(ValueError, match="a schedule needs its own in steps"):
        share.fit(Once(batches_of(X, Y)), epochs=2)
    assert share.steps == 0


def test_the_length_of_an_earlier_run_is_not_taken_for_that_of_this_one():
    share = mlpkit.Trainer(mlpkit.MLP([4, 3]), optimizer=mlpkit.SGD(mlpkit.schedules.cosine(0.1)))
    share.fit(batches_of(X, Y), epochs=1)
    with pytest.raises(ValueError, match="a schedule needs its own in steps"):
        share.fit(Once(batches_of(X, Y)), epochs=4)


@pytest.mark.parametrize("limit", [{}, {"max_steps": 6}])
def test_schedules_by_steps_work_without_a_length(limit):
    """With max_steps the run has a length, too."""
    schedule = mlpkit.schedules.linear(0.1, steps=None if limit else 6)
    trainer = mlpkit.Trainer(mlpkit.MLP([4, 3]), optimizer=mlpkit.SGD(schedule))
    rates = trainer.fit(Once(batches_of(X, Y)), epochs=2, **limit)["lr"]
    np.testing.assert_allclose(rates, [0.1 * (1 - 2 / 6), 0.1 * (1 - 5 / 6)])


@pytest.mark.parametrize("limit", [{"epochs": 1}, {"epochs": 9, "max_steps": 2}])
def test_batches_that_are_given_once_are_good_for_an_epoch(limit):
    once, listed = trainer_of(), trainer_of()
    once.fit(iter(batches_of(X, Y)), **limit)
    listed.fit(batches_of(X, Y), **limit)
    assert_array_equal(host(once), host(listed))


@pytest.mark.parametrize(("made", "epochs"), [(0, 2), (2, 1), (2, 2), (3, 3)])
def test_batches_that_are_given_once_are_refused_for_more(made, epochs):
    """After that many of the three steps of an epoch."""
    trainer = trainer_of()
    if made:
        trainer.fit(Once(batches_of(X, Y)), epochs=epochs, max_steps=made)
    before = host(trainer).copy()
    with pytest.raises(TypeError, match=r"an iterator gives its batches once, .*: give a list"):
        trainer.fit((batch for batch in batches_of(X, Y)), epochs=epochs)
    assert_array_equal(host(trainer), before)


def test_batches_that_are_given_once_may_end_before_the_steps_do():
    trainer = trainer_of()
    with pytest.raises(ValueError, match="come to an end: give something that starts anew"):
        trainer.fit(iter(batches_of(X, Y)), epochs=9, max_steps=4)
    assert (trainer.epoch, trainer.history["epoch"]) == (1, [1])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (X, TypeError, r"batch 1 is ndarray, expected \(x, targets\) or \(x, targets, weights\)"),
        ((X,), TypeError, "batch 1 is tuple, expected"),
        ((X, Y, Y, Y), TypeError, "batch 1 is tuple, expected"),
        (None, TypeError, "batch 1 is NoneType, expected"),
        ({"x": X, "y": Y}, TypeError, "batch 1 is dict, expected"),
        ((X[:, :3], Y), ValueError, r"x has shape \(50, 3\)"),
        ((X, Y[:3]), ValueError, r"targets .*\(3,\), expected .*\(50,\)"),
        ((X, Y + 1), ValueError, r"labels lie in \[1, 3\]"),
        ((X * np.nan, Y), ValueError, "x holds NaN or infinite values"),
        ((X, Y, np.ones(3)), ValueError, r"sample weights have shape \(3,\), expected \(50,\)"),
        ((X, Y, -np.ones(50)), ValueError, "sample weights must be finite and not negative"),
    ],
)
def test_a_malformed_batch_is_refused_where_it_comes(batch, error, message):
    trainer = trainer_of()
    with pytest.raises(error, match=message) as caught:
        trainer.fit([(X, Y), batch], epochs=1)
    assert (trainer.steps, trainer.batch) == (1, 1)
    assert not prefetching(), caught


class DiskFullError(Exception):
    pass


def test_an_error_in_the_iterable_comes_out_as_itself_and_the_training_can_go_on():
    class Failing(Sized):
        healthy = False

        def __iter__(self):
            for number, batch in enumerate(self.batches):
                if number == 2 and not self.healthy:
                    raise DiskFullError("no space left")
                yield batch

    whole, broken = trainer_of(), trainer_of()
    source = Failing(batches_of(X, Y, size=10))
    with pytest.raises(DiskFullError, match="no space left") as caught:
        broken.fit(source, epochs=2)
    assert not prefetching(), caught
    assert broken.steps == 2
    source.healthy = True
    broken.fit(source, epochs=2)
    whole.fit(source, epochs=2)
    assert_same(broken, whole)


def test_the_thread_ends_with_an_error_in_a_step_though_its_traceback_is_kept():
    class Failing(mlpkit.Callback):
        def on_step_end(self, trainer):
            raise RuntimeError("the cable was pulled")

    with pytest.raises(RuntimeError, match="cable") as caught:
        trainer_of().fit(batches_of(X, Y, size=2), epochs=1, callbacks=[Failing()])
    assert not prefetching(), caught


def test_batches_that_are_none_give_an_error():
    with pytest.raises(ValueError, match="the batches have come to an end"):
        trainer_of().fit([], epochs=1)


# ---- sampling ------------------------------------------------------------------------------------


def drawn_rows(backend, sampling, epochs, seed=0, batch_size=64):
    """The rows that are drawn (epochs, N): the inputs are their own numbers."""
    n = len(sampling)
    network = mlpkit.MLP([1, 2], backend=backend, dtype="float64")
    xp = network.backend.xp
    x = network.place(np.arange(n, dtype=np.float64)[:, None])
    data = Batch(x, xp.zeros((n,), dtype=xp.int64), None)
    source = ArrayBatches(network, data, batch_size, seed, np.asarray(sampling, np.float64))
    to_numpy = network.backend.to_numpy
    return np.stack([
        np.concatenate([to_numpy(batch.x)[:, 0] for batch in source.epoch(epoch, 0)])
        for epoch in range(epochs)
    ]).astype(int)  # fmt: skip


def chi_square(counts, expected):
    return np.sum((counts - expected) ** 2 / expected)


def test_samples_are_drawn_as_often_as_their_weights_say():
    """Chi-square with 9 degrees of freedom is below 27.9 in 999 of 1000 cases."""
    weights = np.array([1.0, 2, 0, 4, 0.5, 8, 3, 0, 1, 1, 6, 5])
    counts = np.bincount(drawn_rows("numpy", weights, 2000).ravel(), minlength=12)
    assert counts[[2, 7]].tolist() == [0, 0]
    some = weights > 0
    assert chi_square(counts[some], weights[some] / weights.sum() * 24_000) < 27.9


def test_balanced_draws_each_class_as_often_as_any_other():
    """Chi-square with 2 degrees of freedom is below 13.8 in 999 of 1000 cases."""
    labels = np.repeat([0, 1, 4], [600, 50, 350])  # there is no 2 and no 3
    backend = mlpkit.get_backend("numpy")
    sampling = sampling_weights("balanced", labels, 1000, backend)
    rows = drawn_rows("numpy", sampling, 10).ravel()
    counts = np.bincount(labels[rows])[[0, 1, 4]]
    assert chi_square(counts, 10_000 / 3) < 13.8
    assert len(set(rows[labels[rows] == 1].tolist())) == 50


@pytest.mark.parametrize("targets", [Y > 0, (Y > 0)[:, None]])
def test_balanced_takes_the_two_classes_of_one_output(backend, targets):
    balanced, by_hand = (
        mlpkit.Trainer(mlpkit.MLP([4, 1], backend=backend), "binary_cross_entropy")
        for _ in range(2)
    )
    targets, positive = targets.astype(np.float32), Y > 0
    balanced.fit(X, targets, 2, 16, sampling="balanced")
    by_hand.fit(X, targets, 2, 16, sampling=np.where(positive, 1 / sum(positive), 1 / sum(Y == 0)))
    assert_same(balanced, by_hand)


def test_balanced_takes_no_probabilities():
    trainer = mlpkit.Trainer(mlpkit.MLP([4, 1]), "binary_cross_entropy")
    with pytest.raises(ValueError, match="balanced sampling needs integer labels"):
        trainer.fit(X, np.linspace(0, 1, 50), sampling="balanced")


def test_draws_are_the_same_on_every_backend(backend):
    weights = np.random.default_rng(1).random(500)
    rows = drawn_rows(backend, weights, 2)
    assert_array_equal(rows, drawn_rows("numpy", weights, 2))
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows, drawn_rows(backend, weights, 2, seed=1))


def test_only_ratios_of_weights_matter():
    weights = np.random.default_rng(1).random(500)
    assert_array_equal(drawn_rows("numpy", weights, 1), drawn_rows("numpy", weights / 1024, 1))
    assert_array_equal(drawn_rows("numpy", weights, 1), drawn_rows("numpy", weights * 2.0**1020, 1))


def test_one_row_of_weight_is_all_that_is_drawn(backend):
    assert (drawn_rows(backend, [0, 0, 0, 7, 0], 3) == 3).all()


def test_the_highest_word_draws_the_last_row_of_weight(backend, monkeypatch):
    """Sums of many weights are rounded; no draw may fall behind the last of them."""
    weights = np.append(np.random.default_rng(0).random(1000), 0.0)

    def highest(key, step, size):
        return backend.xp.zeros((size,), dtype=backend.xp.int64) + (2**32 - 1)

    monkeypatch.setattr(backend, "random_bits", highest)
    network = mlpkit.MLP([1, 2], backend=backend)
    data = Batch(
        network.place(np.arange(1001.0)[:, None]), backend.asarray(np.zeros(1001, int)), None
    )
    batch = next(ArrayBatches(network, data, 8, 0, weights).epoch(0, 0))
    assert (backend.to_numpy(batch.x) == 999).all()


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("sampling", ["balanced", np.arange(50)])
def test_a_training_with_sampling_goes_on_in_the_middle_of_an_epoch(tmp_path, sampling, batch_size):
    whole, first, second = (trainer_of(2) for _ in range(3))
    options = {"epochs": 3, "batch_size": batch_size, "sampling": sampling}
    whole.fit(X, Y, **options)
    first.fit(X, Y, max_steps=2, **options)
    mlpkit.save_state(first, tmp_path / "state")
    mlpkit.restore_state(second, tmp_path / "state")
    second.fit(X, Y, **options)
    assert_array_equal(host(second), host(whole))
    assert second.history["loss"][-1] == whole.history["loss"][-1]
