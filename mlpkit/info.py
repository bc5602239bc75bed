"""What a bug report should say: versions, devices, BLAS, threads."""

import importlib.metadata
import os
import platform
from importlib.util import find_spec

import mlpkit
from mlpkit.backends.cpu import NumPyBackend

PACKAGES = (
    "numpy", "numba", "tbb", "array-api-compat", "safetensors",
    "cupy-cuda12x", "cupy-cuda13x", "torch",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Name and value of each line of the report."""
    report = {
        "mlpkit": mlpkit.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} logical cores",
    }
    for package in PACKAGES:
        try:
            report[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            report[package] = "not installed"
    for name, reason in mlpkit.available_backends().items():
        report[f"backend {name}"] = reason or "works"
    return report | _devices() | _policy() | _thread_pools()


def _devices() -> dict[str, str]:
    """The CUDA devices that CuPy sees."""
    if find_spec("cupy") is None:
        return {}
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        names = [cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
    except Exception as error:  # a report must not fail on what it reports
        return {"CUDA": str(error)}
    return {f"CUDA device {i}": name for i, name in enumerate(names)}


def _policy() -> dict[str, str]:
    """How the CPU's kernels share the cores."""
    if type(mlpkit.get_backend("numpy")) is NumPyBackend:
        return {"threads": "plain NumPy; matrix products on the pool of the BLAS"}
    from mlpkit.backends.threads import THREADS

    return {"threads": str(THREADS)}


def _thread_pools() -> dict[str, str]:
    """BLAS and OpenMP libraries that are loaded, with their threads."""
    from threadpoolctl import threadpool_info

    return {
        f"{pool['user_api']} pool {number}": f"{pool['num_threads']} threads "
        f"({pool['internal_api']} {pool.get('version')}, {pool.get('architecture', '')})"
        for number, pool in enumerate(threadpool_info())
    }
