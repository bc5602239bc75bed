"""The compiled kernels: what holds beside their agreement with the generic ones (test_kernels)."""

import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import mlpkit
from mlpkit.backends import Backend, get_backend
from mlpkit.backends.cpu import NumPyBackend

pytest.importorskip("numba")
from mlpkit.backends import compiled, threads
from mlpkit.backends.compiled import CompiledBackend

GENERIC = Backend(np, "generic")
DATA = mlpkit.data.digits(600)


def trained(backend, members=None, seed=0):
    """The parameters of a network after an epoch."""
    net = mlpkit.MLP([784, 96, 10], dropout=0.2, members=members, backend=backend, seed=seed)
    mlpkit.Trainer(net, optimizer=mlpkit.Adam(1e-3)).fit(*DATA, epochs=1, batch_size=64)
    return net.params


def run(script, **environment):
    """What a new process prints."""
    code = f"import numpy as np, mlpkit\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


POLICY = "from mlpkit.backends import threads\n"
TRAIN = """
x, y = mlpkit.data.digits(600)
net = mlpkit.MLP([784, 96, 10], dropout=0.2)
mlpkit.Trainer(net, optimizer=mlpkit.Adam(1e-3)).fit(x, y, epochs=1, batch_size=64)
"""


def test_numpy_is_compiled_where_numba_is_installed():
    backend = get_backend("numpy")
    assert type(backend) is CompiledBackend
    assert pickle.loads(pickle.dumps(backend)) is backend


def test_a_numba_that_cannot_be_imported_is_reported_and_done_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlpkit.backends.compiled", None)
    with pytest.warns(RuntimeWarning, match="plain NumPy"):
        backend = mlpkit.backends._numpy()
    assert type(backend) is NumPyBackend


def test_where_nothing_can_be_kept_kernels_are_compiled_anew(monkeypatch):
    def without_cache(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", options["parallel"])

    monkeypatch.setattr(threads.numba, "njit", without_cache)
    assert threads.serial(lambda: None) == ("compiled", False)


def test_numba_that_is_told_not_to_compile_is_done_without():
    script = "print(type(mlpkit.get_backend('numpy')).__name__)"
    assert run(script, NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore") == "NumPyBackend"


@pytest.mark.parametrize("members", [None, 3])
def test_a_training_is_that_of_plain_numpy(members):
    plain, fast = trained(NumPyBackend(), members), trained("numpy", members)
    assert np.abs(fast - plain).max() <= 1e-4 * np.abs(plain).max()
    np.testing.assert_array_equal(fast, trained("numpy", members))


@pytest.mark.parametrize("stack", [(), (2,), (5,)])
def test_the_number_of_threads_changes_no_digit_of_a_kernel(monkeypatch, draw, stack):
    """Of products it may: BLAS adds in another order at the edges of a piece."""
    z, dy, x = draw(*stack, 900, 256), draw(*stack, 900, 256), draw(*stack, 1, 900)
    labels, key = np.arange(900) % 256, np.ones((*stack, 2), np.int64)
    backend, relu = get_backend("numpy"), mlpkit.ReLU()

    def results(count):
        monkeypatch.setattr(compiled, "COUNT", count)
        dbias = np.empty((*stack, 1, 256))
        params, mean, square = (draw_.copy() for draw_ in (z, z, z**2))
        flat = [a.reshape(*stack, -1) for a in (params, dy.copy(), mean, square)]
        backend.adam(*flat, *(np.array(v) for v in (1e-3, 0.9, 0.999, 1e-8)), np.array(3.0))
        half = np.array(2**31)
        return [
            *backend.bias_activation(z.copy(), np.ones_like(dbias), relu),
            backend.bias_activation_gradient(dy, z, z, relu, dbias), dbias.copy(),
            backend.bias_activation_gradient(dy, z, z, mlpkit.Identity(), dbias), dbias,
            *backend.softmax_cross_entropy(z, labels),
            backend.matmul(x, z), backend.matmul(x, x[..., :200], transpose_a=True),
            backend.gather_rows(z, labels, np.float64),
            backend.random_bits(key, np.array(1), 99_999),
            *backend.dropout(z, key, np.array(1), half, np.array(2.0)),
            params, mean, square,
        ]  # fmt: skip

    for one, three in zip(results(1), results(3), strict=True):
        np.testing.assert_array_equal(one, three)


def test_two_trainings_on_two_threads_disturb_each_other_in_nothing():
    alone = [trained("numpy", seed=seed) for seed in (1, 2)]
    found = {}

    def work(seed):
        found[seed] = trained("numpy", seed=seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed, params in zip((1, 2), alone, strict=True):
        np.testing.assert_array_equal(found[seed], params)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_can_train():
    script = f"""{TRAIN}
import os
before = net.params.copy()
child = os.fork()
if child == 0:
    trainer = mlpkit.Trainer(net)
    trainer.step(x[:64], y[:64])
    os._exit(0 if (net.params != before).any() else 7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(script) == "0"


# ---- threads -------------------------------------------------------------------------------------

pooled = pytest.mark.skipif(threads.THREADS.blas is None, reason="no TBB, or another BLAS")


@pooled
def test_a_product_leaves_the_threads_of_the_blas_as_they_were():
    script = """
from threadpoolctl import threadpool_info, threadpool_limits
def count():
    return [p["num_threads"] for p in threadpool_info() if "numpy" in p["filepath"]]
backend, x = mlpkit.get_backend("numpy"), np.ones((300, 300))
before = count()
backend.matmul(x, x)
assert count() == before, (count(), before)
with threadpool_limits(1, "blas"):
    backend.matmul(x, x)
    assert set(count()) == {1}, count()
assert count() == before
"""
    run(script)


@pooled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_fork_while_another_thread_multiplies_leaves_the_child_all_threads():
    script = """
import os, threading
from threadpoolctl import threadpool_info
def count():
    return [p["num_threads"] for p in threadpool_info() if "numpy" in p["filepath"]]
backend, x, before, go_on = mlpkit.get_backend("numpy"), np.ones((600, 600)), count(), True
def work():
    while go_on:
        backend.matmul(x, x)
thread = threading.Thread(target=work)
thread.start()
codes = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(count() != before)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go_on = False
thread.join()
print(codes)
"""
    assert run(script).endswith("[0, 0, 0, 0, 0]")  # after remarks of TBB's


@pooled
@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_the_usual_settings_of_threads_count(name):
    assert run(POLICY + "print(threads.THREADS.number)", **{name: "1"}) == "1"


def test_without_tbb_kernels_run_on_one_thread_and_agree():
    params = "print(net.params.astype(np.float64).tobytes().hex())"
    script = f"{POLICY}print(threads.THREADS)\n{TRAIN}{params}"
    policy, params = run(script, NUMBA_THREADING_LAYER="workqueue").split("\n")
    assert policy.startswith("compiled kernels on one")
    other = np.frombuffer(bytes.fromhex(params))
    ours = trained("numpy")
    assert np.abs(other - ours).max() <= 1e-4 * np.abs(ours).max()


# ---- operands and values -------------------------------------------------------------------------


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 700, 300), (65, 33, 130), (300, 1, 400), (3, 0, 2)])
def test_products_of_any_layout(draw, shape, transpose_a, transpose_b):
    m, k, n = shape
    a = draw(k, m) if transpose_a else draw(m, k)
    b = draw(n, k) if transpose_b else draw(k, n)
    wanted = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    for of_a in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a[::-1][::-1]):
        for of_b in (b, np.asfortranarray(b), np.repeat(b, 2, axis=0)[::2]):
            found = get_backend("numpy").matmul(of_a, of_b, transpose_a, transpose_b)
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [(3, None), (None, 3), (3, 3)])
@pytest.mark.parametrize("rows", [1, 70])
def test_products_of_members(draw, axes, rows):
    a = draw(*[axes[0]] * (axes[0] is not None), rows, 300)
    b = draw(*[axes[1]] * (axes[1] is not None), 300, 200)
    found = get_backend("numpy").matmul(a, b)
    np.testing.assert_allclose(found, a @ b, rtol=1e-12, atol=1e-12)


def test_what_the_kernels_do_not_take_is_as_in_numpy(draw):
    fast, relu = get_backend("numpy"), mlpkit.ReLU()
    a, b, y = draw(2, 3, 4, 5), draw(5, 6), draw(7, 4)
    np.testing.assert_allclose(fast.matmul(a, b), a @ b)
    single = np.empty((4, 6), np.float32)
    assert fast.matmul(a[0, 0], b, out=single) is single
    np.testing.assert_allclose(single, a[0, 0] @ b, rtol=1e-6)

    def gradients(backend, dy):
        dbias = np.empty(4)
        return backend.bias_activation_gradient(dy, y, y, relu, dbias), dbias

    for dy in (draw(1, 4), draw(7, 1)):  # broadcast
        for found, wanted in zip(gradients(fast, dy), gradients(GENERIC, dy), strict=True):
            np.testing.assert_allclose(found, wanted)
    for bias in (draw(4), draw(1)):
        stacked = draw(3, 7, 4)
        found, wanted = (b.bias_activation(stacked.copy(), bias, relu) for b in (fast, GENERIC))
        np.testing.assert_allclose(found, wanted)
    with pytest.raises(ValueError, match="broadcast"):
        fast.softmax_cross_entropy(y, np.zeros(5, np.int64))
    for classes in (3, 5):
        with pytest.raises(ValueError, match="broadcast"):
            fast.softmax_cross_entropy(y, np.zeros(7, np.int64), class_weights=np.ones(classes))


def test_numbers_in_another_order_of_bytes_are_as_in_numpy(draw):
    fast, a, labels = get_backend("numpy"), draw(5, 4), np.arange(5) % 4
    swapped, rows = a.astype(">f8"), labels.astype(">i8")
    np.testing.assert_allclose(fast.matmul(swapped, a.T), a @ a.T)
    np.testing.assert_array_equal(fast.gather_rows(swapped, rows, np.float64), a[labels])
    results = (b.softmax_cross_entropy(a, rows) for b in (fast, GENERIC))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted)


def test_a_label_that_is_no_class_is_as_in_the_generic_kernel(draw):
    scores, labels = draw(4, 3), np.array([0, 3, -1, 2])
    for settings in ((), (np.array(0.1),), (None, np.array([1.0, 2.0, 3.0]))):
        backends = get_backend("numpy"), GENERIC
        results = (b.softmax_cross_entropy(scores, labels, *settings) for b in backends)
        for found, wanted in zip(*results, strict=True):
            np.testing.assert_allclose(found, wanted)


def test_operands_that_do_not_fit_are_refused_as_numpy_does():
    with pytest.raises(ValueError, match="mismatch"):
        get_backend("numpy").matmul(np.ones((2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(bad):
    fast = get_backend("numpy")
    z = np.array([[1.0, bad], [-1.0, 0.0]])
    for backend in (fast, GENERIC):
        _, y = backend.bias_activation(z.copy(), np.zeros(2), mlpkit.ReLU())
        np.testing.assert_array_equal(y, np.maximum(z, 0))
    with np.errstate(all="ignore"):
        found, wanted = (
            b.softmax_cross_entropy(z.copy(), np.array([0, 1])) for b in (fast, GENERIC)
        )
    np.testing.assert_array_equal(np.isfinite(found[0]), np.isfinite(wanted[0]))
    np.testing.assert_array_equal(np.isnan(found[1]), np.isnan(wanted[1]))


def test_a_row_that_is_not_there_is_refused():
    data = np.ones((4, 3), np.uint8)
    gather = get_backend("numpy").gather_rows
    for rows in ([0, 4], [-5, 0]):
        with pytest.raises(IndexError, match="of 4"):
            gather(data, np.array(rows), np.float32, 1 / 255)
    np.testing.assert_array_equal(gather(data, np.array([-1, 0]), np.float32), np.ones((2, 3)))


def test_an_activation_of_the_users_is_not_taken_for_the_kernels():
    class ReLU(mlpkit.Activation):
        """g(z) = 2 z, under a name that is taken."""

        def value(self, xp, z):
            return 2 * z

        def gradient(self, xp, dy, z, y):
            return 2 * dy

    class Shifted(mlpkit.ReLU):
        """A subclass with a value of its own."""

        def value(self, xp, z):
            return xp.maximum(z, xp.zeros((), dtype=z.dtype)) + 1

    x = np.array([[-1.0, 2.0]])
    for activation, wanted in ((ReLU(), [[-2.0, 4.0]]), (Shifted(), [[1.0, 3.0]])):
        _, y = get_backend("numpy").bias_activation(x.copy(), np.zeros(2), activation)
        np.testing.assert_array_equal(y, wanted)
