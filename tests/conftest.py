"""The array libraries that the tests run on, and read-only data to give them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from emulated import emulated_backend
from emulated.memory import check_margins
from hypothesis import settings

from mlpkit.backends import Backend, get_backend

settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")

BACKENDS = [
    pytest.param("numpy"),
    pytest.param("array_api_strict"),
    pytest.param("torch", marks=pytest.mark.torch),
    pytest.param("cupy", marks=pytest.mark.gpu),
]


def backend_called(name: str) -> Backend:
    """A backend of the tests, or a skip with the reason where its library is missing."""
    if name in ("numpy", "cupy"):
        return get_backend(name)
    return get_backend(pytest.importorskip(name))


@pytest.fixture(autouse=True)
def margins() -> Iterator[None]:
    """Fails where a kernel of the stand-in for CuPy has written beside its arrays."""
    yield
    check_margins()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_called(request.param)


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Backend:
    """CuPy's backend, on the stand-in for CuPy or on a GPU."""
    return emulated_backend() if request.param == "emulated" else get_backend("cupy")


@pytest.fixture
def emulated() -> Backend:
    """CuPy's backend on the stand-in."""
    return emulated_backend()


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def draw() -> Callable[..., Any]:
    """Draws read-only host arrays, so that a kernel that writes into its input fails.

    draw(3, 4) is normal float64; draw(3, 4, below=10) are integers in [0, 10).
    """
    rng = np.random.default_rng(20240607)

    def draw(*shape: int, below: int | None = None) -> Any:
        drawn = rng.standard_normal(shape) if below is None else rng.integers(0, below, shape)
        drawn.setflags(write=False)
        return drawn

    return draw
