"""What `import mlpkit` costs, and the names that it gives."""

import subprocess
import sys

import mlpkit

OPTIONAL = (
    "PIL", "array_api_compat", "cupy", "numba", "pooch", "requests", "rich", "safetensors",
    "threadpoolctl", "torch", "typer",
)  # fmt: skip

PUBLIC = """
    Activation Adam AdamW Backend BackendUnavailableError BinaryCrossEntropy Callback Checkpoint
    Context Dense Dropout EarlyStopping HalfSquaredError History Identity JSONLinesLog Layer Loss
    MLP MeanSquaredError Network Optimizer Progress ReLU SGD Sigmoid SoftmaxCrossEntropy Tanh
    Trainer available_backends check_gradients data get_backend load restore_state save save_state
    schedules
"""


def python(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_import_loads_nothing_heavy():
    loaded = set(python("import mlpkit, sys; print(*sys.modules)"))
    assert "numpy" in loaded
    assert loaded.isdisjoint(OPTIONAL)


def test_a_training_on_numpy_loads_nothing_more():
    code = """
import mlpkit, numpy, sys
mlpkit.Trainer(mlpkit.MLP([2, 2])).fit(numpy.zeros((2, 2)), [0, 1], epochs=1)
print(*sys.modules)
"""
    assert set(python(code)).isdisjoint(OPTIONAL)


def test_the_public_names_are_these():
    """Beside them stand the modules they come from, which Python sets when it imports them."""
    code = """
import mlpkit, types
print(*[n for n, v in vars(mlpkit).items() if not (n[0] == "_" or type(v) is types.ModuleType)])
"""
    assert {*python(code), "data", "schedules"} == set(PUBLIC.split())
    assert mlpkit.data.digits
    assert mlpkit.schedules.cosine


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert mlpkit.__version__ == version("mlpkit")
