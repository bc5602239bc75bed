"""The backend for CUDA on a stand-in for CuPy: what it runs, what it records, and what it refuses.

That its kernels give what the generic ones give is in test_kernels.py.
"""

import copy
import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from emulated import emulated_backend, libraries, memory, needs_compiler
from test_step import EVERY_CASE, trainer_and_batch

import mlpkit
from mlpkit.backends import Backend, find_backend, get_backend
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.graph import LOCK, MOST_GRAPHS, Graph, Recorded

pytestmark = needs_compiler
STEPS = 5


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request):
    return emulated_backend() if request.param == "emulated" else get_backend("cupy")


@pytest.fixture
def emulated():
    return emulated_backend()


def small(backend, **how):
    """A trainer, and digits to train it on."""
    net = mlpkit.MLP([784, 8, 10], dropout=0.2, backend=backend)
    return mlpkit.Trainer(net, **how), [backend.asarray(a) for a in mlpkit.data.digits(40)]


def state(trainer):
    """What a training has changed."""
    network, memory = trainer.network, trainer.optimizer.memory.values()
    arrays = [network.params, network.buffers, *memory, trainer.optimizer.count]
    return [trainer.network.backend.to_numpy(array) for array in arrays]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


def graphs(step):
    return [run for run in step._runs.values() if isinstance(run, Graph)]


# ---- recording -----------------------------------------------------------------------------------


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


def test_an_error_of_the_step_is_raised_and_leaves_nothing_half_recorded(cuda):
    trainer, (x, y) = small(cuda)
    step = cuda.compile(trainer.step)
    for _ in range(3):
        with pytest.raises(ValueError, match="expects"):
            step(x[:, :5], y)
    assert memory.state.recording is None
    twin, _ = small(cuda)
    for _ in range(3):
        assert float(step(x, y)) == float(twin.step(x, y))


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


def test_nothing_is_collected_while_a_step_is_recorded(cuda):
    trainer, (x, y) = small(cuda)
    enabled = []

    def step(x, y):
        enabled.append((gc.isenabled(), LOCK.locked()))
        return trainer.step(x, y)

    recorded = cuda.compile(step)
    for _ in range(3):
        recorded(x, y)
    assert enabled == [(True, False), (False, True)]
    assert gc.isenabled()
    assert not LOCK.locked()


def test_a_pool_that_runs_out_takes_no_memory_from_the_graphs(emulated):
    trainer, (x, y) = small(emulated)
    step = emulated.compile(trainer.step)
    for n in (20, 40):
        for _ in range(2):
            step(x[:n], y[:n])
    (recorder,) = {graph._recorder for graph in graphs(step)}
    chunks = [weakref.ref(chunk) for chunk in recorder._chunks]
    recorder._pool.free_all_blocks()  # as CuPy does then
    memory.check_margins()  # which would keep them
    gc.collect()
    assert len(chunks) > 10
    assert all(chunk() is not None for chunk in chunks)


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


def test_a_thread_of_its_own_has_handles_of_its_own(cuda):
    def train(seed):
        trainer = mlpkit.Trainer(mlpkit.MLP([784, 8, 10], backend=cuda, seed=seed))
        data = [cuda.asarray(a) for a in mlpkit.data.digits(40)]
        found[seed] = state_after(trainer, data)

    def state_after(trainer, data):
        trainer.fit(*data, epochs=2, batch_size=20)
        return state(trainer)

    found = {}
    for seed in (1, 2):
        train(seed)
    alone, found = found, {}
    workers = [threading.Thread(target=train, args=(seed,)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
        worker.join()  # the shim has one current thread
    for seed in (1, 2):
        assert_equal(alone[seed], found[seed])


def test_threads_have_handles_of_their_own_which_are_used_again(emulated):
    ones = emulated.xp.ones((2, 2))
    both = threading.Barrier(2)

    def work():
        emulated.matmul(ones, ones)
        used.append(emulated.handles.current()._handle.value)
        both.wait(10)  # neither goes back before the other is there

    created = []
    for _ in range(3):
        used = []
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len({*used}) == 2
        created.append(len(emulated.handles._library.handles))
    assert created[0] == created[2]


def test_a_handle_follows_the_stream(cuda):
    ones = cuda.xp.ones((2, 2))
    for _ in range(2):
        with cuda.cupy.cuda.Stream(non_blocking=True):
            inside = cuda.matmul(ones, ones)
            cuda.synchronize()
        for product in (inside, cuda.matmul(ones, ones)):
            np.testing.assert_array_equal(cuda.to_numpy(product), 2)


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


# ---- several steps at once -----------------------------------------------------------------------


class Counting(mlpkit.Callback):
    """Notes the steps that it is told of."""

    def __init__(self, every_step=True):
        self.every_step, self.steps = every_step, []

    def on_step_end(self, trainer):
        self.steps.append(trainer.steps)


FITS = {
    "": {},
    "weights": {"weights": np.arange(37) % 3},
    "balanced": {"sampling": "balanced"},
    "max_steps": {"max_steps": 50},
}


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("how", FITS)
def test_an_epoch_in_groups_of_steps_is_the_epoch(cuda, members, how):
    """37 batches an epoch: two groups of 16, and five by themselves, the last of them smaller."""
    found, rng = [], np.random.default_rng(0)
    x, y = cuda.asarray(rng.random((73, 9)), np.float32), cuda.asarray(rng.integers(0, 3, 73))
    for compile in (True, False):
        net = mlpkit.MLP([9, 6, 3], dropout=0.2, backend=cuda, members=members)
        trainer = mlpkit.Trainer(net, compile=compile, average=0.9)
        counting = Counting(every_step=False)
        how_here = dict(FITS[how])
        if "weights" in how_here:
            how_here["weights"] = np.resize(how_here["weights"], 73)
        trainer.fit(x, y, epochs=2, batch_size=2, callbacks=[counting], **how_here)
        found.append((trainer, counting.steps))
    (grouped, in_groups), (alone, one_by_one) = found
    assert_equal(state(grouped), state(alone))
    assert one_by_one == list(range(1, alone.steps + 1))
    assert in_groups[:6] == [16, 32, 33, 34, 35, 36]
    assert in_groups[-1] == alone.steps == grouped.steps
    losses = [trainer.history.rows[-1]["loss"] for trainer in (grouped, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_callback_that_looks_at_every_step_is_told_of_every_step(cuda):
    trainer, data = small(cuda)
    counting = Counting()
    trainer.fit(*data, epochs=1, batch_size=2, callbacks=[counting])
    assert counting.steps == list(range(1, 21))


def test_the_group_is_recorded_once_for_the_same_arrays(cuda):
    trainer, (x, labels) = small(cuda)
    data = x, cuda.xp.astype(labels, np.int64)  # as the loss takes them: others are cast anew
    for epochs in (2, 3, 4):
        trainer.fit(*data, epochs=epochs, batch_size=2)
        assert len(graphs(trainer._groups._steps)) == (epochs > 1)
    trainer.fit(*(array.copy() for array in data), epochs=5, batch_size=2)
    assert not graphs(trainer._groups._steps)


def test_groups_of_another_size_count_as_much(cuda):
    rng, losses = np.random.default_rng(0), []
    x, y = cuda.asarray(rng.random((143, 9)), np.float32), cuda.asarray(rng.integers(0, 3, 143))
    for compile in (True, False):
        trainer = mlpkit.Trainer(mlpkit.MLP([9, 3], backend=cuda), compile=compile)
        for epochs, size in ((1, 2), (2, 4), (3, 2)):
            trainer.fit(x, y, epochs=epochs, batch_size=size)
        losses.append([row["loss"] for row in trainer.history.rows])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_an_epoch_that_was_broken_off_goes_on_in_groups(cuda, tmp_path):
    whole, data = small(cuda)
    whole.fit(*data, epochs=2, batch_size=2)
    broken, _ = small(cuda)
    broken.fit(*data, epochs=2, batch_size=2, max_steps=3)
    mlpkit.save_state(broken, tmp_path / "state.safetensors")
    resumed, _ = small(cuda)
    mlpkit.restore_state(resumed, tmp_path / "state.safetensors")
    resumed.fit(*data, epochs=2, batch_size=2)
    assert_equal(state(whole), state(resumed))


# ---- products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [None, "tf32", "bfloat16", "float16"])
def test_the_precision_of_products_is_given_to_cublas(emulated, monkeypatch, precision):
    asked = []
    library = libraries.CublasLibrary
    gemm = library.cublasGemmStridedBatchedEx

    def noted(self, *arguments):
        asked.append(arguments[-2].value)
        return gemm(self, *arguments)

    monkeypatch.setattr(library, "cublasGemmStridedBatchedEx", noted)
    emulated.at(precision).matmul(
        emulated.xp.ones((2, 3), dtype=np.float32), emulated.xp.ones((3, 4), dtype=np.float32)
    )
    assert asked == [{None: 68, "tf32": 77, "bfloat16": 75, "float16": 74}[precision]]


def test_a_status_of_cublas_is_an_error(emulated, monkeypatch):
    monkeypatch.setattr(libraries.CublasLibrary, "cublasGemmStridedBatchedEx", lambda *_: 13)
    with pytest.raises(RuntimeError, match="cublasGemmStridedBatchedEx has returned status 13"):
        emulated.matmul(emulated.xp.ones((2, 3)), emulated.xp.ones((3, 4)))


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)])
def test_products_of_any_layout(cuda, draw, shape):
    host = draw(*shape)
    a = cuda.asarray(host)
    b = cuda.asarray(draw(4, 6))
    np.testing.assert_allclose(cuda.to_numpy(cuda.matmul(a, b)), host @ cuda.to_numpy(b))
    np.testing.assert_allclose(
        cuda.to_numpy(cuda.matmul(a.mT, a)), np.matmul(host.swapaxes(-1, -2), host)
    )
    wide = cuda.asarray(draw(*shape[:-1], 9))
    np.testing.assert_allclose(
        cuda.to_numpy(cuda.matmul(wide[..., 1:5], b)),
        cuda.to_numpy(wide)[..., 1:5] @ cuda.to_numpy(b),
    )


def test_updates_of_vectors_with_gaps_and_of_other_dtypes_are_the_generic_ones(cuda):
    lr = cuda.asarray(np.array(0.5))
    for dtype in (np.float32, np.float64):
        params, grads = cuda.asarray(np.arange(8.0), np.float32), cuda.asarray(np.ones(8), dtype)
        cuda.sgd(params[::2], grads[::2], None, lr)
        np.testing.assert_array_equal(cuda.to_numpy(params), [-0.5, 1, 1.5, 3, 3.5, 5, 5.5, 7])


def test_a_bias_gradient_of_a_gradient_of_another_dtype(cuda):
    class Doubled(mlpkit.Identity):
        def gradient(self, xp, dy, z, y):
            return xp.astype(2 * dy, xp.float64)

    z, dbias = cuda.asarray(np.ones((3, 2)), np.float32), cuda.asarray(np.zeros(2), np.float32)
    cuda.bias_activation_gradient(z, z, z, Doubled(), dbias)
    np.testing.assert_array_equal(cuda.to_numpy(dbias), 6)


def test_a_batch_of_any_number_of_samples_has_its_kernels(emulated, monkeypatch):
    monkeypatch.delattr(Backend, "bias_activation")
    z, bias = emulated.xp.zeros((65_537, 2)), emulated.xp.ones(2)
    z, _ = emulated.bias_activation(z, bias, mlpkit.ReLU())
    assert bool(emulated.xp.all(z == 1))


# ---- other libraries' arrays ---------------------------------------------------------------------


def test_arrays_of_other_libraries_on_the_device_are_taken_without_a_copy(emulated, monkeypatch):
    own = emulated.xp.ones((2, 3))
    tensor = SimpleNamespace(__dlpack_device__=lambda: (2, 0))
    monkeypatch.setattr(
        emulated.cupy, "from_dlpack", lambda given: own if given is tensor else None, raising=False
    )
    assert emulated.asarray(tensor) is own


def test_what_is_on_the_host_is_there(cuda):
    np.testing.assert_array_equal(cuda.to_numpy(np.arange(3)), [0, 1, 2])


def test_arrays_of_other_libraries_on_the_host_are_refused(cuda):
    class Tensor:
        def __dlpack__(self):
            raise AssertionError("not asked for")

        def __dlpack_device__(self):
            return 1, 0

    with pytest.raises(TypeError, match="convert it first"):
        cuda.asarray(Tensor())


def test_a_pickle_names_the_backend(cuda):
    for precision in (None, "tf32"):
        assert cuda.at(precision).__reduce__() == (find_backend, ("cupy", precision))
