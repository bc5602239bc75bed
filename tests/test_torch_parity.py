"""25 steps from the same weights on the same batches agree with PyTorch, digit for digit."""

import math

import numpy as np
import pytest

from mlpkit import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Backend,
    BinaryCrossEntropy,
    HalfSquaredError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    Trainer,
    schedules,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")
F = torch.nn.functional
optim = torch.optim

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost these tiny networks far more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STEPS, N, SIZES = 25, 8, [7, 6, 5, 4]
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)

OPTIMIZERS = {
    "sgd": (SGD, optim.SGD, {"lr": 0.1}),
    "momentum": (SGD, optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (SGD, optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd, decay": (SGD, optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "adam": (Adam, optim.Adam, {"lr": 0.02}),
    "adam, decay": (Adam, optim.Adam, {"lr": 0.02, "weight_decay": 0.05}),
    "adamw": (AdamW, optim.AdamW, {"lr": 0.02}),
}
MORE_OPTIMIZERS = OPTIMIZERS | {
    "nesterov, decay": (
        SGD,
        optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    ),
    "adam, betas, eps": (Adam, optim.Adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}),
    "adamw, decay": (AdamW, optim.AdamW, {"lr": 0.02, "weight_decay": 0.3}),
}
ACTIVATIONS = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda z: z,
}


def cross_entropy(smoothing=0.0, weights=None):
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return lambda s, t: F.cross_entropy(s, t, weight=weights, label_smoothing=smoothing)


LOSSES = {
    "labels": (SoftmaxCrossEntropy(), cross_entropy(), "labels"),
    "labels, smooth": (SoftmaxCrossEntropy(0.1), cross_entropy(0.1), "labels"),
    "labels, weighted": (
        SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS),
        cross_entropy(weights=CLASS_WEIGHTS),
        "labels",
    ),
    "labels, both": (
        SoftmaxCrossEntropy(0.1, CLASS_WEIGHTS),
        cross_entropy(0.1, CLASS_WEIGHTS),
        "labels",
    ),
    "shares": (SoftmaxCrossEntropy(), cross_entropy(), "shares"),
    "shares, both": (
        SoftmaxCrossEntropy(0.1, CLASS_WEIGHTS),
        cross_entropy(0.1, CLASS_WEIGHTS),
        "shares",
    ),
    "bce": (BinaryCrossEntropy(), F.binary_cross_entropy_with_logits, "truth"),
    "mse": (MeanSquaredError(), F.mse_loss, "values"),
    "half": (HalfSquaredError(), lambda s, t: ((s - t) ** 2).sum() / (2 * len(s)), "values"),
}


def batches(kind, steps=STEPS):
    """Inputs (steps, N, D) and targets (steps, N) or (steps, N, C)."""
    rng = np.random.default_rng(11)
    x, values = rng.normal(size=(steps, N, SIZES[0])), rng.normal(size=(steps, N, SIZES[-1]))
    if kind == "labels":
        return x, rng.integers(0, SIZES[-1], (steps, N))
    if kind == "truth":
        return x, (values > 0).astype(np.float64)
    if kind == "shares":
        return x, np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
    return x, values


def train_torch(weights, activation, loss, optimizer, settings, x, targets, rates=None):
    """The losses and the parameters after a step on each of the batches."""
    params = [torch.tensor(value, requires_grad=True) for value in weights]
    updates = optimizer(params, **settings)
    losses = []
    for i, (batch, target) in enumerate(zip(x, targets, strict=True)):
        y = torch.tensor(batch)
        for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
            y = ACTIVATIONS[activation](y @ W + b)
        value = loss(y @ params[-2] + params[-1], torch.tensor(target))
        updates.zero_grad()
        value.backward()
        if rates is not None:
            updates.param_groups[0]["lr"] = rates[i]
        updates.step()
        losses.append(value.item())
    return losses, np.concatenate([value.detach().numpy().ravel() for value in params])


def assert_same(net, losses, wanted_losses, wanted_params):
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-9)
    error = np.abs(net.backend.to_numpy(net.params) - wanted_params).max()
    assert error <= 1e-9 * np.abs(wanted_params).max()


def compare(backend, optimizer, activation, loss):
    rule, torch_optimizer, settings = MORE_OPTIMIZERS[optimizer]
    own_loss, torch_loss, kind = LOSSES[loss]
    x, targets = batches(kind)
    net = MLP(SIZES, activation, backend=backend, dtype="float64", seed=1)
    weights = [net.backend.to_numpy(value) for value in net.named_parameters().values()]
    trainer = Trainer(net, own_loss, rule(**settings))
    losses = [float(trainer.step(*batch)) for batch in zip(x, targets, strict=True)]
    assert_same(
        net,
        losses,
        *train_torch(weights, activation, torch_loss, torch_optimizer, settings, x, targets),
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_25_steps_agree(optimizer, activation, loss):
    compare("numpy", optimizer, activation, loss)


@pytest.mark.parametrize(
    "backend", ["numpy", Backend(np, "generic"), torch], ids=["numpy", "generic", "torch"]
)
@pytest.mark.parametrize("optimizer", MORE_OPTIMIZERS)
def test_25_steps_agree_whatever_the_kernels(optimizer, backend):
    compare(backend, optimizer, "relu", "labels, both")


@pytest.mark.parametrize("optimizer", ["nesterov, decay", "adam", "adamw, decay"])
def test_cosine_with_warmup_agrees_step_by_step(optimizer):
    rule, torch_optimizer, settings = MORE_OPTIMIZERS[optimizer]
    rate, warm, final = 0.05, 6, 0.1
    rates = [rate * (i + 1) / (warm + 1) for i in range(warm)]
    for i in range(STEPS - warm):
        half_cosine = (1 + math.cos(math.pi * i / (STEPS - warm))) / 2
        rates.append(rate * (final + (1 - final) * half_cosine))

    x, targets = (array[0] for array in batches("labels", steps=1))
    net = MLP(SIZES, "tanh", dtype="float64", seed=1)
    weights = [net.backend.to_numpy(value) for value in net.named_parameters().values()]
    lr = schedules.cosine(rate, warmup=0.25, final=final)
    trainer = Trainer(net, "softmax_cross_entropy", rule(**(settings | {"lr": lr})))
    # One batch an epoch, so that the history has the loss and the rate of every step.
    history = trainer.fit(x, targets, epochs=STEPS, batch_size=N)

    np.testing.assert_allclose(history["lr"], rates, rtol=1e-12)
    again = [x] * STEPS, [targets] * STEPS
    wanted = train_torch(weights, "tanh", cross_entropy(), torch_optimizer, settings, *again, rates)
    assert_same(net, history["loss"], *wanted)
