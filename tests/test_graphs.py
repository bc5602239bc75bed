"""Recorded steps: what they give, what they keep to themselves, and what cannot be recorded."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
from emulated import memory, needs_compiler
from recorded_training import assert_equal, graphs, small, state
from test_step import EVERY_CASE, trainer_and_batch

import mlpkit
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.graph import LOCK, MOST_GRAPHS, Recorded

pytestmark = needs_compiler
STEPS = 5


@pytest.mark.parametrize("members", [None, 3])
@EVERY_CASE
def test_a_recorded_step_is_the_step(cuda, members, case):
    """Of every loss, rule, layer, penalty and constraint, to the last bit; and about NumPy's."""
    trainer, batch = trainer_and_batch(members, case, cuda)
    eager = [cuda.to_numpy(trainer.step(*batch)) for _ in range(STEPS)]
    twin, batch = trainer_and_batch(members, case, cuda)
    step = cuda.compile(twin.step)
    recorded = [step(*batch) for _ in range(STEPS)]
    assert len(graphs(step)) == 1
    assert_equal(eager, map(cuda.to_numpy, recorded))  # the losses of earlier steps are still there
    assert_equal(state(trainer), state(twin))
    plain, batch = trainer_and_batch(members, case, NumPyBackend())
    for _ in range(STEPS):
        plain.step(*batch)
    np.testing.assert_allclose(state(twin)[0], plain.network.params, atol=2e-5)


def test_fit_records_by_itself_one_graph_for_each_size_of_batch(cuda):
    trainer, data = small(cuda)
    trainer.fit(*data, epochs=3, batch_size=16)  # 16, 16 and 8
    assert len(graphs(trainer._compiled)) == 2
    eager, _ = small(cuda, compile=False)
    eager.fit(*data, epochs=3, batch_size=16)
    assert_equal(state(trainer), state(eager))
    assert trainer.history.rows[-1]["loss"] == eager.history.rows[-1]["loss"]


def test_memory_of_a_graph_is_nobody_elses(cuda):
    """What a step has thrown away while it was recorded, it uses again whenever it is replayed."""
    trainer, (x, y) = small(cuda)
    step = cuda.compile(trainer.step)
    step(x, y)
    step(x, y)
    others = [cuda.xp.zeros(size) for size in range(1, 400)]
    step(x, y)
    assert not any(cuda.to_numpy(array).any() for array in others)


def test_what_is_restored_into_the_same_arrays_is_found(cuda):
    trainer, (x, y) = small(cuda)
    step = cuda.compile(trainer.step)
    before = trainer.network.backend.to_numpy(trainer.network.params)
    first = [float(step(x, y)) for _ in range(3)]
    trainer.network.params[...] = cuda.asarray(before)
    trainer.network.passes[...] = 0
    for array in (*trainer.optimizer.memory.values(), trainer.optimizer.count):
        array[...] = 0
    assert [float(step(x, y)) for _ in range(3)] == first


def test_a_step_that_reads_on_the_host_is_run_and_the_log_says_why(cuda, caplog):
    trainer, (x, y) = small(cuda)

    def step(x, y):
        loss = trainer.step(x, y)
        assert float(loss) > 0
        return loss

    recorded, (twin, _) = cuda.compile(step), small(cuda)
    for _ in range(4):
        assert float(recorded(x, y)) == float(twin.step(x, y))
    (record,) = caplog.records
    assert record.message.startswith("the step cannot be recorded as a CUDA graph, and is run: ")
    assert "due to a previous error" not in record.message
    assert not graphs(recorded)


def test_an_error_while_recording_leaves_nothing_half_recorded(cuda, caplog):
    trainer, (x, y) = small(cuda)
    calls = []

    def step(x, y):
        calls.append(x.shape)
        loss = trainer.step(x, y)
        if len(calls) == 2:
            raise ValueError("not this time")
        return loss

    recorded, (twin, _) = cuda.compile(step), small(cuda)
    for n in (40, 40, 40, 20, 20, 20):
        assert float(recorded(x[:n], y[:n])) == float(twin.step(x[:n], y[:n]))
    (record,) = caplog.records
    assert record.message.endswith("not this time")
    assert memory.state.recording is None
    assert len(graphs(recorded)) == 1  # of the other shape


def test_a_step_is_recorded_after_it_has_run_once_without_an_error(cuda):
    """Its constants are uploaded by then, and its kernels compiled."""
    trainer, (x, y) = small(cuda)
    errors = [MemoryError("too large")] * 2

    def step(x, y):
        if errors:
            raise errors.pop()
        return trainer.step(x, y)

    recorded = cuda.compile(step)
    for _ in range(2):
        with pytest.raises(MemoryError, match="too large"):
            recorded(x, y)
    for count in (0, 1, 1):
        recorded(x, y)
        assert len(graphs(recorded)) == count


def is_locked():
    """Whether another thread has to wait to record."""

    def work():
        if LOCK.acquire(blocking=False):
            LOCK.release()
            got.append(True)

    got = []
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    return not got


def test_nothing_is_collected_while_a_step_is_recorded(cuda):
    trainer, (x, y) = small(cuda)
    enabled = []

    def step(x, y):
        enabled.append((gc.isenabled(), is_locked()))
        return trainer.step(x, y)

    recorded = cuda.compile(step)
    for _ in range(3):
        recorded(x, y)
    assert enabled == [(True, False), (False, True)]
    assert gc.isenabled()
    assert not is_locked()


@pytest.fixture
def chunks(emulated, monkeypatch):
    """Weak references to the memory that is taken from the driver for graphs."""

    def noted(size):
        made = memory.Memory(size)
        chunks.append(weakref.ref(made))
        return made

    monkeypatch.setattr(emulated.cupy.cuda, "Memory", noted)
    chunks = []
    return chunks


def test_a_pool_that_runs_out_takes_no_memory_from_the_graphs(emulated, chunks):
    trainer, (x, y) = small(emulated)
    step = emulated.compile(trainer.step)
    for n in (20, 40):
        for _ in range(2):
            step(x[:n], y[:n])
    (recorder,) = {graph._recorder for graph in graphs(step)}
    recorder._pool.free_all_blocks()  # as CuPy does then
    memory.check_margins()  # which keep it until then
    assert len(chunks) > 10
    assert all(chunk() is not None for chunk in chunks)


def test_memory_of_graphs_goes_back_with_them(emulated, chunks):
    """At once, for the garbage collector knows nothing of a GPU's memory."""
    trainer, (x, y) = small(emulated)
    step = emulated.compile(trainer.step)
    for _ in range(3):
        loss = step(x, y)
    assert chunks
    gc.disable()
    try:
        del step
        memory.check_margins()
        assert all(chunk() is None for chunk in chunks)
    finally:
        gc.enable()
    assert float(loss) > 0


def test_no_more_graphs_are_kept_than_are_worth_it(cuda):
    trainer, (x, y) = small(cuda)
    step = cuda.compile(trainer.step)
    for n in range(1, MOST_GRAPHS + 4):
        for _ in range(3):
            step(x[:n], y[:n])
    assert len(graphs(step)) == MOST_GRAPHS
    assert len({graph._recorder for graph in graphs(step)}) == 1  # and its memory and workspace


def test_arrays_of_the_host_go_through_the_step_as_it_is(cuda):
    trainer, _ = small(cuda)
    step = cuda.compile(trainer.step)
    for _ in range(3):
        step(*mlpkit.data.digits(40))
    assert not graphs(step)


def test_copies_of_a_recorded_training_go_on_exactly(cuda):
    trainer, data = small(cuda)
    trainer.fit(*data, epochs=2, batch_size=20)
    twins = [copy.deepcopy(trainer)]
    for each in (trainer, *twins):
        each.fit(*data, epochs=4, batch_size=20)
    assert_equal(state(trainer), state(twins[0]))
    assert isinstance(twins[0]._compiled, Recorded)


def test_a_run_of_unknown_length_is_recorded_anew(cuda):
    """With a schedule that needs the length, it is refused also where steps were recorded."""

    class Endless:
        def __iter__(self):
            yield from batches

    trainer, (x, y) = small(cuda, optimizer=mlpkit.SGD(mlpkit.schedules.cosine(0.1)))
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    trainer.fit(x, y, epochs=2, batch_size=20)
    with pytest.raises(ValueError, match="length of the run"):
        trainer.fit(Endless(), epochs=4)
