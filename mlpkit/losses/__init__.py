"""The losses: `loss(backend, scores, targets)` gives the mean over the samples and its derivative.

The mean, () or (K,), stays on the device; the derivative is shaped like the scores.
"""

from mlpkit.backends.names import look_up
from mlpkit.losses.base import Loss as Loss
from mlpkit.losses.base import check_weights as check_weights
from mlpkit.losses.base import fit_weights as fit_weights
from mlpkit.losses.base import sample_axis as sample_axis
from mlpkit.losses.classification import BinaryCrossEntropy as BinaryCrossEntropy
from mlpkit.losses.classification import BinaryFocal as BinaryFocal
from mlpkit.losses.classification import Focal as Focal
from mlpkit.losses.classification import ManyClasses as ManyClasses
from mlpkit.losses.classification import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from mlpkit.losses.distillation import SoftTargets as SoftTargets
from mlpkit.losses.regression import HalfSquaredError as HalfSquaredError
from mlpkit.losses.regression import Huber as Huber
from mlpkit.losses.regression import MeanAbsoluteError as MeanAbsoluteError
from mlpkit.losses.regression import MeanSquaredError as MeanSquaredError

KINDS: tuple[type[Loss], ...] = (
    SoftmaxCrossEntropy, Focal, BinaryCrossEntropy, BinaryFocal, SoftTargets,
    MeanSquaredError, HalfSquaredError, MeanAbsoluteError, Huber,
)  # fmt: skip
LOSSES = {kind.name: kind for kind in KINDS}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by its name, or itself."""
    if isinstance(loss, Loss):
        return loss
    return look_up("loss", loss, LOSSES)()
