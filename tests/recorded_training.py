"""A small training for the tests of recorded steps, and what they look at."""

import numpy as np

import mlpkit
from mlpkit.backends.graph import Graph


def small(backend, **how):
    """A trainer, and digits to train it on."""
    net = mlpkit.MLP([784, 8, 10], dropout=0.2, backend=backend)
    return mlpkit.Trainer(net, **how), [backend.asarray(a) for a in mlpkit.data.digits(40)]


def state(trainer):
    """What a training has changed."""
    network, memory = trainer.network, trainer.optimizer.memory.values()
    arrays = [network.params, network.buffers, *memory, trainer.optimizer.count]
    return [trainer.network.backend.to_numpy(array) for array in arrays]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


def graphs(step):
    return [run for run in step._runs.values() if isinstance(run, Graph)]
