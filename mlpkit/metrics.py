"""What a network is judged by, computed on the device: `metric(network, scores, targets)`."""

from collections.abc import Callable

from mlpkit.backends import Array
from mlpkit.backends.names import look_up
from mlpkit.network import Network

Metric = Callable[[Network, Array, Array], Array]


def accuracy(network: Network, scores: Array, targets: Array) -> Array:
    """The share of samples whose predicted class is the target's, () or (K,) float64.

    Targets are class labels (N,) or (K, N), or numbers shaped like the scores, whose class is the
    largest; with one output the classes are 0 and 1, and a target of over 0.5 is 1.
    """
    xp = network.backend.xp
    if xp.isdtype(targets.dtype, "integral"):
        classes = targets
    elif network.n_out == 1:
        classes = targets[..., 0] > 0.5
    else:
        classes = xp.argmax(targets, axis=-1)
    hits = network.classes(scores) == xp.astype(classes, xp.int64)
    return xp.mean(xp.astype(hits, xp.float64), axis=-1)


METRICS: dict[str, Metric] = {"accuracy": accuracy}


def get_metric(metric: str | Metric) -> tuple[str, Metric]:
    """A metric with its name; a function of your own goes by its `__name__`."""
    if not callable(metric):
        return metric, look_up("metric", metric, METRICS)
    name = getattr(metric, "__name__", "<lambda>")
    if name in ("<lambda>", "loss"):
        raise ValueError(f"a metric goes by the name of its function, and {name!r} is none for it")
    return name, metric
