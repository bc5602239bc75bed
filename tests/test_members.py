"""K members trained at once are K networks trained one by one, each with its own settings."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from mlpkit import (
    L1,
    L2,
    LBFGS,
    MLP,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BatchNorm,
    BinaryCrossEntropy,
    BinaryFocal,
    ClipNorm,
    ClipValue,
    Dense,
    Dropout,
    EarlyStopping,
    Focal,
    HalfSquaredError,
    Huber,
    LayerNorm,
    Lion,
    MaxNorm,
    MeanAbsoluteError,
    MeanSquaredError,
    Muon,
    NAdam,
    Network,
    Residual,
    RMSprop,
    SoftmaxCrossEntropy,
    SoftTargets,
    Tanh,
    Trainer,
    schedules,
)
from mlpkit.losses import ManyClasses

K, N, D, C, STEPS, SEED = 4, 6, 5, 3, 3, 20
LR = (0.2, 0.05, 0.1, 0.01)
DECAY = (0.0, 0.1, 0.01, 0.5)
DROPOUT = (0.0, 0.2, 0.5, 0.8)
# Rounding: one product over all members may add in another order than a product of its own.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

RULES = {
    "sgd": SGD(LR),
    "sgd, one rate": SGD(0.1),
    "momentum": SGD(LR, momentum=(0.0, 0.5, 0.9, 0.99)),
    "nesterov": SGD(LR, momentum=(0.1, 0.5, 0.9, 0.99), nesterov=True),
    "sgd, decay": SGD(LR, momentum=0.9, weight_decay=DECAY),
    "rmsprop": RMSprop(LR, alpha=(0.9, 0.5, 0.99, 0.8), eps=(1e-8, 1e-6, 1e-3, 1e-2)),
    "rmsprop, all": RMSprop(LR, 0.9, 1e-3, DECAY, momentum=(0.0, 0.5, 0.9, 0.99), centered=True),
    "adagrad": Adagrad(LR, (0.0, 0.1, 1.0, 0.5), DECAY, initial=(0.0, 0.1, 1.0, 0.01), eps=1e-6),
    "adam": Adam(LR, eps=(1e-8, 1e-6, 1e-3, 1e-2)),
    "adam, betas": Adam(
        LR, ((0.9, 0.5, 0.8, 0.0), (0.9, 0.99, 0.999, 0.5)), weight_decay=DECAY
    ),
    "adamw": AdamW(LR, (0.9, (0.9, 0.99, 0.999, 0.5)), weight_decay=DECAY),
    "nadam": NAdam(LR, ((0.9, 0.5, 0.8, 0.0), 0.99), 1e-6, DECAY, (4e-3, 0.0, 0.1, 1.0)),
    "lion": Lion(LR, ((0.9, 0.5, 0.8, 0.0), (0.9, 0.99, 0.999, 0.5)), DECAY),
    "muon": Muon(LR, (0.9, 0.5, 0.0, 0.95), weight_decay=DECAY, rest=Adam(LR[::-1], eps=1e-6)),
    "muon, nadam": Muon(0.02, nesterov=False, rest=NAdam(LR, momentum_decay=(0.1, 0.0, 1.0, 0.5))),
    "lbfgs": LBFGS((1.0, 0.1, 4.0, 0.5), history=2, max_iter=3),
    "lbfgs, no search": LBFGS(LR, max_iter=3, line_search=False),
}  # fmt: skip


def of_member(k, setting):
    """Member k's part of a setting: its own number, also inside a pair of betas or a rule."""
    if is_dataclass(setting):
        named = {f.name: getattr(setting, f.name) for f in fields(setting)}
        return type(setting)(**{name: of_member(k, value) for name, value in named.items()})
    if not isinstance(setting, tuple):
        return setting
    return setting[k] if len(setting) == K else tuple(of_member(k, part) for part in setting)


def network(backend, dtype, k=None, dropout=DROPOUT, activation="tanh", multilabel=False):
    """All members, or member k alone."""
    members, seed = (K, SEED) if k is None else (None, SEED + k)
    dropout = dropout if k is None else of_member(k, dropout)
    return MLP([D, 7, 4, C], activation, dropout=dropout, members=members,
               backend=backend, dtype=dtype, seed=seed, multilabel=multilabel)  # fmt: skip


def train(net, loss, rule, x, targets, **more):
    """The losses (S,) or (S, K) of a few steps, and the parameters, on the host."""
    trainer = Trainer(net, loss, rule, **more)
    losses = [net.backend.to_numpy(trainer.step(*b)) for b in zip(x, targets, strict=True)]
    return np.array(losses), net.backend.to_numpy(net.params)


def assert_close(got, want, dtype):
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE[dtype] * np.abs(want).max()


@pytest.mark.parametrize("batch", ["shared batch", "batch per member"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_together_is_one_by_one(backend, dtype, draw, rule, batch):
    if isinstance(rule, LBFGS) and dtype == "float32":
        pytest.skip("differences of gradients have too few digits in float32")
    stack = () if batch == "shared batch" else (K,)
    x, labels = draw(STEPS, *stack, N, D), draw(STEPS, *stack, N, below=C)
    loss, dropout = SoftmaxCrossEntropy((0.0, 0.1, 0.3, 0.5)), DROPOUT
    if rule.full_batch:
        dropout = 0.0
    losses, params = train(network(backend, dtype, None, dropout), loss, rule, x, labels)
    assert losses.shape == (STEPS, K)
    for k in range(K):
        of_k = (x[:, k], labels[:, k]) if stack else (x, labels)
        alone = network(backend, dtype, k, dropout), of_member(k, loss), of_member(k, rule)
        losses_k, params_k = train(*alone, *of_k)
        assert_close(losses[:, k], losses_k, dtype)
        assert_close(params[k], params_k, dtype)


LAYERS = {
    "layer norm": [Dense(D, 7), LayerNorm(7), Tanh(), Dense(7, C)],
    "batch norm": [Dense(D, 7, bias=False), BatchNorm(7), Tanh(), Dense(7, C)],
    "residual": [
        Dense(D, 7, "tanh"),
        Residual((LayerNorm(7), Dense(7, 7, "silu"))),
        Dense(7, C),
    ],
    "dropout": [Dense(D, 7, "tanh"), Residual((Dense(7, 7), Dropout(DROPOUT))), Dense(7, C)],
}
LAYERS_AND_RULES = [
    (layers, rule)
    for layers in LAYERS
    for rule in ("nadam", "muon", "lbfgs")
    if (layers, rule) != ("dropout", "lbfgs")
]


@pytest.mark.parametrize(("layers", "rule"), LAYERS_AND_RULES)
def test_together_is_one_by_one_for_every_kind_of_layer(backend, draw, layers, rule):
    layers, rule = LAYERS[layers], RULES[rule]

    def built(k=None):
        of_k = layers if k is None else [of_member(k, layer) for layer in layers]
        members, seed = (K, SEED) if k is None else (None, SEED + k)
        return Network(of_k, members, backend, "float64", seed)

    x, labels = draw(STEPS, N, D), draw(STEPS, K, N, below=C)
    loss, net = SoftmaxCrossEntropy(), built()
    losses, params = train(net, loss, rule, x, labels)
    buffers = net.backend.to_numpy(net.buffers)
    for k in range(K):
        alone = built(k)
        losses_k, params_k = train(alone, loss, of_member(k, rule), x, labels[:, k])
        assert_close(losses[:, k], losses_k, "float64")
        assert_close(params[k], params_k, "float64")
        if buffers.size:
            assert_close(buffers[k], net.backend.to_numpy(alone.buffers), "float64")


@pytest.mark.parametrize(
    "loss",
    [
        Focal((0.0, 0.5, 2.0, 5.0)),
        BinaryFocal((0.0, 0.5, 2.0, 5.0), (0.1, 0.25, 0.5, 0.9)),
        BinaryCrossEntropy((0.5, 2.0, 1.0)),
        SoftTargets((1.0, 2.0, 4.0, 8.0)),
        Huber((0.1, 0.5, 1.0, 3.0)),
        MeanAbsoluteError(),
    ],
    ids=lambda loss: loss.name,
)
def test_together_is_one_by_one_for_every_loss(backend, draw, loss):
    targets = draw(STEPS, K, N, C)
    if isinstance(loss, ManyClasses):
        targets = (targets > 0).astype(float)
    if isinstance(loss, Focal):
        targets = draw(STEPS, K, N, below=C)
    settings, x = {"multilabel": isinstance(loss, ManyClasses)}, draw(STEPS, N, D)
    rule = RULES["sgd, decay"]
    losses, params = train(network(backend, "float64", **settings), loss, rule, x, targets)
    for k in range(K):
        alone = network(backend, "float64", k, **settings), of_member(k, loss), of_member(k, rule)
        losses_k, params_k = train(*alone, x, targets[:, k])
        assert_close(losses[:, k], losses_k, "float64")
        assert_close(params[k], params_k, "float64")


LIMITS = (0.001, 0.02, 0.3, 1.0)
TERMS = {
    "l1": {"penalties": [L1(LIMITS)]},
    "l2": {"penalties": [L2(LIMITS)]},
    "clip value": {"constraints": [ClipValue(LIMITS)]},
    "clip norm": {"constraints": [ClipNorm(LIMITS)]},
    "max norm": {"constraints": [MaxNorm(LIMITS)]},
    "all": {
        "penalties": [L1(LIMITS), L2(LIMITS[::-1])],
        "constraints": [ClipNorm(LIMITS), ClipValue(0.1), MaxNorm(LIMITS[::-1])],
    },
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_together_is_one_by_one_with_penalties_and_constraints(backend, draw, terms):
    x, labels = draw(STEPS, N, D), draw(STEPS, N, below=C)
    loss, rule = SoftmaxCrossEntropy(), RULES["adam"]
    free = train(network(backend, "float64"), loss, rule, x, labels)[1]
    losses, params = train(network(backend, "float64"), loss, rule, x, labels, **terms)
    assert np.abs(params - free).max() > 1e-3
    for k in range(K):
        alone = network(backend, "float64", k), loss, of_member(k, rule)
        of_k = {name: [of_member(k, term) for term in listed] for name, listed in terms.items()}
        losses_k, params_k = train(*alone, x, labels, **of_k)
        assert_close(losses[:, k], losses_k, "float64")
        assert_close(params[k], params_k, "float64")


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
