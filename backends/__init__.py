"""Array libraries and the kernels that run on them.

`get_backend` finds one by name; `Backend` is the generic implementation that each of them may
override.  A package adds its own under the entry-point group "mlpkit.backends": a name, and a
callable without arguments that returns a `Backend`.
"""

if __name__ != "mlpkit.backends":
    raise ImportError("this folder is mlpkit.backends; run pip install -e . and import that")

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlpkit.backends.base import Array as Array
from mlpkit.backends.base import Backend as Backend
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.cuda import BackendUnavailableError as BackendUnavailableError
from mlpkit.backends.cuda import CuPyBackend
from mlpkit.backends.names import unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def _numpy() -> Backend:
    """NumPy, with compiled kernels where Numba is installed."""
    if find_spec("numba") is None:
        return NumPyBackend()
    try:
        from mlpkit.backends.compiled import CompiledBackend
    except (ImportError, ValueError) as error:  # as where NumPy is newer than Numba knows, or
        # where Numba cannot make sense of its settings
        text = f"numba is installed, but cannot be used ({error}): kernels are plain NumPy"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return NumPyBackend()
    return CompiledBackend()


BUILTIN: dict[str, Callable[[], Backend]] = {"numpy": _numpy, "cupy": CuPyBackend}


def get_backend(name: Any = "numpy") -> Backend:
    """The backend called `name`.

    Parameters
    ----------
    name : "numpy"; "cupy"; "auto", which is CuPy where a GPU answers and NumPy elsewhere; the name
        of an installed plug-in; an Array API namespace (the module `torch`, `array_api_strict`, or
        one that array_api_compat wraps), whose arrays must lie in the host's memory; or a Backend,
        which is returned as it is.

    Raises
    ------
    ValueError
        An unknown name; the nearest known one is suggested.
    TypeError
        A thing that is none of these, or a library whose arrays cannot be written through views.
    BackendUnavailableError
        CuPy is missing, or no GPU answers.
    """
    if isinstance(name, Backend):
        return name
    if isinstance(name, str):
        return _by_name(name)
    if isinstance(name, ModuleType):
        return _by_namespace(name)
    raise TypeError(
        f"a backend is a name, an Array API namespace or a Backend, got {type(name).__name__}"
    )


def find_backend(name: str, precision: str | None = None) -> Backend:
    """The backend whose attributes these are: as `get_backend`, or a library's namespace."""
    known = name in BUILTIN or name in _plugins()
    backend = get_backend(name if known else import_module(name))
    return backend if precision is None else backend.at(precision)


def available_backends() -> dict[str, str]:
    """Each known name with "" where the backend works, else the reason why it does not."""
    reasons = {}
    for name in (*BUILTIN, *_plugins()):
        try:
            get_backend(name)
            reasons[name] = ""
        except Exception as error:  # a plug-in may fail in any way; say how
            reasons[name] = str(error)
    return reasons


def _plugins() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return {point.name: point for point in entry_points(group="mlpkit.backends")}


@cache
def _by_name(name: str) -> Backend:
    if name == "auto":
        try:
            return _by_name("cupy")
        except BackendUnavailableError:
            return _by_name("numpy")
    if name in BUILTIN:
        return BUILTIN[name]()
    plugins = _plugins()
    if name not in plugins:
        raise unknown_name("backend", name, ["auto", *BUILTIN, *plugins])
    backend = plugins[name].load()()
    if not isinstance(backend, Backend):
        raise TypeError(f"the plug-in {name!r} gave a {type(backend).__name__}, not a Backend")
    return backend


@cache
def _by_namespace(module: ModuleType) -> Backend:
    from array_api_compat import array_namespace

    name = module.__name__.removeprefix("array_api_compat.")
    if name in BUILTIN:
        return _by_name(name)
    try:
        xp = array_namespace(module.zeros(1))
    except (AttributeError, TypeError) as error:
        raise TypeError(f"{module.__name__} is not an Array API namespace: {error}") from error
    return Backend(xp, name)
