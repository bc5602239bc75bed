"""The backends that are compared, and the digits that they work on."""

import numpy as np
import pytest
from numpy.typing import NDArray

import mlpkit
from mlpkit.backends import Backend, BackendUnavailableError, get_backend
from mlpkit.backends.cpu import NumPyBackend


@pytest.fixture(scope="session")
def generic() -> Backend:
    """Every kernel as it is specified: what the others are compared with."""
    return Backend(np, "generic")


@pytest.fixture(params=["plain", "numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest, generic: Backend) -> Backend:
    """Plain NumPy, compiled NumPy or CuPy; a skip where it is missing.  Or the generic backend."""
    if request.param == "generic":
        return generic
    if request.param == "plain":
        return NumPyBackend()
    try:
        found = get_backend(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    if type(found) is NumPyBackend:
        pytest.skip("backend 'numpy' is not compiled here: pip install 'mlpkit[fast]'")
    return found


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """12,000 drawn digits: x (12000, 784) bytes, labels (12000,)."""
    x, labels = mlpkit.data.digits(12_000)
    return x, labels.astype(np.int64)
