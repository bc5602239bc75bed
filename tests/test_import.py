"""What `import mlpkit` costs, and the names that it gives."""

import subprocess
import sys

import mlpkit

OPTIONAL = (
    "PIL", "array_api_compat", "cupy", "numba", "pooch", "requests", "rich", "safetensors",
    "threadpoolctl", "torch", "typer",
)  # fmt: skip

PUBLIC = """
    Activation Adagrad Adam AdamW Backend BackendUnavailableError BatchNorm BinaryCrossEntropy
    BinaryFocal Callback Checkpoint ClipNorm ClipValue Constraint Context Dense Dropout ELU
    EarlyStopping Focal GELU GELUTanh HalfSquaredError History Huber Identity JSONLinesLog L1 L2
    LBFGS Layer LayerNorm LeakyReLU Lion Loss MLP MaxNorm MeanAbsoluteError MeanSquaredError
    MovingAverage Muon NAdam Network Optimizer Penalty Progress RMSprop ReLU ReduceOnPlateau
    Residual SGD SiLU Sigmoid SoftTargets Softmax SoftmaxCrossEntropy Softplus Tanh Trainer
    Update available_backends check_gradients data get_backend lesson load metrics restore_state
    save save_state schedules
"""


def python(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_import_loads_nothing_heavy():
    everything = "[getattr(mlpkit, name) for name in mlpkit.__all__]"
    loaded = set(python(f"import mlpkit, sys; {everything}; print(*sys.modules)"))
    assert "mlpkit.trainer" in loaded
    assert loaded.isdisjoint(OPTIONAL)


def test_a_name_is_imported_when_it_is_asked_for():
    assert "mlpkit.trainer" not in python("import mlpkit, sys; print(*sys.modules)")


def test_a_training_on_numpy_loads_nothing_more():
    code = """
import mlpkit, numpy, sys
mlpkit.Trainer(mlpkit.MLP([2, 2])).fit(numpy.zeros((2, 2)), [0, 1], epochs=1)
print(*sys.modules)
"""
    assert set(python(code)).isdisjoint(OPTIONAL)


def test_the_public_names_are_these():
    names = set(PUBLIC.split())
    assert set(mlpkit.__all__) == names
    assert names <= set(dir(mlpkit))
    for name in names:
        assert getattr(mlpkit, name).__doc__, f"{name} has no docstring"


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert mlpkit.__version__ == version("mlpkit")
