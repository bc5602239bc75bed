"""What a network is judged by, computed on the device: `metric(network, scores, targets)`."""

from collections.abc import Callable

from mlpkit.backends import Array
from mlpkit.backends.names import look_up
from mlpkit.network import Network

Metric = Callable[[Network, Array, Array], Array]


def accuracy(network: Network, scores: Array, targets: Array) -> Array:
    """The share of samples whose predicted class is the target's, () or (K,) float64.

    Targets are class labels (N,) or (K, N), or distributions shaped like the scores, whose class
    is the largest entry.  With one output the classes are 0 and 1, and a target of over 0.5 is 1.
    """
    xp = network.backend.xp
    if network.n_out == 1:
        flat = targets[..., 0] if len(targets.shape) > 1 and targets.shape[-1] == 1 else targets
        classes = xp.astype(flat, xp.float64) > 0.5
    elif xp.isdtype(targets.dtype, "integral"):
        classes = targets
    else:
        classes = xp.argmax(targets, axis=-1)
    hits = network.classes(scores) == xp.astype(classes, xp.int64)
    return xp.mean(xp.astype(hits, xp.float64), axis=-1)


METRICS: dict[str, Metric] = {"accuracy": accuracy}


def get_metric(name: str) -> Metric:
    """A metric by its name."""
    return look_up("metric", name, METRICS)
