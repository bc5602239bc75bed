"""Initial parameters, drawn on the host in float64, so that they are the same on every backend."""

import math

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends.names import unknown_name
from mlpkit.random import Key, normal, uniform

# The variance that each scheme gives a weight (fan_in, fan_out).
VARIANCES = {
    "glorot": lambda fan_in, fan_out: 2.0 / (fan_in + fan_out),  # Glorot and Bengio 2010
    "he": lambda fan_in, fan_out: 2.0 / fan_in,  # He and others 2015
    "lecun": lambda fan_in, fan_out: 1.0 / fan_in,  # LeCun and others 1998
}
INITIALIZERS = ("zeros", "ones", *(f"{v}_{d}" for v in VARIANCES for d in ("uniform", "normal")))


def check_initializer(name: str) -> None:
    """Raise ValueError for a name that is not an initializer."""
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise unknown_name("initializer", name, INITIALIZERS)


def draw(name: str, shape: tuple[int, ...], key: Key) -> NDArray[np.float64]:
    """A parameter of the given shape, (D, H) or (H,): constant, or of the scheme's variance."""
    check_initializer(name)
    if name in ("zeros", "ones"):
        return np.full(shape, float(name == "ones"))
    scheme, distribution = name.split("_")
    std = math.sqrt(VARIANCES[scheme](shape[0], shape[-1]))
    size = math.prod(shape)
    if distribution == "normal":
        return std * normal(key, size).reshape(shape)
    limit = math.sqrt(3.0) * std  # a uniform number in (-a, a) has variance a^2 / 3
    return limit * (2.0 * uniform(key, size) - 1.0).reshape(shape)
