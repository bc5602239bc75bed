"""The update rules: settings, memory, and one update of a network's parameters."""

from mlpkit.optimizers.base import Optimizer as Optimizer
from mlpkit.optimizers.base import OptimizerState as OptimizerState
from mlpkit.optimizers.base import Update as Update
from mlpkit.optimizers.lbfgs import LBFGS as LBFGS
from mlpkit.optimizers.muon import Muon as Muon
from mlpkit.optimizers.rules import SGD as SGD
from mlpkit.optimizers.rules import Adagrad as Adagrad
from mlpkit.optimizers.rules import Adam as Adam
from mlpkit.optimizers.rules import AdamW as AdamW
from mlpkit.optimizers.rules import Lion as Lion
from mlpkit.optimizers.rules import NAdam as NAdam
from mlpkit.optimizers.rules import RMSprop as RMSprop

KINDS: tuple[type[Optimizer], ...] = (
    SGD, RMSprop, Adagrad, Adam, AdamW, NAdam, Lion, Muon, LBFGS
)  # fmt: skip
OPTIMIZERS = {kind.__name__.lower(): kind for kind in KINDS}
