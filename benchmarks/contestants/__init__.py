"""The contestants by name; a library is imported when it is asked for."""

from importlib import import_module

from benchmarks.contestants.base import Contestant

CONTESTANTS = {
    "mlpkit": "mlpkit.Fast",
    "mlpkit without numba": "mlpkit.Plain",
    "scikit-learn": "sklearn.ScikitLearn",
    "pytorch eager": "pytorch.Eager",
    "pytorch compiled": "pytorch.Compiled",
    "pytorch captured": "pytorch.Captured",
    "jax jit": "jax.Jit",
    "jax scan": "jax.Scan",
    "thinc": "thinc.Thinc",
}
OURS = ("mlpkit", "mlpkit without numba")


def find(name: str) -> type[Contestant]:
    """The class of a contestant; ImportError where its library is missing."""
    module, _, kind = CONTESTANTS[name].partition(".")
    found: type[Contestant] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found
