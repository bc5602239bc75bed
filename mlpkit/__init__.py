"""mlpkit: multilayer perceptrons, one or a thousand at once, on any array library.

>>> import mlpkit
>>> net = mlpkit.MLP([784, 256, 128, 10])
>>> net.n_parameters
235146
"""

import typing as _typing

from mlpkit import schedules as schedules
from mlpkit.activations import Activation as Activation
from mlpkit.activations import Identity as Identity
from mlpkit.activations import ReLU as ReLU
from mlpkit.activations import Sigmoid as Sigmoid
from mlpkit.activations import Tanh as Tanh
from mlpkit.backends import Backend as Backend
from mlpkit.backends import BackendUnavailableError as BackendUnavailableError
from mlpkit.backends import available_backends as available_backends
from mlpkit.backends import get_backend as get_backend
from mlpkit.base import Context as Context
from mlpkit.base import Layer as Layer
from mlpkit.callbacks import Callback as Callback
from mlpkit.callbacks import Checkpoint as Checkpoint
from mlpkit.callbacks import EarlyStopping as EarlyStopping
from mlpkit.callbacks import JSONLinesLog as JSONLinesLog
from mlpkit.checkpoint import load as load
from mlpkit.checkpoint import restore_state as restore_state
from mlpkit.checkpoint import save as save
from mlpkit.checkpoint import save_state as save_state
from mlpkit.gradcheck import check_gradients as check_gradients
from mlpkit.history import History as History
from mlpkit.layers import Dense as Dense
from mlpkit.layers import Dropout as Dropout
from mlpkit.losses import BinaryCrossEntropy as BinaryCrossEntropy
from mlpkit.losses import HalfSquaredError as HalfSquaredError
from mlpkit.losses import Loss as Loss
from mlpkit.losses import MeanSquaredError as MeanSquaredError
from mlpkit.losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from mlpkit.mlp import MLP as MLP
from mlpkit.network import Network as Network
from mlpkit.optimizers import SGD as SGD
from mlpkit.optimizers import Adam as Adam
from mlpkit.optimizers import AdamW as AdamW
from mlpkit.optimizers import Optimizer as Optimizer
from mlpkit.progress import Progress as Progress
from mlpkit.trainer import Trainer as Trainer

if _typing.TYPE_CHECKING:
    from mlpkit import data as data

__version__ = "0.1.0"


def __getattr__(name: str) -> _typing.Any:
    """`mlpkit.data` is imported when it is first asked for."""
    if name == "data":
        import mlpkit.data

        return mlpkit.data
    raise AttributeError(f"module 'mlpkit' has no attribute {name!r}")
