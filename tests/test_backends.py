"""Finding a backend, its transfers, and what it says when it cannot be had."""

import sys
import types

import array_api_strict
import numpy as np
import pytest
from conftest import BACKENDS, backend_called

import mlpkit
from mlpkit.backends import (
    Backend,
    BackendUnavailableError,
    available_backends,
    get_backend,
)
from mlpkit.backends.cpu import NumPyBackend


def test_numpy_by_name_by_module_and_as_it_is():
    backend = get_backend("numpy")
    assert isinstance(backend, NumPyBackend)
    assert get_backend("numpy") is get_backend(np) is backend
    assert get_backend(backend) is backend


def test_a_namespace_gets_the_generic_kernels():
    backend = get_backend(array_api_strict)
    assert type(backend) is Backend
    assert backend.name == "array_api_strict"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("numpi", ValueError, r"unknown backend 'numpi'; did you mean 'numpy'\?"),
        ("xyz", ValueError, r"unknown backend 'xyz' \(known: auto, cupy, numpy\)"),
        (3, TypeError, "a backend is a name, an Array API namespace or a Backend, got int"),
        (types, TypeError, "types is not an Array API namespace"),
    ],
)
def test_what_is_no_backend(name, error, message):
    with pytest.raises(error, match=message):
        get_backend(name)


def cupy_stub(**members):
    stub = types.ModuleType("cupy")
    vars(stub).update(members)
    return stub


def test_cupy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailableError, match=r"cannot be imported .*cupy-cuda12x\[ctk\]"):
        mlpkit.MLP([2, 1], backend="cupy")


def test_cupy_without_a_gpu(monkeypatch):
    class CUDARuntimeError(RuntimeError):
        pass

    def get_device():
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDevice=get_device))
    stub = cupy_stub(cuda=cuda, __version__="14.2.0")
    monkeypatch.setitem(sys.modules, "cupy", stub)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", types.ModuleType("compat"))
    with pytest.raises(BackendUnavailableError, match=r"no CUDA GPU that works \(cudaErrorNoDev"):
        get_backend("cupy")
    assert "no CUDA GPU" in available_backends()["cupy"]
    get_backend.__globals__["_by_name"].cache_clear()
    assert get_backend("auto").name == "numpy"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package that adds backends by the entry-point group, as if it had been installed."""
    package = tmp_path / "arrays_of_mine.py"
    package.write_text(
        "import array_api_strict\n"
        "from mlpkit.backends import Backend\n"
        "def mine():\n"
        "    return Backend(array_api_strict, 'mine')\n"
        "def broken():\n"
        "    raise OSError('no such device')\n"
        "def wrong():\n"
        "    return 42\n"
    )
    info = tmp_path / "arrays_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: arrays-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mlpkit.backends]\n"
        "mine = arrays_of_mine:mine\nbroken = arrays_of_mine:broken\nwrong = arrays_of_mine:wrong\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    get_backend.__globals__["_by_name"].cache_clear()


@pytest.mark.usefixtures("plugin")
def test_a_plug_in_is_found_by_its_entry_point():
    assert get_backend("mine").name == "mine"
    assert mlpkit.MLP([3, 2], backend="mine").predict(np.ones((4, 3))).shape == (4,)
    assert available_backends()["mine"] == ""


@pytest.mark.usefixtures("plugin")
def test_a_plug_in_that_fails_says_why():
    assert available_backends()["broken"] == "no such device"
    with pytest.raises(TypeError, match="the plug-in 'wrong' gave a int, not a Backend"):
        get_backend("wrong")
    with pytest.raises(ValueError, match="did you mean 'mine'"):
        get_backend("mime")


def test_arrays_that_cannot_be_written_through_views_are_refused():
    class Copying(types.ModuleType):
        def reshape(self, x, shape):
            return np.array(x).reshape(shape)

        def __getattr__(self, name):
            return getattr(np, name)

    with pytest.raises(TypeError, match="cannot be written through a view"):
        Backend(Copying("copying"), "copying")


def test_transfers_there_and_back(backend, draw):
    host = draw(3, 4)
    device = backend.asarray(host, backend.xp.float32)
    assert backend.owns(device)
    assert backend.asarray(device) is device
    back = backend.to_numpy(device)
    np.testing.assert_array_equal(back, host.astype(np.float32))
    back[...] = 0  # a copy: the device's array stays as it was
    assert backend.to_numpy(device).any()


@pytest.mark.parametrize("name", [p for p in BACKENDS if p.values[0] != "numpy"])
def test_what_is_uploaded_does_not_share_memory_with_the_callers_array(name):
    """But for NumPy's own arrays, which are used as they are."""
    backend = backend_called(name)
    host = np.ones(3)
    device = backend.asarray(host)
    host[...] = 5
    np.testing.assert_array_equal(backend.to_numpy(device), 1)


def test_an_array_of_another_library_is_refused(backend):
    foreign = np.ones(2) if backend.name != "numpy" else array_api_strict.ones(2)
    if backend.name == "numpy":
        with pytest.raises(TypeError, match=r"array of array_api_strict .* 'numpy'"):
            backend.asarray(foreign)
    else:
        assert backend.owns(backend.asarray(foreign))  # NumPy arrays are the host's


@pytest.mark.parametrize("values", [["a", "b"], [object()], [1 + 2j]])
def test_what_is_no_number_is_refused(backend, values):
    with pytest.raises(TypeError, match="expected numbers, got list with elements of dtype"):
        backend.asarray(values)


@pytest.mark.parametrize("kind", ["U3", "complex128", "object", "m8[s]"])
def test_arrays_of_numpy_are_checked_as_lists_are(kind):
    with pytest.raises(TypeError, match="expected numbers, got an array of dtype"):
        get_backend("numpy").asarray(np.zeros(2, kind))


def test_constants_are_uploaded_once_and_shaped_for_the_members(backend):
    xp = backend.xp
    one = backend.constant(0.5, xp.float32, ndim=3)
    assert one.shape == ()
    many = backend.constant([0.1, 0.2], xp.float32, ndim=3)
    assert many.shape == (2, 1, 1)
    assert backend.constant((0.1, 0.2), xp.float32, ndim=3) is many
    assert backend.constant((0.1, 0.2), xp.float64, ndim=3) is not many
