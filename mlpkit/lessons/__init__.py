"""The worked examples of a course on backpropagation, as texts that the library computes."""

from collections.abc import Callable

from mlpkit.lessons import cycle, descent, networks
from mlpkit.lessons.step import lesson as lesson

LESSONS: dict[str, tuple[str, Callable[[], str]]] = {
    "E1": ("Forward pass of a 3-4-1 sigmoid classifier", cycle.classifier),
    "E2": ("One gradient step of a linear 2-2-1 network", cycle.linear),
    "E3": ("A full cycle of a 2-2-2 sigmoid network", cycle.full_cycle),
    "E4": ("The derivatives of univariate logistic least squares", cycle.logistic),
    "E5": ("Backpropagation path by path, next to central differences", cycle.paths),
    "E6": ("Gradient descent, losses and activations", descent.descent),
    "E7": ("784-256-128-10: its 235,146 parameters, and one digit", networks.digit),
    "E8": (
        "What one hidden layer can approximate, and learn from a deep network",
        networks.approximation,
    ),
}
