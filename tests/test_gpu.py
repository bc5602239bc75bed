"""What only a GPU can show, beside the whole suite on its backend: `pytest -m gpu`."""

import gc
import re
import threading

import numpy as np
import pytest
from recorded_training import graphs, state

import mlpkit
from mlpkit.backends import get_backend
from mlpkit.backends.base import SIGNIFICANT

pytestmark = pytest.mark.gpu
DATA = mlpkit.data.digits(1024)
MOST_NODES = 45  # of a step of Adam


@pytest.fixture
def cupy():
    get_backend("cupy")
    import cupy

    return cupy


def trained(backend="cupy", epochs=3, seed=0, **how):
    network = mlpkit.MLP([784, 64, 10], dropout=0.1, backend=backend, seed=seed)
    trainer = mlpkit.Trainer(network, **how)
    trainer.fit(
        *(network.backend.asarray(a) for a in DATA), epochs=epochs, batch_size=32
    )  # two groups
    return trainer


def test_two_hundred_steps_are_those_of_the_cpu():
    on_gpu, on_cpu = (
        state(trained(name, epochs=7, optimizer=mlpkit.SGD(0.05, momentum=0.9)))[0]
        for name in ("cupy", "numpy")
    )
    assert np.abs(on_gpu - on_cpu).max() <= 1e-3 * np.abs(on_cpu).max()


@pytest.mark.parametrize("compile", [True, False])
def test_a_training_gives_the_same_bits_again(compile):
    for one, other in zip(
        state(trained(compile=compile)), state(trained(compile=compile)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_recorded_and_run_it_gives_the_same_bits():
    for one, other in zip(state(trained()), state(trained(compile=False)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", SIGNIFICANT)
def test_products_of_a_precision_are_on_the_tensor_cores(cupy, precision):
    """They round to the nearest or towards zero: an operand is off by a unit of the last place."""
    backend, rng = get_backend("cupy"), np.random.default_rng(0)
    a, b = (backend.asarray(rng.standard_normal((512, 512)), np.float32) for _ in range(2))
    found = backend.to_numpy(backend.at(precision).matmul(a, b))
    host = [backend.to_numpy(array).astype(np.float64) for array in (a, b)]
    bound = 2 * 2.0 ** (1 - SIGNIFICANT[precision]) * (np.abs(host[0]) @ np.abs(host[1]))
    error = np.abs(found - host[0] @ host[1])
    assert (error <= bound).all()
    full = np.abs(backend.to_numpy(backend.matmul(a, b)) - host[0] @ host[1])
    assert error.max() > 10 * full.max()


def test_a_graph_transfers_nothing_and_has_not_more_nodes_than_it_needs():
    (graph,) = graphs(trained()._groups._steps)
    text = graph._graph.debug_dot_str()
    nodes = re.findall(r'^"graph_\d+_node_\d+"\s*\[', text, re.MULTILINE)
    assert 0 < len(nodes) <= 16 * MOST_NODES
    assert not re.search(r"HtoD|DtoH|MEM_?ALLOC", text)  # copies on the device, at most


def test_fifty_epochs_take_no_more_memory_than_five(cupy):
    trainer = trained(epochs=5)
    put = trainer.network.backend.asarray
    data = put(DATA[0]), put(DATA[1], np.int64)  # as the loss takes them: the graph is for these
    trainer.fit(*data, epochs=6, batch_size=32)
    gc.collect()
    before, _ = cupy.cuda.runtime.memGetInfo()  # the pools of the graphs are in it
    trainer.fit(*data, epochs=56, batch_size=32)
    gc.collect()
    after, _ = cupy.cuda.runtime.memGetInfo()
    assert after >= before


def test_trainings_on_two_threads_and_streams_disturb_each_other_in_nothing(cupy):
    alone = [[*state(trained(seed=seed)), 1] for seed in (1, 2)]  # and one graph
    found = {}

    def work(seed):
        with cupy.cuda.Stream(non_blocking=True):
            trainer = trained(seed=seed)
            found[seed] = [*state(trainer), len(graphs(trainer._groups._steps))]

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed, wanted in zip((1, 2), alone, strict=True):
        for one, other in zip(found[seed], wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_too_little_memory_is_an_error_that_names_the_size_and_can_be_survived(cupy):
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 2**20)
    try:
        with pytest.raises(
            cupy.cuda.memory.OutOfMemoryError, match=r"Out of memory allocating [\d,]+ bytes"
        ):
            mlpkit.MLP([1024, 1024], backend="cupy")
    finally:
        pool.set_limit(size=0)
    assert trained(epochs=1).history.rows[-1]["loss"] > 0


@pytest.mark.torch
def test_tensors_on_the_gpu_are_taken_and_given_without_a_copy(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    tensor = torch.rand(32, 784, device="cuda")
    backend = get_backend("cupy")
    array = backend.asarray(tensor)
    assert array.data.ptr == tensor.data_ptr()
    scores = mlpkit.MLP([784, 10], backend="cupy").predict_scores(tensor)
    assert torch.from_dlpack(scores).data_ptr() == scores.data.ptr
