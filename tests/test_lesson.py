"""A lecture on paper: every equation holds, and what it says is what the network does."""

import copy
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from mlpkit import MLP, SGD, Dense, Dropout, Layer, Network, Tanh, Trainer
from mlpkit.activations import ACTIVATIONS
from mlpkit.lessons import lesson
from mlpkit.lessons.blackboard import WRITTEN
from mlpkit.losses import LOSSES, ManyClasses, get_loss

X = np.array([[0.3, -0.7], [1.1, 0.4]])
T = np.array([[0.8, 0.2, 0.0], [0.1, 0.3, 0.6]])
STEPS = ("1  Forward pass", "2  Error and its derivative", "3  Backward pass", "4  Update", "After")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def equations(text):
    """All lines with an equals sign that are indented, split at it."""
    return [
        [side.strip() for side in line.split(" = ")]
        for line in text.splitlines()
        if line.startswith("  ") and " = " in line
    ]


def value(expression):
    """What a written-out expression comes to."""
    python = expression.replace("·", "*").replace("²", "**2")
    python = re.sub(r"\|(.*)\|", r"abs(\1)", python)
    return eval(python, {"log": math.log, "sign": np.sign, "abs": abs})


def assert_equations_hold(text, tolerance=1e-6):
    written_out = [sides for sides in equations(text) if len(sides) == 3]
    assert len(written_out) > 10
    for name, expression, result in written_out:
        if not expression.startswith("g("):
            wanted = pytest.approx(float(result), rel=tolerance, abs=tolerance)
            assert value(expression) == wanted, name


def step(text, number):
    """The text of one of the four steps, or of what follows them."""
    start = text.index(STEPS[number - 1])
    return text[start : text.index(STEPS[number]) if number < len(STEPS) else None]


def written(text, number, pattern):
    """The results of the equations of a step for the names that match, in the order written."""
    sides = equations(step(text, number))
    return [float(found[-1]) for found in sides if re.fullmatch(pattern, found[0])]


def written_gradients(text):
    """Parameter's name -> gradient, from the third step."""
    found = {}
    for block in re.split(r"\n(?=Layer )", step(text, 3))[1:]:
        layer = block[len("Layer ") : block.index(":")]
        for name, *_, result in equations(block):
            if match := re.fullmatch(r"dE/d([wb])([₀-₉]+)", name):
                key = {"w": "weight", "b": "bias"}[match[1]]
                index = tuple(int(digit) - 1 for digit in match[2].translate(SUBSCRIPTS))
                found.setdefault(f"{layer}.{key}", {})[index] = float(result)
    return found


def central_differences(net, x, t, loss):
    """Parameter's name -> gradient, from values of the loss alone."""
    loss = get_loss(loss)
    found = {}
    for name, view in net.named_parameters().items():
        found[name] = {}
        for index in np.ndindex(*view.shape):
            before, ends = float(view[index]), []
            for move in (1e-5, -1e-5):
                view[index] = before + move
                ends.append(float(loss(net.backend, net.forward(x)[0], t)[0]))
            view[index] = before
            found[name][index] = (ends[0] - ends[1]) / 2e-5
    return found


def assert_gradients(text, expected):
    found = written_gradients(text)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name] == pytest.approx(gradient, rel=1e-6, abs=1e-8), name


def network(activation="tanh", output="linear", **settings):
    return MLP([2, 3, 3], activation, output, **{"dtype": "float64", "seed": 4} | settings)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    net = network(activation, activation)
    net.params[...] = net.params + 0.1  # off the kink of a ReLU, which is where all units are off
    text = lesson(net, X, T)
    assert_equations_hold(text)
    assert_gradients(text, central_differences(net, X, T, "half_squared_error"))


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, samples):
    net = network(multilabel=isinstance(get_loss(loss), ManyClasses))
    # SoftTargets takes scores, and the rows of T are probabilities.
    x, t = X[:samples], T[:samples] * (3 if loss == "soft_targets" else 1)
    text = lesson(net, x, t, loss)
    assert_equations_hold(text)
    assert_gradients(text, central_differences(net, x, t, loss))
    error = Trainer(net, loss).evaluate(x, t)["loss"]
    assert written(text, 2, "E")[-1] == pytest.approx(error, rel=1e-7)
    assert ("of each output" in text) == (loss in WRITTEN)


def test_a_loss_with_settings_of_its_own_is_not_written_in_the_usual_terms():
    from mlpkit import SoftmaxCrossEntropy

    loss = SoftmaxCrossEntropy(label_smoothing=0.2)
    text = lesson(network(), X, [2, 0], loss)
    assert "of each output" not in text
    assert written(text, 2, "dE/dz.*") == pytest.approx(
        np.ravel(loss(network().backend, network().predict_scores(X), np.array([2, 0]))[1])
    )


def test_class_labels_are_written_as_ones_and_zeros():
    net = network()
    by_label = lesson(net, X, [2, 0], "softmax_cross_entropy")
    assert by_label == lesson(net, X, np.eye(3)[[2, 0]], "softmax_cross_entropy")
    assert "-1 · log(" in by_label


def test_one_output_of_probability():
    net = MLP([2, 2, 1], "sigmoid", dtype="float64")
    text = lesson(net, X, [1.0, 0.0], "binary_cross_entropy")
    assert_equations_hold(text)
    p = np.ravel(net.predict_proba(X))
    assert written(text, 2, "p.*") == pytest.approx(p)
    assert written(text, 2, "dE/dz.*") == pytest.approx((p - [1, 0]) / 2)


def test_on_every_backend_in_either_precision(backend, dtype):
    text = lesson(network(backend=backend, dtype=dtype), X, T)
    oracle = lesson(network(), X, T)
    names, reference = equations(text), equations(oracle)
    assert [sides[0] for sides in names] == [sides[0] for sides in reference]
    tolerance = 1e-4 if dtype == "float32" else 1e-7
    np.testing.assert_allclose(
        [float(sides[-1]) for sides in names],
        [float(sides[-1]) for sides in reference],
        rtol=tolerance,
        atol=tolerance / 10,
    )


def test_the_step_is_that_of_a_trainer_and_the_network_stays_as_it_was():
    net = network()
    before, trained = np.array(net.params), copy.deepcopy(net)
    text = lesson(net, X, T, "mean_squared_error", lr=0.3)
    np.testing.assert_array_equal(net.params, before)
    np.testing.assert_array_equal(net.grads, 0)

    trainer = Trainer(trained, "mean_squared_error", SGD(0.3))
    trainer.step(X, T)
    assert written(text, 4, "[wb].*") == pytest.approx(np.array(trained.params), rel=1e-7)
    assert written(text, 5, "z.*") == pytest.approx(np.ravel(trained.predict_scores(X)), rel=1e-7)
    assert written(text, 5, "E") == [pytest.approx(trainer.evaluate(X, T)["loss"], rel=1e-7)]


def test_what_is_held_does_not_move():
    net = network()
    text = lesson(net, X, T, hold=["0.bias", "1.weight"])
    assert "0.bias is held" in text
    assert "1.weight is held" in text
    trained = copy.deepcopy(net)
    Trainer(trained, "half_squared_error", SGD(0.1)).step(X, T)
    moved = trained.named_parameters()
    free = np.concatenate([np.ravel(moved["0.weight"]), np.ravel(moved["1.bias"])])
    assert written(text, 4, "[wb].*") == pytest.approx(free, rel=1e-7)
    assert_gradients(text, central_differences(net, X, T, "half_squared_error"))


def test_layers_without_a_bias():
    net = Network([Dense(2, 2, "tanh", bias=False), Dense(2, 1, bias=False)], dtype="float64")
    text = lesson(net, X, [1.0, 0.0])
    assert_equations_hold(text)
    assert_gradients(text, central_differences(net, X, [1.0, 0.0], "half_squared_error"))
    assert "b_" not in text
    assert "dE/db" not in text


@dataclass(frozen=True)
class Scale(Layer):
    """y = s x, with one s per feature."""

    n: int

    def shapes(self):
        return {"scale": (self.n,)}

    def initial(self, name):
        return "ones"

    def forward(self, context, x, train):
        s, ds = context.params["scale"], context.grads["scale"]
        xp = context.backend.xp

        def backward(dy, need_dx):
            ds[...] = xp.reshape(xp.sum(dy * x, axis=-2), ds.shape)
            return dy * s if need_dx else None

        return s * x, backward


def test_other_layers_show_what_goes_in_and_out():
    layers = [Dense(2, 3), Scale(3), Tanh(), Dropout(0.5), Dense(3, 3)]
    net = Network(layers, dtype="float64", seed=1)
    text = lesson(net, X, T)
    assert_equations_hold(text)
    expected = central_differences(net, X, T, "half_squared_error")
    scale = expected.pop("1.scale")
    assert_gradients(text, expected)
    new = [1 - 0.1 * scale[index] for index in sorted(scale)]
    assert written(text, 4, "scale.*") == pytest.approx(new, rel=1e-6)
    for line in ("Scale(n=3): y from z", "Dropout(rate=0.5): y from a"):
        assert line in step(text, 1)
    for line in ("Scale(n=3): δ from dE/dy", "Dropout(rate=0.5): dE/da from dE/dy"):
        assert line in step(text, 3)
    dropped = [written(text, 1, pattern) for pattern in ("a.*", "y.*")]
    assert dropped[0][-6:] == dropped[1][-6:]  # nothing is


def test_what_comes_out_is_told_from_what_goes_in():
    net = Network([Dense(2, 2), Dense(2, 2), Scale(2), Scale(2), Dense(2, 1)], dtype="float64")
    text = lesson(net, X[:1], [1.0])
    assert_equations_hold(text)
    first = ("Layer 1: z′ⱼ = Σᵢ zᵢ · wᵢⱼ + bⱼ", "Scale(n=2): y from z′", "Scale(n=2): y′ from y")
    assert all(line in step(text, 1) for line in first)
    assert "dE/dwᵢⱼ = zᵢ · δ′ⱼ, dE/dbⱼ = δ′ⱼ, δᵢ = Σⱼ wᵢⱼ · δ′ⱼ" in step(text, 3)


def test_more_than_nine_units_have_two_subscripts():
    text = lesson(MLP([2, 12, 1], dtype="float64"), X[:1], [1.0])
    assert "w₁,₁₂" in text
    assert "z₁₂" in text


def test_digits():
    text = lesson(network(), X[:1], T[:1], digits=4)
    numbers = re.findall(r"\d\.\d+", text)
    assert max(len(number.replace(".", "").lstrip("0")) for number in numbers) == 4
    assert_equations_hold(text, tolerance=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": MLP([2, 3], members=2)}, "a lesson is about one network, this one has 2"),
        ({"network": MLP([2, 3], precision="tf32")}, "shows what it multiplies.*'tf32' rounds"),
        ({"network": MLP([2, 13, 3])}, "layers of at most 12 units, got 13"),
        ({"x": np.zeros((9, 2)), "targets": np.zeros((9, 3))}, "at most 8 samples, got 9"),
        ({"x": X[0]}, r"x has shape \(2,\), this network expects \(N, 2\)"),
        ({"targets": T[:, :2]}, r"targets have shape \(2, 2\), expected \(2, 3\)"),
        ({"targets": T * np.nan}, "targets hold NaN"),
        ({"loss": "half_square_error"}, "did you mean 'half_squared_error'"),
        ({"lr": -1.0}, "learning rate|lr must lie in"),
        ({"hold": ["0.bais"]}, "unknown parameter '0.bais'; did you mean '0.bias'"),
        ({"network": network(output="tanh"), "loss": "softmax_cross_entropy"}, "output='linear'"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        lesson(**{"network": network(), "x": X, "targets": T} | change)
