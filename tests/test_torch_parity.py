"""25 steps from the same weights on the same batches agree with PyTorch, digit for digit."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mlpkit import (
    LBFGS,
    MLP,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Backend,
    BatchNorm,
    BinaryCrossEntropy,
    BinaryFocal,
    ClipNorm,
    Dense,
    Focal,
    HalfSquaredError,
    Huber,
    LayerNorm,
    Lion,
    MeanAbsoluteError,
    MeanSquaredError,
    Muon,
    NAdam,
    Network,
    Residual,
    RMSprop,
    SoftmaxCrossEntropy,
    SoftTargets,
    Trainer,
    activations,
    losses,
    optimizers,
    schedules,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")
F, nn, optim = torch.nn.functional, torch.nn, torch.optim

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", autouse=True)
def torch_in_float64():
    """On one thread, for threads that wait for each other cost more than they give."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        # NAdam keeps a product in the default dtype, and Muon would orthogonalize in bfloat16.
        torch.set_default_dtype(torch.float64)
        patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


STEPS, N, SIZES = 25, 8, [7, 6, 4]
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)


class Together:
    """Several optimizers that take a step after one computation of the gradients."""

    def __init__(self, *parts):
        self.parts = parts

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad()

    def step(self, closure):
        loss = closure()
        for part in self.parts:
            part.step()
        return loss


def muon(params, rest, **settings):
    if not hasattr(optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    params = list(params)
    weights, others = ([p for p in params if (p.ndim == 2) is wanted] for wanted in (True, False))
    return Together(optim.Muon(weights, **settings), optim.AdamW(others, **rest))


def lbfgs(params, **settings):
    return optim.LBFGS(params, tolerance_grad=0, tolerance_change=0, **settings)


class TorchLion(optim.Optimizer):
    """Algorithm 2 of Chen and others 2023, which PyTorch has not."""

    def __init__(self, params, **settings):
        super().__init__(params, settings)

    def step(self, closure):
        loss, group = closure(), self.param_groups[0]
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        with torch.no_grad():
            for w in group["params"]:
                m = self.state[w].get("m", torch.zeros_like(w))
                c = beta1 * m + (1 - beta1) * w.grad
                w.copy_(w - lr * (torch.sign(c) + decay * w))
                self.state[w]["m"] = beta2 * m + (1 - beta2) * w.grad
        return loss


def pair(kind, torch_kind, **settings):
    """A rule and its counterpart, where the settings have the same names."""
    return kind(**settings), partial(torch_kind, **settings)


OPTIMIZERS = {
    "sgd": pair(SGD, optim.SGD, lr=0.1),
    "momentum": pair(SGD, optim.SGD, lr=0.1, momentum=0.9),
    "nesterov, decay": pair(
        SGD, optim.SGD, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05
    ),
    "rmsprop": pair(RMSprop, optim.RMSprop, lr=0.01),
    "rmsprop, momentum, decay": pair(
        RMSprop, optim.RMSprop, lr=0.01, alpha=0.9, momentum=0.5, weight_decay=0.05
    ),
    "rmsprop, centered": pair(RMSprop, optim.RMSprop, lr=0.01, centered=True),
    "adagrad": pair(Adagrad, optim.Adagrad, lr=0.05),
    "adagrad, decays, initial": (
        Adagrad(0.1, lr_decay=0.1, weight_decay=0.05, initial=0.2),
        partial(
            optim.Adagrad, lr=0.1, lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.2
        ),
    ),
    "adam": pair(Adam, optim.Adam, lr=0.02),
    "adam, betas, eps, decay": pair(
        Adam, optim.Adam, lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05
    ),
    "adamw": pair(AdamW, optim.AdamW, lr=0.02, weight_decay=0.3),
    "nadam": pair(NAdam, optim.NAdam, lr=0.01),
    "nadam, decays": pair(
        NAdam, optim.NAdam, lr=0.01, betas=(0.8, 0.99), weight_decay=0.05, momentum_decay=0.1
    ),
    "lion": pair(Lion, TorchLion, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
    "muon": (
        Muon(0.02, rest=AdamW(0.01)),
        partial(muon, lr=0.02, rest={"lr": 0.01}),
    ),
    "muon, plain momentum": (
        Muon(0.02, 0.8, nesterov=False, weight_decay=0.2, steps=3, rest=AdamW(0.01)),
        partial(
            muon, lr=0.02, momentum=0.8, nesterov=False, weight_decay=0.2, ns_steps=3,
            rest={"lr": 0.01},
        ),
    ),
    "lbfgs": (
        LBFGS(0.1, history=4, max_iter=1, line_search=False),
        partial(lbfgs, lr=0.1, history_size=4, max_iter=1),
    ),
    "lbfgs, iterations": (
        LBFGS(0.1, max_iter=5, line_search=False),
        partial(lbfgs, lr=0.1, history_size=10, max_iter=5),
    ),
}  # fmt: skip
ACTIVATIONS = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softmax": partial(nn.Softmax, dim=-1),
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}


def cross_entropy(smoothing=0.0, weights=None):
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return partial(F.cross_entropy, weight=weights, label_smoothing=smoothing)


def distillation(T):
    def loss(scores, targets):
        log_p, log_q = F.log_softmax(scores / T, -1), F.log_softmax(targets / T, -1)
        return T * T * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)

    return loss


def weighted_bce(s, t):
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    return F.binary_cross_entropy_with_logits(s, t, pos_weight=weights)


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
    "soft targets": (SoftTargets(3.0), distillation(3.0), "values"),
    "bce": (BinaryCrossEntropy(), F.binary_cross_entropy_with_logits, "truth"),
    "bce, weighted": (BinaryCrossEntropy(CLASS_WEIGHTS), weighted_bce, "truth"),
    "mse": (MeanSquaredError(), F.mse_loss, "values"),
    "half": (HalfSquaredError(), lambda s, t: ((s - t) ** 2).sum() / (2 * len(s)), "values"),
    "mae": (MeanAbsoluteError(), F.l1_loss, "values"),
    "huber": (Huber(0.7), partial(F.huber_loss, delta=0.7), "values"),
}
# The others are the same losses, with several settings at once or but for a factor.
SETTINGS_ALONE = ("labels", "labels, smooth", "labels, weighted", "shares, both", "bce", "half")


def batches(kind, repeated=False):
    """Inputs (STEPS, N, D) and targets (STEPS, N) or (STEPS, N, C)."""
    rng = np.random.default_rng(11)
    x, values = rng.normal(size=(STEPS, N, SIZES[0])), rng.normal(size=(STEPS, N, SIZES[-1]))
    targets = {
        "labels": rng.integers(0, SIZES[-1], (STEPS, N)),
        "truth": (values > 0).astype(np.float64),
        "shares": np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True),
        "values": values,
    }[kind]
    return [np.stack([a[0]] * STEPS) if repeated else a for a in (x, targets)]


class TorchResidual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def modules(layers):
    """The layers as PyTorch has them."""
    for layer in layers:
        match layer:
            case Dense():
                yield nn.Linear(layer.n_in, layer.n_out, layer.bias)
                yield ACTIVATIONS[layer.g.name]()
            case LayerNorm():
                yield nn.LayerNorm(layer.n_in, layer.eps)
            case BatchNorm():
                yield nn.BatchNorm1d(layer.n_in, layer.eps, layer.momentum)
            case Residual():
                yield TorchResidual(*modules(layer.layers))
            case _:
                yield ACTIVATIONS[layer.name]()


def twin(net):
    """The same network in PyTorch, whose weights are (H, D), with the same parameters."""
    model = nn.Sequential(*modules(net.layers))
    named = zip(model.parameters(), net.named_parameters().values(), strict=True)
    with torch.no_grad():
        for p, value in named:
            p.copy_(torch.tensor(net.backend.to_numpy(value).T))
    return model


def train_torch(model, loss, updates, x, targets, clip=None, rates=None):
    """The losses of a step on each of the batches, and the parameters after them."""
    values = []
    for i, (batch, target) in enumerate(zip(torch.tensor(x), torch.tensor(targets), strict=True)):

        def closure(batch=batch, target=target):
            updates.zero_grad()
            value = loss(model(batch), target)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return value

        if rates is not None:
            updates.param_groups[0]["lr"] = rates[i]
        values.append(updates.step(closure).item())
    return values, np.concatenate([p.detach().numpy().T.ravel() for p in model.parameters()])


def assert_same(net, values, wanted_values, wanted_params, rtol=1e-9):
    np.testing.assert_allclose(values, wanted_values, rtol=rtol)
    error = np.abs(net.backend.to_numpy(net.params) - wanted_params).max()
    assert error <= rtol * np.abs(wanted_params).max()


def compare(net, optimizer, loss, clip=None):
    """Train a network and its twin; the twin."""
    rule, torch_optimizer = OPTIMIZERS[optimizer]
    own_loss, torch_loss, kind = LOSSES[loss]
    x, targets = batches(kind, repeated=rule.full_batch)
    if rule.full_batch:  # 25 updates, of which a step makes max_iter
        x, targets = x[: STEPS // rule.max_iter], targets[: STEPS // rule.max_iter]
    # Between the kinks of |e| the gradient hardly changes, so that its changes have few digits:
    # weights that differ by a rounding lead PyTorch itself as far apart.
    rtol = 1e-5 if rule.full_batch and loss == "mae" else 1e-9
    model = twin(net)
    trainer = Trainer(net, own_loss, rule, constraints=[ClipNorm(clip)] if clip else [])
    values = [float(trainer.step(*batch)) for batch in zip(x, targets, strict=True)]
    updates = torch_optimizer(model.parameters())
    wanted = train_torch(model, torch_loss, updates, x, targets, clip)
    assert_same(net, values, *wanted, rtol)
    return model


def network(loss, activation, output="linear", backend="numpy", norm=None):
    multilabel = isinstance(LOSSES[loss][0], BinaryCrossEntropy)
    return MLP(SIZES, activation, output, norm=norm, backend=backend, dtype="float64", seed=1,
               multilabel=multilabel)  # fmt: skip


def test_everything_that_pytorch_has_is_compared():
    assert {*ACTIVATIONS} == {kind.name for kind in activations.KINDS}
    assert {type(rule) for rule, _ in OPTIMIZERS.values()} == {*optimizers.KINDS}
    assert {type(loss) for loss, _, _ in LOSSES.values()} == {*losses.KINDS} - {Focal, BinaryFocal}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in SETTINGS_ALONE])
def test_25_steps_agree_with_every_activation(optimizer, loss):
    for activation in ACTIVATIONS:
        compare(network(loss, activation), optimizer, loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", SETTINGS_ALONE)
def test_25_steps_agree_with_every_setting_of_a_loss(optimizer, loss):
    compare(network(loss, "tanh"), optimizer, loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_25_steps_agree_with_the_output_activated(optimizer, output):
    compare(network("mse", "tanh", output), optimizer, "mse")


@pytest.mark.parametrize("backend", [Backend(np, "generic"), torch], ids=["generic", "torch"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_25_steps_agree_whatever_the_kernels(optimizer, backend):
    compare(network("labels, both", "relu", backend=backend), optimizer, "labels, both")


# PyTorch takes the points that L-BFGS tries into the running statistics, too.
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "lbfgs, iterations"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_25_steps_agree_with_normalization(optimizer, norm):
    net = network("labels", "silu", norm=norm)
    model = compare(net, optimizer, "labels")
    buffers = {n: v for n, v in model.named_buffers() if not n.endswith("num_batches_tracked")}
    assert len(buffers) == len(net.named_buffers()) == (2 if norm == "batch" else 0)
    for own, wanted in zip(net.named_buffers().values(), buffers.values(), strict=True):
        np.testing.assert_allclose(own, wanted.numpy(), rtol=1e-9)


@pytest.mark.parametrize("optimizer", ["momentum", "nadam", "muon", "lbfgs"])
def test_25_steps_agree_around_a_residual(optimizer):
    inside = Residual((LayerNorm(6), Dense(6, 9, "gelu"), Residual((Dense(9, 9, "tanh"),)),
                       Dense(9, 6)))  # fmt: skip
    layers = [Dense(SIZES[0], 6, "relu"), inside, Dense(6, SIZES[-1])]
    compare(Network(layers, dtype="float64", seed=1), optimizer, "labels")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "rmsprop", "lion", "muon"])
def test_25_steps_agree_with_the_gradient_clipped(optimizer):
    compare(network("half", "elu"), optimizer, "half", clip=0.3)


@pytest.mark.parametrize("optimizer", ["nesterov, decay", "adam", "adamw", "nadam", "adagrad"])
def test_cosine_with_warmup_agrees_step_by_step(optimizer):
    rule, torch_optimizer = OPTIMIZERS[optimizer]
    rate, warm, final = 0.05, 6, 0.1
    rates = [rate * (i + 1) / (warm + 1) for i in range(warm)]
    for i in range(STEPS - warm):
        half_cosine = (1 + math.cos(math.pi * i / (STEPS - warm))) / 2
        rates.append(rate * (final + (1 - final) * half_cosine))

    x, targets = batches("labels", repeated=True)
    net = network("labels", "tanh")
    model = twin(net)
    rule = replace(rule, lr=schedules.cosine(rate, warmup=0.25, final=final))
    # One batch an epoch, so that the history has the loss and the rate of every step.
    history = Trainer(net, "softmax_cross_entropy", rule).fit(
        x[0], targets[0], epochs=STEPS, batch_size=N
    )

    np.testing.assert_allclose(history["lr"], rates, rtol=1e-12)
    updates = torch_optimizer(model.parameters())
    wanted = train_torch(model, cross_entropy(), updates, x, targets, rates=rates)
    assert_same(net, history["loss"], *wanted)
