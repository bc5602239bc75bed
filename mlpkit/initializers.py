"""Initial parameters, drawn on the host in float64, so that they are the same on every backend."""

import math

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends.names import unknown_name
from mlpkit.random import Key, normal, uniform
from mlpkit.settings import one_number

Initializer = str | float  # a name, or the number that all elements begin with

# The variance that each scheme gives a weight (fan_in, fan_out).
VARIANCES = {
    "glorot": lambda fan_in, fan_out: 2.0 / (fan_in + fan_out),  # Glorot and Bengio 2010
    "he": lambda fan_in, fan_out: 2.0 / fan_in,  # He and others 2015
    "lecun": lambda fan_in, fan_out: 1.0 / fan_in,  # LeCun and others 1998
}
INITIALIZERS = (
    "zeros", "ones", "orthogonal", *(f"{v}_{d}" for v in VARIANCES for d in ("uniform", "normal"))
)  # fmt: skip


def check_initializer(initializer: object) -> None:
    """Raise ValueError or TypeError for what is neither a number nor a known name."""
    if not isinstance(initializer, str):
        if not math.isfinite(one_number("an initializer", initializer, low=-math.inf)):
            raise ValueError(f"an initializer is a finite number or a name, got {initializer!r}")
    elif initializer not in INITIALIZERS:
        raise unknown_name("initializer", initializer, INITIALIZERS)


def draw(initializer: Initializer, shape: tuple[int, ...], key: Key) -> NDArray[np.float64]:
    """A parameter of the given shape, (D, H) or (H,): constant, or random under the key."""
    check_initializer(initializer)
    if not isinstance(initializer, str):
        return np.full(shape, float(initializer))
    if initializer in ("zeros", "ones"):
        return np.full(shape, float(initializer == "ones"))
    size = math.prod(shape)
    if initializer == "orthogonal":
        return _orthogonal(normal(key, size).reshape(-1, shape[-1])).reshape(shape)
    scheme, distribution = initializer.split("_")
    std = math.sqrt(VARIANCES[scheme](shape[0], shape[-1]))
    if distribution == "normal":
        return std * normal(key, size).reshape(shape)
    limit = math.sqrt(3.0) * std  # a uniform number in (-a, a) has variance a^2 / 3
    return limit * (2.0 * uniform(key, size) - 1.0).reshape(shape)


def _orthogonal(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal columns, or rows where they are fewer, each such matrix as likely as any other.

    Q of a normal matrix, with R's diagonal made positive (Saxe and others 2014, Mezzadri 2007).
    """
    q, r = np.linalg.qr(a if a.shape[0] >= a.shape[1] else a.T)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return q if a.shape[0] >= a.shape[1] else q.T
