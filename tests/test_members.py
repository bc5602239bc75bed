"""K members trained at once are K networks trained one by one, each with its own settings."""

import numpy as np
import pytest

from mlpkit import (
    MLP,
    SGD,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    EarlyStopping,
    HalfSquaredError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    Trainer,
    schedules,
)

K, N, D, C, STEPS, SEED = 4, 6, 5, 3, 3, 20
LR = (0.2, 0.05, 0.1, 0.01)
DECAY = (0.0, 0.1, 0.01, 0.5)
DROPOUT = (0.0, 0.2, 0.5, 0.8)
# Rounding: one product over all members may add in another order than a product of its own.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

OPTIMIZERS = {
    "sgd": (SGD, {"lr": LR}),
    "sgd, one rate": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": LR, "momentum": (0.0, 0.5, 0.9, 0.99)}),
    "nesterov": (SGD, {"lr": LR, "momentum": (0.1, 0.5, 0.9, 0.99), "nesterov": True}),
    "sgd, decay": (SGD, {"lr": LR, "momentum": 0.9, "weight_decay": DECAY}),
    "adam": (Adam, {"lr": LR, "eps": (1e-8, 1e-6, 1e-3, 1e-2)}),
    "adam, betas": (
        Adam,
        {"lr": LR, "betas": ((0.9, 0.5, 0.8, 0.0), (0.9, 0.99, 0.999, 0.5)), "weight_decay": DECAY},
    ),
    "adamw": (AdamW, {"lr": LR, "betas": (0.9, (0.9, 0.99, 0.999, 0.5)), "weight_decay": DECAY}),
}


def of_member(k, value):
    """Member k's part of a setting: its own number, also inside a pair of betas."""
    if not isinstance(value, tuple):
        return value
    return value[k] if len(value) == K else tuple(of_member(k, part) for part in value)


def built(optimizer, k=None):
    """The update rule of all members, or of member k alone."""
    rule, settings = OPTIMIZERS[optimizer]
    if k is None:
        return rule(**settings)
    return rule(**{name: of_member(k, value) for name, value in settings.items()})


def network(backend, dtype, k=None, dropout=DROPOUT, activation="tanh", multilabel=False):
    """All members, or member k alone."""
    members, seed = (K, SEED) if k is None else (None, SEED + k)
    dropout = dropout if k is None else of_member(k, dropout)
    return MLP([D, 7, 4, C], activation, dropout=dropout, members=members,
               backend=backend, dtype=dtype, seed=seed, multilabel=multilabel)  # fmt: skip


def train(net, loss, rule, x, targets):
    """The losses (S,) or (S, K) of a few steps, and the parameters, on the host."""
    trainer = Trainer(net, loss, rule)
    losses = [net.backend.to_numpy(trainer.step(*b)) for b in zip(x, targets, strict=True)]
    return np.array(losses), net.backend.to_numpy(net.params)


def assert_close(got, want, dtype):
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE[dtype] * np.abs(want).max()


@pytest.mark.parametrize("batch", ["shared batch", "batch per member"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_together_is_one_by_one(backend, dtype, draw, optimizer, batch):
    stack = () if batch == "shared batch" else (K,)
    x, labels = draw(STEPS, *stack, N, D), draw(STEPS, *stack, N, below=C)
    smoothing = (0.0, 0.1, 0.3, 0.5)
    net = network(backend, dtype)
    losses, params = train(net, SoftmaxCrossEntropy(smoothing), built(optimizer), x, labels)
    assert losses.shape == (STEPS, K)
    for k in range(K):
        loss, alone = SoftmaxCrossEntropy(smoothing[k]), network(backend, dtype, k)
        of_k = (x[:, k], labels[:, k]) if stack else (x, labels)
        losses_k, params_k = train(alone, loss, built(optimizer, k), *of_k)
        assert_close(losses[:, k], losses_k, dtype)
        assert_close(params[k], params_k, dtype)


@pytest.mark.parametrize("shapes", ["x shared", "targets shared"])
@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), MeanSquaredError(), HalfSquaredError()])
def test_inputs_or_targets_alone_may_be_shared(backend, draw, loss, shapes):
    x_shared = shapes == "x shared"
    x = draw(STEPS, N, D) if x_shared else draw(STEPS, K, N, D)
    targets = draw(STEPS, K, N, C, below=2) if x_shared else draw(STEPS, N, C, below=2)
    rule = SGD(0.1, momentum=0.9)
    settings = {"activation": "relu", "multilabel": isinstance(loss, BinaryCrossEntropy)}
    _, params = train(network(backend, "float64", **settings), loss, rule, x, targets)
    for k in range(K):
        alone = network(backend, "float64", k, **settings)
        of_k = (x, targets[:, k]) if x_shared else (x[:, k], targets)
        assert_close(params[k], train(alone, loss, rule, *of_k)[1], "float64")


def test_seeds_may_be_listed(draw):
    listed = MLP([D, C], members=3, seed=(7, 3, 7))
    params = listed.params
    np.testing.assert_array_equal(params[0], params[2])
    np.testing.assert_array_equal(params[1], MLP([D, C], seed=3).params)
    assert np.any(params[0] != params[1])


def noisy_data(draw):
    """Labels that are half chance, so that the validation loss soon rises again."""
    x, labels = draw(48, D), draw(48, below=C)
    return (x[:24], labels[:24]), (x[24:], labels[24:])


@pytest.mark.parametrize(
    ("patience", "own_data"),
    [(1, False), (2, True)],
    ids=["patience 1, shared data", "patience 2, data per member"],
)
def test_early_stopping_keeps_for_each_member_what_it_would_keep_alone(
    backend, draw, patience, own_data
):
    sets = [noisy_data(draw) for _ in range(K)]
    train_set, validation = (
        tuple(np.stack([sets[k][part][i] for k in range(K)]) for i in range(2))
        if own_data
        else sets[0][part]
        for part in range(2)
    )

    def fit(k=None):
        rates = LR if k is None else LR[k]
        net = network(backend, "float64", k, dropout=(0.0, 0.1, 0.0, 0.3))
        rule = Adam(schedules.cosine(rates, warmup=0.1))
        trainer = Trainer(net, "softmax_cross_entropy", rule, metrics=["accuracy"], seed=5)
        of_k = [(x[k], y[k]) if own_data and k is not None else (x, y)
                for x, y in (train_set, validation)]  # fmt: skip
        stopping = EarlyStopping(patience=patience)
        history = trainer.fit(*of_k[0], 12, 10, validation=of_k[1], callbacks=[stopping])
        return history, net.backend.to_numpy(net.params), trainer.evaluate(*of_k[1])

    history, params, figures = fit()
    lengths = []
    for k in range(K):
        alone, params_k, figures_k = fit(k)
        lengths.append(len(alone.rows))
        for column in ("loss", "val_loss", "val_accuracy", "lr"):
            together = [values[k] for values in history[column][: len(alone.rows)]]
            np.testing.assert_allclose(together, alone[column], rtol=1e-9)
        assert_close(params[k], params_k, "float64")
        assert figures["loss"][k] == pytest.approx(figures_k["loss"], rel=1e-12)
        assert figures_k["loss"] == pytest.approx(min(alone["val_loss"]), rel=1e-12)
    assert len(history.rows) == max(lengths)
    assert len(set(lengths)) > 1, "the members should stop at different epochs"
