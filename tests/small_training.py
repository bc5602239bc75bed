"""A training of a second or less, for the tests of files."""

import numpy as np

import mlpkit


def host(network):
    return network.backend.to_numpy(network.params)


def trainer_of(backend="numpy", lr=0.05, dropout=0.3, loss="softmax_cross_entropy", seed=0):
    network = mlpkit.MLP([4, 8, 3], dropout=dropout, members=2, backend=backend)
    optimizer = mlpkit.Adam(mlpkit.schedules.cosine(lr, warmup=0.1), weight_decay=1e-3)
    return mlpkit.Trainer(network, loss, optimizer, seed=seed)


def fit(trainer, path, patience=2, last=None):
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    stopping = mlpkit.EarlyStopping(patience=patience)
    callbacks = [stopping, mlpkit.Checkpoint(path), *([last] if last else [])]
    trainer.fit(x[:30], y[:30], 6, batch_size=8, validation=(x[30:], y[30:]), callbacks=callbacks)
    return stopping
