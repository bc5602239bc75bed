"""The backend for CUDA: its products, its handles, and what it takes and gives.

That its kernels give what the generic ones give is in test_kernels.py.
"""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from emulated import libraries, needs_compiler
from recorded_training import assert_equal, small, state

import mlpkit
from mlpkit.backends import Backend, find_backend

pytestmark = needs_compiler


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


# ---- handles of cuBLAS ---------------------------------------------------------------------------


def test_a_training_on_another_thread_gives_the_same_bits(cuda):
    def train():
        trainer, data = small(cuda)
        trainer.fit(*data, epochs=2, batch_size=20)
        found.append(state(trainer))

    found = []
    train()
    worker = threading.Thread(target=train)
    worker.start()
    worker.join()
    assert_equal(*found)


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
