"""Three networks worked out by hand, to every digit given, and the size of a fourth.

A forward pass of a classifier, one step of a linear network, one full cycle of a sigmoid network:
the exercises that a course on backpropagation begins with.
"""

import numpy as np
import pytest

from mlpkit import MLP, SGD, BinaryCrossEntropy, Dense, HalfSquaredError, Network, Trainer


def digits(text):
    """The numbers of a text, and half a unit in the last printed place of each."""
    words = text.split()
    half = [0.5 * 10.0 ** -len(word.partition(".")[2]) for word in words]
    return np.array([float(word) for word in words]), np.array(half)


def assert_digits(got, text):
    want, half = digits(text)
    got = np.ravel(got)
    assert got.shape == want.shape
    # A number that the text gives in full may be off by rounding alone.
    assert np.all(np.abs(got - want) <= half + 1e-15), f"{got} is not {text}"


def host(net, mapping):
    return {name: net.backend.to_numpy(value) for name, value in mapping.items()}


CLASSIFIER = {
    "0.weight": np.array(
        [[0.1, 0.2, 0.1, 0.2], [0.2, 0.3, 0.4, 0.3], [0.5, 0.1, 0.6, 0.9]],
    ),
    "0.bias": np.zeros(4),
    "1.weight": np.array([[0.4], [1.2], [4.1], [0.1]]),
    "1.bias": np.array([1.4]),
}


class TestForwardPassOfASigmoidClassifier:
    """3-4-1, sigmoid everywhere; cross-entropy on the score of the output."""

    X = np.array([[1.0, 1.0, 1.0]])

    def network(self, backend, output):
        net = MLP([3, 4, 1], "sigmoid", output, backend=backend, dtype="float64")
        assert net.n_parameters == 21
        net.load_parameters(CLASSIFIER)
        return net

    @pytest.mark.parametrize(
        ("activation", "values"),
        [
            ("linear", "0.8 0.6 1.1 1.4"),
            ("sigmoid", "0.68997448 0.64565631 0.75026011 0.80218389"),
        ],
    )
    def test_hidden_layer(self, backend, activation, values):
        hidden = Network([Dense(3, 4, activation)], backend=backend, dtype="float64")
        hidden.load_parameters({name: CLASSIFIER[name] for name in ("0.weight", "0.bias")})
        assert_digits(backend.to_numpy(hidden.forward(self.X)[0]), values)

    @pytest.mark.parametrize("output", ["linear", "sigmoid"])
    def test_output_and_class(self, backend, output):
        net = self.network(backend, output)
        score = {"linear": "5.60706218", "sigmoid": "0.99634159"}[output]
        assert_digits(backend.to_numpy(net.forward(self.X)[0]), score)
        assert_digits(backend.to_numpy(net.predict_proba(self.X)), "0.99634159")
        assert backend.to_numpy(net.predict(self.X)) == [1]

    @pytest.mark.parametrize("y", [0.0, 1.0])
    def test_slope_of_the_error_is_a_minus_y(self, backend, y):
        net = self.network(backend, "linear")
        scores, _ = net.forward(self.X)
        loss, dscores = BinaryCrossEntropy()(backend, scores, backend.asarray([[y]]))
        a = 0.99634159
        assert float(dscores[0, 0]) == pytest.approx(a - y, abs=5e-9)
        assert float(loss) == pytest.approx(-np.log(a if y else 1 - a), abs=2e-6)


class TestStepOfALinearNetwork:
    """2-2-1 without biases and activations, half the squared error, learning rate 0.05."""

    X, Y = np.array([[2.0, 3.0]]), np.array([[1.0]])

    def network(self, backend):
        layers = [Dense(2, 2, bias=False), Dense(2, 1, bias=False)]
        net = Network(layers, backend=backend, dtype="float64")
        w1, w2, w3, w4, w5, w6 = 0.11, 0.21, 0.12, 0.08, 0.14, 0.15
        net.load_parameters({"0.weight": [[w1, w3], [w2, w4]], "1.weight": [[w5], [w6]]})
        return net

    def weights(self, net):
        """w1 to w6 in the order of the exercise."""
        first, second = host(net, net.named_parameters()).values()
        return np.concatenate([first.T.ravel(), second.ravel()])

    def test_one_step(self, backend):
        net = self.network(backend)
        hidden = backend.matmul(backend.asarray(self.X), net.named_parameters()["0.weight"])
        assert_digits(backend.to_numpy(hidden), "0.85 0.48")
        prediction = backend.to_numpy(net.predict_scores(self.X))
        assert_digits(prediction, "0.191")
        assert_digits(prediction - self.Y, "-0.809")

        trainer = Trainer(net, "half_squared_error", SGD(0.05))
        assert_digits(backend.to_numpy(trainer.step(self.X, self.Y)), "0.3272405")
        assert_digits(self.weights(net), "0.121326 0.226989 0.132135 0.0982025 0.1743825 0.169416")
        assert_digits(backend.to_numpy(net.predict_scores(self.X)), "0.2557457808")
        assert_digits(trainer.evaluate(self.X, self.Y)["loss"], "0.2769571714")

    def test_step_of_several_points_is_the_average_of_their_steps(self, backend, draw):
        x, y = np.vstack([self.X, draw(4, 2)]), np.vstack([self.Y, draw(4, 1)])

        def step(rows):
            net = self.network(backend)
            before = self.weights(net)
            Trainer(net, "half_squared_error", SGD(0.05)).step(x[rows], y[rows])
            return self.weights(net) - before

        average = np.mean([step([row]) for row in range(5)], axis=0)
        np.testing.assert_allclose(step([0, 1, 2, 3, 4]), average, rtol=1e-12)


CYCLE = {
    "0.weight": np.array([[0.1, 0.2], [0.3, 0.4]]),
    "0.bias": np.array([0.25, 0.25]),
    "1.weight": np.array([[0.5, 0.7], [0.6, 0.8]]),
    "1.bias": np.array([0.35, 0.35]),
}


class TestFullCycleOfASigmoidNetwork:
    """2-2-2, half the squared error, learning rate 0.6; the biases are held."""

    X, Y = np.array([[0.1, 0.5]]), np.array([[0.05, 0.95]])

    @pytest.fixture
    def net(self, backend):
        net = MLP([2, 2, 2], "sigmoid", "sigmoid", backend=backend, dtype="float64")
        net.load_parameters(CYCLE)
        return net

    def test_forward(self, backend, net):
        x = backend.asarray(self.X)
        for number, z, a in [
            ("0", "0.41 0.47", "0.60108788 0.61538376"),
            ("1", "1.01977419 1.26306852", "0.73492861 0.77955388"),
        ]:
            mine = {f"0.{name}": CYCLE[f"{number}.{name}"] for name in ("weight", "bias")}
            for activation, values in (("linear", z), ("sigmoid", a)):
                layer = Network([Dense(2, 2, activation)], backend=backend, dtype="float64")
                layer.load_parameters(mine)
                y = layer.predict_scores(x)
                assert_digits(backend.to_numpy(y), values)
            x = y
        assert_digits(backend.to_numpy(net.predict_scores(self.X)), "0.73492861 0.77955388")

    def test_backward_and_update(self, backend, net):
        trainer = Trainer(net, "half_squared_error", SGD(0.6))
        scores, backward = net.forward(self.X, train=True)
        targets = backend.asarray(self.Y)
        for output, part in enumerate(["0.23456360", "0.01452594"]):
            column = slice(output, output + 1)
            error, _ = HalfSquaredError()(backend, scores[:, column], targets[:, column])
            assert_digits(backend.to_numpy(error), part)
        loss, dscores = trainer.loss(backend, scores, targets)
        backward(dscores)
        assert_digits(backend.to_numpy(loss), "0.24908954")
        gradients = net.named_gradients()
        found = host(net, gradients)
        assert_digits(found["1.weight"].T, "0.08020312 0.08211062 -0.01760653 -0.01802527")
        assert_digits(found["0.weight"], "0.00110806 0.00134024 0.00554029 0.00670120")

        for name in ("0.bias", "1.bias"):
            gradients[name][...] = 0.0
        trainer.optimizer.step()
        found = host(net, net.named_parameters())
        assert_digits(found["0.weight"], "0.09933517 0.19919586 0.29667583 0.39597928")
        assert_digits(found["1.weight"].T, "0.45187813 0.55073363 0.71056392 0.81081516")
        for name in ("0.bias", "1.bias"):
            np.testing.assert_array_equal(found[name], CYCLE[name])


@pytest.mark.parametrize("members", [None, 2])
def test_the_classifier_of_handwritten_digits_has_235146_parameters(backend, members):
    net = MLP([784, 256, 128, 10], members=members, backend=backend)
    assert net.n_parameters == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10 == 235_146
    assert tuple(net.params.shape) == ((235_146,) if members is None else (members, 235_146))
    assert "235,146" in net.summary()
