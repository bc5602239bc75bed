"""The CUDA sources, run on the CPU by a shim: what the shim finds, and that nothing is left out.

That each kernel gives what the generic one gives is in test_kernels.py.
"""

import io
import json
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
from emulated import cupy_stub, emulator, libraries, needs_compiler
from emulated.memory import check_margins

import mlpkit
from mlpkit.backends import cuda_kernels

FILES = sorted(path.stem for path in cuda_kernels.FOLDER.glob("*.cu"))
MACROS = {"REAL": "float", "SOURCE": "unsigned char"}
ARCHITECTURES = ["75", "80", "90", "100", "120"]


def address(array):
    return np.uintp(array.ctypes.data)


def build(file, old="", new=""):
    """The kernels of a file, with a fault planted: the first `old` in its text becomes `new`."""
    text = cuda_kernels.source(file)
    assert old in text
    return emulator.build(text.replace(old, new, 1) if old else text, MACROS)


def sums(library, seed):
    """What `sum_rows` makes of (40, 70), and the sum itself."""
    dz = np.random.default_rng(0).standard_normal((40, 70)).astype(np.float32)
    total = np.full(70, np.nan, np.float32)
    arguments = address(dz), address(total), *np.array([0, 40, 70, 256])
    emulator.launch(library, "sum_rows", (3, 1, 1), (32, 16), arguments, seed)
    return total, dz.sum(axis=0)


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_threads_changes_nothing(seed):
    found, wanted = sums(build("layers"), seed)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(found, sums(build("layers"), 99)[0])


@needs_compiler
def test_a_missing_barrier_is_found():
    found, wanted = sums(build("layers", "__syncthreads();", ""), seed=1)
    assert not np.allclose(found, wanted, atol=1e-5)  # of shared memory that was not written yet


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_index_that_is_off_by_one_is_found(monkeypatch, dtype):
    def faulty(text, macros):
        return emulator.build(text.replace("i < size", "i <= size"), macros)

    monkeypatch.setattr(libraries.RawModule, "build", staticmethod(faulty))
    cuda = cupy_stub.backend()
    z, bias = (cuda.xp.ones(shape, dtype=dtype) for shape in ((1, 3), (3,)))
    cuda.bias_activation(z, bias, mlpkit.Identity())
    with pytest.raises(AssertionError, match="outside its arrays"):
        check_margins()


@needs_compiler
def test_threads_that_wait_for_each_other_for_ever_are_reported():
    library = build(
        "layers", "__syncthreads();", "if (threadIdx.x == 0) __shfl_xor_sync(~0u, 1, 1);"
    )
    with pytest.raises(
        emulator.KernelError, match=r"deadlock: \d+ threads wait, block .* at __shfl"
    ):
        sums(library, seed=1)


@needs_compiler
def test_arguments_of_other_sizes_are_refused():
    with pytest.raises(emulator.KernelError, match="other sizes than the kernel's parameters: 8 4"):
        emulator.launch(build("loss"), "sum_losses", (1,), (32,), (np.uintp(0), np.float32(1)))


def run_all(cuda):
    """Every kernel of a backend, in all of its branches."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return cuda.asarray(rng.random(shape), np.float32)

    for activation in (mlpkit.ReLU(), mlpkit.Identity()):
        for n in (5, 300):  # in one chunk, and in two
            z, y = cuda.bias_activation(draw(n, 40) - 0.5, draw(40), activation)
            cuda.bias_activation_gradient(draw(n, 40), z, y, activation, draw(40))
    labels = cuda.asarray(np.array([0, 2, 5, -1, 1]))
    for settings in ((), (draw(),), (None, draw(3)), (None, None, draw(5))):
        cuda.softmax_cross_entropy(draw(5, 3), labels, *settings)
    for data in (np.ones((4, 3), np.uint8), np.ones((4, 3), np.float32)):
        cuda.gather_rows(cuda.asarray(data), cuda.asarray(np.array([0, -1, 7])), np.float32, 0.5)
    key, count = cuda.asarray(np.array([1, 2])), cuda.asarray(np.array(3))
    cuda.random_bits(key, count, 7)
    cuda.dropout(draw(3, 3), key, count, cuda.asarray(np.array(2**31)), draw())
    w, g, m, s, v = (draw(9) for _ in range(5))
    half, step = cuda.asarray(np.array(0.5)), cuda.asarray(np.array(3.0))
    cuda.sgd(w, g, None, half)
    cuda.sgd(w, g, v, half, half, half, True)
    cuda.rmsprop(w, g, s, None, None, half, half, half)
    cuda.rmsprop(w, g, s * 0, m, v, half, half, half, half, half)
    cuda.adagrad(w, g, s, half, half, half, step, half)
    cuda.adam(w, g, m, s, half, half, half, half, step, half, True)
    cuda.nadam(w, g, m, s, cuda.asarray(np.ones(1)), half, half, half, half, half, step, half)
    cuda.lion(w, g, m, half, half, half, half)


@needs_compiler
@pytest.mark.skipif(shutil.which("gcov") is None, reason="gcov is not installed")
def test_every_line_of_the_sources_is_run(monkeypatch, tmp_path):
    counted = partial(emulator.build, folder=tmp_path, flags=("--coverage",))
    monkeypatch.setattr(libraries.RawModule, "build", staticmethod(counted))
    cuda = cupy_stub.backend()
    run_all(cuda)
    for module in cuda._kernel._modules.values():
        module.library.dump_coverage()
    data = [path.name for path in tmp_path.glob("*.gcda")]
    assert len(data) == len(FILES) + 1  # data.cu for two types
    command = ["gcov", "--json-format", "--stdout", *data]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for report in map(json.loads, told.stdout.splitlines()):
        (lines,) = [f["lines"] for f in report["files"] if f["file"].endswith("kernels.cu")]
        assert lines
        assert [line["line_number"] for line in lines if line["count"] == 0] == []


@pytest.mark.parametrize(("real", "source"), [("float", "unsigned char"), ("double", "double")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_sources_compile_for_gpus_and_stay_in_registers(file, architecture, real, source):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        std="c++17",
        arch=f"sm_{architecture}",
        define_macro=[f"REAL={real}", f"SOURCE={source}"],
        ftz=True,  # as CuPy
        ptxas_options=["-v"],
    )
    log = io.StringIO()
    Program(cuda_kernels.source(file), "c++", options).compile("cubin", logs=log)
    kinds = "stack frame", "spill stores", "spill loads"
    for kind in kinds:  # memory of a thread, which is not in its registers
        assert set(re.findall(rf"(\d+) bytes {kind}", log.getvalue())) == {"0"}, kind
