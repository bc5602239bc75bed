"""What is given wrong, and what is said about it: each message has what came and what should."""

import array_api_strict
import numpy as np
import pytest

import mlpkit
from mlpkit import MLP, SGD, Adam, Dense, Dropout, Network, Trainer

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((12, 4)), rng.integers(0, 3, 12)
T = rng.standard_normal((12, 3))
NAN = np.where(np.arange(12)[:, None] == 5, np.nan, X)


def strict(array):
    return array_api_strict.asarray(np.asarray(array))


def fit(x=X, y=Y, loss="softmax_cross_entropy", network=None, optimizer=None, **options):
    network = network or MLP([4, 5, 3], multilabel=loss == "binary_cross_entropy")
    Trainer(network, loss, optimizer).fit(x, y, **{"epochs": 1} | options)


def members(x=X, y=Y, k=2, **options):
    fit(x, y, network=MLP([4, 5, 3], members=k), **options)


def on_strict(x=X, y=Y):
    fit(x, y, network=MLP([4, 5, 3], backend=array_api_strict))


X_DTYPE = r", expected floating point, or uint8 for images"
X_SHAPE = r", this network expects \(N, 4\)"
SEED = r"a seed is an integer in \[0, 2\*\*64\), got "
RATE = r" must lie in \[0, 1\), got 1"

DATA = [
    # shapes of x
    (lambda: fit(X[0]), ValueError, r"x has shape \(4,\)" + X_SHAPE),
    (lambda: fit(X[:, :3]), ValueError, r"x has shape \(12, 3\)" + X_SHAPE),
    (lambda: fit(X[None]), ValueError, r"x has shape \(1, 12, 4\)" + X_SHAPE),
    (lambda: fit(X[:0], Y[:0]), ValueError, r"x has shape \(0, 4\).* with N at least 1"),
    (lambda: members(np.stack([X] * 3)), ValueError, r"\(3, 12, 4\).*\(N, 4\) or \(2, N, 4\)"),
    (lambda: MLP([4, 3]).forward(X[:, :2]), ValueError, r"x has shape \(12, 2\)" + X_SHAPE),
    (lambda: MLP([4, 3]).predict(X[0]), ValueError, r"x has shape \(4,\)" + X_SHAPE),
    # dtypes of x
    (lambda: fit(X.astype(np.int64)), TypeError, "x has dtype int64" + X_DTYPE),
    (lambda: fit(X > 0), TypeError, "x has dtype bool" + X_DTYPE),
    (lambda: fit(X.astype(complex)), TypeError, "complex128, expected|got .*complex128"),
    (lambda: fit(X.astype(str)), TypeError, "<U32, expected|got .*<U32"),
    (lambda: fit(X.astype(object)), TypeError, "object, expected|got .*object"),
    (lambda: fit(np.ma.masked_array(X, X > 1)), TypeError, "got a masked array"),
    (lambda: fit(X * 1e39), ValueError, "x holds NaN or infinite values"),
    (lambda: fit(None), TypeError, "expected numbers, got NoneType with elements of dtype object"),
    # values of x
    (lambda: fit(NAN), ValueError, "x holds NaN or infinite values"),
    (lambda: fit(X * np.inf), ValueError, "x holds NaN or infinite values"),
    (lambda: fit(validation=(NAN, Y)), ValueError, "validation: x holds NaN or infinite values"),
    # targets
    (lambda: fit(y=Y + 1), ValueError, r"labels lie in \[1, 3\], but 3 outputs .* \[0, 2\]"),
    (lambda: fit(y=Y - 1), ValueError, r"labels lie in \[-1, 1\], but 3 outputs .* \[0, 2\]"),
    (lambda: fit(y=Y[:5]), ValueError, r"targets .*\(5,\), expected .*\(12,\)"),
    (lambda: fit(y=3), ValueError, r"targets .*\(\), expected .*\(12,\)"),
    (lambda: fit(y=["cat"] * 12), TypeError, "got list with elements of dtype <U3"),
    (lambda: fit(y=T * np.nan), ValueError, "targets hold NaN or infinite values"),
    (lambda: fit(y=T), ValueError, "target distributions must be >= 0 and sum to 1"),
    (lambda: fit(y=Y.astype(float)), ValueError, r"float.* integer labels"),
    (lambda: fit(y=np.eye(3, dtype=int)[Y]), ValueError, r"\(12, 3\)"),
    (lambda: members(y=np.stack([Y] * 3)), ValueError, r"targets .* expected integer labels \(2, "),
    (lambda: fit(y=T[:, :2], loss="mean_squared_error"), ValueError, r"targets .*\(12, 2\)"),
    (lambda: fit(y=T * np.nan, loss="mean_squared_error"), ValueError, "targets hold NaN"),
    (
        lambda: fit(
            y=np.full((12, 3), 2.0), loss="binary_cross_entropy",
            network=MLP([4, 5, 3], multilabel=True),
        ),
        ValueError, r"targets lie in \[2, 2\], expected \[0, 1\]",
    ),
    (lambda: fit(validation=(X, Y + 7)), ValueError, r"labels lie in \[7, 9\]"),
    (lambda: fit(validation=(X[:3], Y)), ValueError, r"targets .*\(12,\), expected .*\(3,\)"),
    (lambda: fit(validation=(X[:, :2], Y)), ValueError, r"validation: x has shape \(12, 2\)"),
    (lambda: Trainer(MLP([4, 3])).evaluate(X, Y[:4]), ValueError, r"targets .*\(4,\), .*\(12,\)"),
    (lambda: Trainer(MLP([4, 3])).step(X, Y[:4]), ValueError, r"shape \(4,\), expected .*\(12,\)"),
    # arrays of another library
    (lambda: fit(strict(X)), TypeError, "array of array_api_strict .* 'numpy'"),
    (lambda: fit(y=strict(Y)), TypeError, "array of array_api_strict .* 'numpy'"),
    (lambda: fit(validation=(strict(X), Y)), TypeError, "array of array_api_strict .* 'numpy'"),
    (lambda: MLP([4, 3]).predict(strict(X)), TypeError, "array of array_api_strict .* 'numpy'"),
    # how long, how many
    (lambda: fit(epochs=0), ValueError, "epochs must be at least 1, got 0"),
    (lambda: fit(epochs=1.5), TypeError, r"epochs must be an integer, got 1\.5"),
    (lambda: fit(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    (lambda: fit(batch_size=True), TypeError, "batch_size must be an integer, got True"),
    (lambda: fit(max_steps=0), ValueError, "max_steps must be at least 1, got 0"),
    (lambda: fit(max_steps=2.0), TypeError, r"max_steps must be an integer, got 2\.0"),
    (lambda: fit(max_seconds=-1), ValueError, r"max_seconds must lie in \[0, inf\), got -1"),
    (lambda: fit(max_seconds="long"), TypeError, "max_seconds must be a number, got 'long'"),
    # sample weights
    (lambda: fit(weights=np.ones(5)), ValueError, r"weights have shape \(5,\), expected \(12,\)"),
    (lambda: fit(weights=np.ones((12, 1))), ValueError, r"weights have shape \(12, 1\), expected"),
    (lambda: fit(weights=-np.ones(12)), ValueError, "weights must be finite and not negative"),
    (lambda: fit(weights=NAN[:, 0]), ValueError, "weights must be finite and not negative"),
    (lambda: fit(weights=np.zeros(12)), ValueError, "all sample weights are 0"),
    (lambda: fit(weights="balanced"), TypeError, "expected numbers, got str"),
    (lambda: members(weights=np.ones((3, 12))), ValueError, r"\(3, 12\), expected \(2, 12\)"),
    (
        lambda: members(weights=np.stack([np.ones(12), np.zeros(12)])),
        ValueError, "all sample weights are 0",
    ),
    (lambda: fit(validation=(X, Y, np.ones(5))), ValueError, r"validation: sample weights .*\(5"),
    (lambda: Trainer(MLP([4, 3])).step(X, Y, np.ones(5)), ValueError, r"weights have shape \(5,\)"),
    (
        lambda: Trainer(MLP([4, 3])).evaluate(X, Y, np.zeros(12)),
        ValueError, "all sample weights are 0",
    ),
    # drawing samples
    (lambda: fit(sampling="equal"), ValueError, r"'balanced' or weights \(N,\), got 'equal'"),
    (lambda: fit(sampling=[1, 2]), ValueError, r"have shape \(2,\), expected \(12,\)"),
    (lambda: fit(sampling=3), ValueError, r"have shape \(\), expected \(12,\)"),
    (lambda: fit(sampling=-np.ones(12)), ValueError, "finite, not negative, and not all 0"),
    (lambda: fit(sampling=np.zeros(12)), ValueError, "finite, not negative, and not all 0"),
    (lambda: fit(sampling=NAN[:, 0]), ValueError, "finite, not negative, and not all 0"),
    (
        lambda: fit(y=T, loss="mean_squared_error", sampling="balanced"),
        ValueError, r"balanced sampling needs integer labels \(N,\)",
    ),
    (
        lambda: members(y=np.stack([Y, Y]), sampling="balanced"),
        ValueError, r"integer labels \(N,\), the same for all members",
    ),
    (
        lambda: fit(optimizer=mlpkit.LBFGS(), batch_size=None, sampling="balanced"),
        ValueError, "LBFGS needs all 12 samples in every step",
    ),
    # batches
    (lambda: fit(y=None), TypeError, "x and targets, or an iterable of batches"),
    (lambda: fit(5, None), TypeError, "x and targets, or an iterable of batches"),
    (lambda: fit([(X, Y)], None, weights=np.ones(12)), TypeError, "bring their own weights"),
    (lambda: fit([(X, Y)], None, sampling="balanced"), TypeError, "bring their own .* sampling"),
    (
        lambda: fit([(X, Y)], None, optimizer=mlpkit.LBFGS()),
        ValueError, "LBFGS needs all data in one batch, as arrays",
    ),
    (lambda: fit(optimizer=mlpkit.LBFGS(), batch_size=5), ValueError, "needs all 12 samples"),
    (lambda: fit(iter([(X, Y)]), None, epochs=2), TypeError, "an iterator gives its batches once"),
    (lambda: fit(validation=X), TypeError, r"validation is \(x, targets\) or \(x, targets, wei"),
    (lambda: fit(validation=(X,)), TypeError, r"validation is \(x, targets\) or \(x, targets, wei"),
    (lambda: fit(callbacks=3), TypeError, "callbacks is a list of Callbacks, got 3"),
    (lambda: fit(callbacks=[print]), TypeError, "expected a Callback, got <built-in"),
    (
        lambda: fit(callbacks=[mlpkit.EarlyStopping()]),
        ValueError, r"EarlyStopping watches 'val_loss', but an epoch gives \['epoch', 'loss', ",
    ),
]  # fmt: skip

SETTINGS = [
    # names
    (lambda: MLP([4, 3], output="sigmoyd"), ValueError, r"activation 'sigmoyd'.* 'sigmoid'\?"),
    (lambda: MLP([4, 3, 2], activation="rleu"), ValueError, r"mean 'relu'\? \(known: .*tanh"),
    (lambda: fit(loss="mean_square_error"), ValueError, r"loss .* mean 'mean_squared_error'\?"),
    (lambda: MLP([4, 3], backend="nunpy"), ValueError, r"backend 'nunpy'; did you mean 'numpy'\?"),
    (lambda: MLP([4, 3], backend=3), TypeError, "a backend is a name, .* got int"),
    (lambda: MLP([4, 3], init="he_norml"), ValueError, r"initializer .* mean 'he_normal'\?"),
    (lambda: MLP([4, 3], dtype="float16"), ValueError, r"dtype 'float16'; .*float32, float64\)"),
    (lambda: Trainer(MLP([4, 3]), metrics=["acuracy"]), ValueError, r"mean 'accuracy'\?"),
    # trainers
    (lambda: Trainer(MLP([4, 3]), metrics="accuracy"), TypeError, "list of names, got 'accuracy'"),
    (lambda: Trainer(MLP), TypeError, "a Trainer trains a Network, got <function MLP"),
    (lambda: Trainer(MLP([4, 3]), optimizer="adam"), TypeError, "an Optimizer .* got 'adam'"),
    (lambda: Trainer(MLP([4, 3]), accumulate=0), ValueError, "accumulate must be at least 1"),
    (lambda: Trainer(MLP([4, 3]), accumulate=2.0), TypeError, "accumulate must be an integer"),
    (lambda: Trainer(MLP([4, 3]), average=1), ValueError, r"average must lie in \[0, 1\), got 1"),
    (lambda: Trainer(MLP([4, 3]), average=-0.1), ValueError, r"average must lie in .* got -0\.1"),
    (lambda: Trainer(MLP([4, 3]), average="ema"), TypeError, "average must be a number, got 'ema'"),
    (
        lambda: Trainer(MLP([4, 3], members=2), average=(0.9, 0.9, 0.9)),
        ValueError, "decay has 3 values, but the network has 2 members",
    ),
    # sizes and layers
    (lambda: MLP([4]), ValueError, r"sizes are \[inputs, hidden, ..., outputs\], got \[4\]"),
    (lambda: MLP([4, 0]), ValueError, "n_out must be at least 1, got 0"),
    (lambda: MLP([4, 2.5]), TypeError, r"n_out must be an integer, got 2\.5"),
    (lambda: Network([]), ValueError, "a network needs a layer"),
    (lambda: Network([mlpkit.ReLU()]), ValueError, "a network needs a layer"),
    (lambda: Network([4, 2]), TypeError, "a network is made of layers, got 4"),
    (lambda: Network([Dense(4, 2), Dense(3, 2)]), ValueError, "expects 3 inputs, .* gives 2"),
    # hyper-parameters
    (lambda: SGD(-1), ValueError, r"lr must lie in \[0, inf\), got -1"),
    (lambda: SGD(float("nan")), ValueError, r"lr must lie in \[0, inf\), got nan"),
    (lambda: SGD("0.1"), TypeError, "lr must be a number, got '0.1'"),
    (lambda: SGD((0.1, -0.1)), ValueError, r"lr\[1\] must lie in \[0, inf\), got -0.1"),
    (lambda: SGD(0.1, momentum=1), ValueError, "momentum" + RATE),
    (lambda: SGD(0.1, nesterov=True), ValueError, "nesterov=True needs a momentum"),
    (lambda: SGD(0.1, weight_decay=-1), ValueError, r"weight_decay .* got -1"),
    (lambda: Adam(1e-3, betas=(1, 0.9)), ValueError, "beta1" + RATE),
    (lambda: Adam(1e-3, betas=(0.9, 1)), ValueError, "beta2" + RATE),
    (lambda: Adam(1e-3, eps=-1e-8), ValueError, r"eps .* got -1e-08"),
    (lambda: Dropout(1), ValueError, "rate" + RATE),
    (lambda: Dropout(-0.1), ValueError, r"rate must lie in \[0, 1\), got -0\.1"),
    (lambda: MLP([4, 3, 2], dropout="much"), TypeError, "must be a number, got 'much'"),
    (lambda: MLP([4, 3, 2], dropout=[]), ValueError, "is empty: give a number, or one per member"),
    (lambda: mlpkit.SoftmaxCrossEntropy(1), ValueError, "label_smoothing" + RATE),
    (
        lambda: mlpkit.schedules.cosine(0.1, warmup=1.5),
        ValueError,
        r"warmup must lie in \(0, 1\].* got 1\.5",
    ),
    (lambda: mlpkit.schedules.cosine(-0.1), ValueError, r"learning rate must lie in .* got -0\.1"),
    (
        lambda: mlpkit.SoftmaxCrossEntropy(class_weights={0: 5.0, 1: 1.0}),
        TypeError, "class_weights must be a number, got {0: 5.0, 1: 1.0}",
    ),
    (
        lambda: fit(loss=mlpkit.SoftmaxCrossEntropy(class_weights=(1, 2))),
        ValueError, "got 2 class_weights, 3 classes",
    ),
    # one value per member
    (lambda: MLP([4, 3], members=0), ValueError, "members must be at least 1, got 0"),
    (lambda: MLP([4, 3], members=2.0), TypeError, r"members must be an integer, got 2\.0"),
    (lambda: members(optimizer=SGD((1, 2, 3))), ValueError, "lr has 3 values, .* has 2 members"),
    (lambda: fit(optimizer=SGD((1, 2))), ValueError, "lr has 2 values, .* is a single network"),
    (
        lambda: members(optimizer=Adam(1e-3, betas=((0.9,) * 3, 0.999))),
        ValueError, "Adam: beta1 has 3 values, .* has 2 members",
    ),
    (lambda: MLP([4, 3, 2], dropout=(0.1, 0.2)), ValueError, "2 values, .* a single network"),
    (lambda: MLP([4, 3, 2], members=2, seed=[1, 2, 3]), ValueError, "got 3 seeds.* members=2"),
    # seeds
    (lambda: MLP([4, 3], seed=-1), ValueError, SEED + "-1"),
    (lambda: MLP([4, 3], seed=2**64), ValueError, SEED + "18446744073709551616"),
    (lambda: MLP([4, 3], seed=1.0), ValueError, SEED + r"1\.0"),
    (lambda: MLP([4, 3], seed=True), ValueError, SEED + "True"),
    (lambda: Trainer(MLP([4, 3]), seed=-3), ValueError, SEED + "-3"),
    (lambda: mlpkit.data.digits(3, seed=-1), ValueError, SEED + "-1"),
    (lambda: mlpkit.data.digits(0), ValueError, "positive integer, got 0"),
    # parameters and files
    (
        lambda: MLP([4, 3]).load_parameters({"0.weight": np.ones((4, 3)), "9.bias": 1}),
        ValueError, r"missing \['0.bias'\], unknown \['9.bias'\]",
    ),
    (
        lambda: MLP([4, 3]).load_parameters({"0.weight": np.ones((3, 4)), "0.bias": np.ones(3)}),
        ValueError, r"0.weight has shape \(3, 4\), expected \(4, 3\)",
    ),
    (lambda: mlpkit.load("no/such/file"), FileNotFoundError, "no/such/file"),
    (lambda: mlpkit.save(MLP([4, 3]), "no/such/file"), FileNotFoundError, "no/such"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "error", "message"), DATA)
def test_data_that_do_not_fit(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.parametrize(("act", "error", "message"), SETTINGS)
def test_settings_that_make_no_sense(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.torch
@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_torch_arrays_are_for_torch_networks_alone(library):
    torch = pytest.importorskip("torch")
    network = MLP([4, 3], backend=pytest.importorskip(library))
    if library == "torch":
        assert isinstance(network.predict(torch.asarray(X)), torch.Tensor)
        with pytest.raises(TypeError, match=r"array_api_strict where the backend is 'torch'"):
            network.predict(strict(X))
    else:
        with pytest.raises(TypeError, match=r"array of torch where .* 'array_api_strict'"):
            network.predict(torch.asarray(X))


def test_a_refused_fit_has_changed_nothing():
    trainer = Trainer(MLP([4, 3]))
    before = trainer.network.params.copy()
    with pytest.raises(ValueError, match="labels lie in"):
        trainer.fit(X, Y, epochs=1, validation=(X, Y + 7))
    np.testing.assert_array_equal(trainer.network.params, before)
    assert (trainer.epoch, trainer.history.rows) == (0, [])
