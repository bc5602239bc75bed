"""Which losses, rules, constraints and metrics go with which network."""

from collections.abc import Iterable, Sequence

from mlpkit.activations import Identity
from mlpkit.constraints import Constraint
from mlpkit.layers import Dropout
from mlpkit.losses import Loss, ManyClasses
from mlpkit.metrics import Metric, judges_classes
from mlpkit.network import Network
from mlpkit.optimizers import Optimizer
from mlpkit.settings import check_members
from mlpkit.stack import walk


def check_loss(network: Network, loss: Loss, metrics: Iterable[Metric]) -> None:
    """Raise ValueError for a loss, or metrics, that would not be what they seem."""
    check_members(loss.name, loss.hyper(), network.members)
    linear = isinstance(network.output, Identity)
    if loss.on_scores and not linear:
        raise ValueError(
            f"{loss.name} is computed from scores, but the network's output has passed "
            f"{network.output.name}; build it with output='linear'"
        )
    many = isinstance(loss, ManyClasses)
    if many and network.n_out > 1 and not network.multilabel:
        raise ValueError(
            f"{loss.name} on {network.n_out} outputs lets a sample have several classes: "
            "build the network with multilabel=True, so that it predicts them"
        )
    if network.multilabel and not many and loss.on_scores:
        raise ValueError(
            f"{loss.name} is of one class a sample, but the network is multilabel; "
            "use binary_cross_entropy"
        )
    no_threshold = network.n_out == 1 and linear and not many
    if no_threshold and any(map(judges_classes, metrics)):
        raise ValueError(
            f"accuracy with one linear output and {loss.name} has no threshold: "
            "use binary_cross_entropy, or output='sigmoid'"
        )


def check_rule(network: Network, rule: Optimizer, constraints: Sequence[Constraint]) -> None:
    """Raise ValueError for what a rule that compares losses of two points cannot have."""
    name = type(rule).__name__
    if not rule.full_batch:
        return
    if constraints:
        raise ValueError(f"{name} goes down a loss and its gradient, without {list(constraints)}")
    if any(isinstance(layer, Dropout) for _, _, layer in walk(network.layers)):
        raise ValueError(f"{name} compares losses: it needs a network without dropout")
