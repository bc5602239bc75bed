"""Every kernel that a backend overrides gives what the generic one gives, on random shapes."""

import inspect

import numpy as np
import pytest
from emulated import emulated_backend, needs_compiler
from hypothesis import given
from hypothesis import strategies as st

from mlpkit.activations import KINDS
from mlpkit.backends import Backend, get_backend
from mlpkit.backends.cpu import NumPyBackend
from mlpkit.backends.cuda import CuPyBackend
from mlpkit.backends.cuda_updates import CudaUpdates

OVERRIDING = [
    pytest.param("numpy"),
    pytest.param("emulated", marks=needs_compiler),
    pytest.param("cupy", marks=pytest.mark.gpu),
]
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}

sizes = st.integers(1, 17)
members = st.sampled_from([(), (1,), (3,)])
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    "kind", [NumPyBackend, CuPyBackend, CudaUpdates, type(get_backend("numpy"))]
)
def test_an_override_has_the_signature_of_the_generic_kernel(kind):
    overrides = [
        name for name, of in vars(kind).items() if not name.startswith("_") and callable(of)
    ]
    assert overrides
    for name in overrides:
        generic = inspect.signature(getattr(Backend, name))
        own = inspect.signature(getattr(kind, name))
        assert list(own.parameters.values()) == list(generic.parameters.values()), name


class Case:
    """Random arrays on a backend, and the comparison of a kernel with the generic one."""

    def __init__(self, name: str, dtype: str, seed: int) -> None:
        self.backend = emulated_backend() if name == "emulated" else get_backend(name)
        self.dtype = getattr(self.backend.xp, dtype)
        self.tolerance = TOLERANCE[dtype]
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int):
        return self.backend.asarray(self.rng.standard_normal(shape), self.dtype)

    def positive(self, *shape: int):
        return self.backend.asarray(self.rng.random(shape) + 0.01, self.dtype)

    def scalar(self, members: tuple[int, ...], dtype=None):
        """A hyper-parameter in (0, 1): () or (K, 1)."""
        value = self.rng.random((*members, 1) if members else ())
        return self.backend.asarray(value, dtype or self.dtype)

    def compare(self, kernel: str, *args, writes: tuple[int, ...] = (), **options):
        """Run both on copies of the arguments; results and written arguments must agree."""
        found = []
        for method in (getattr(Backend, kernel), getattr(type(self.backend), kernel)):
            copies = [self.copy(a) for a in args]
            kwargs = {name: self.copy(a) for name, a in options.items()}
            result = method(self.backend, *copies, **kwargs)
            results = result if isinstance(result, tuple) else (result,)
            found.append([r for r in results if r is not None] + [copies[i] for i in writes])
        assert len(found[0]) == len(found[1]) > 0
        for generic, own in zip(*found, strict=True):
            assert own.shape == generic.shape
            assert own.dtype == generic.dtype or kernel == "random_bits"
            generic, own = map(self.backend.to_numpy, (generic, own))
            assert np.isfinite(generic).all()
            scale = max(1.0, np.abs(generic).max(initial=0))
            error = np.abs(generic.astype(np.float64) - own.astype(np.float64))
            assert error.max(initial=0) <= self.tolerance * scale

    def copy(self, array):
        if not self.backend.owns(array):
            return array
        return self.backend.xp.asarray(array, copy=True)


@pytest.mark.parametrize("name", OVERRIDING)
@given(k=members, shared=st.booleans(), n=sizes, d=sizes, h=sizes, dtype=dtypes, seed=seeds)
def test_matmul_in_its_three_uses(name, k, shared, n, d, h, dtype, seed):
    case = Case(name, dtype, seed)
    x = case.normal(n, d) if shared else case.normal(*k, n, d)
    W, dz = case.normal(*k, d, h), case.normal(*k, n, h)
    case.compare("matmul", x, W)
    case.compare("matmul", dz, W, transpose_b=True)
    case.compare("matmul", x, dz, True, False, case.normal(*k, d, h), writes=(4,))
    # As in a network, where the gradient is a part of a flat vector.
    flat = case.normal(*k, 3 + d * h)
    view = case.backend.xp.reshape(flat[..., 3:], (*k, d, h))
    result = case.backend.matmul(x, dz, transpose_a=True, out=view)
    expected = Backend.matmul(case.backend, x, dz, transpose_a=True)
    np.testing.assert_allclose(
        case.backend.to_numpy(flat[..., 3:]).ravel(),
        case.backend.to_numpy(expected).ravel(),
        atol=30 * case.tolerance,
    )
    assert result is view


@pytest.mark.parametrize("name", OVERRIDING)
@pytest.mark.parametrize("activation", [kind() for kind in KINDS], ids=lambda a: a.name)
@given(k=members, n=sizes, h=sizes, dtype=dtypes, bias=st.booleans(), seed=seeds)
def test_bias_activation_and_its_gradient(name, activation, k, n, h, dtype, bias, seed):
    case = Case(name, dtype, seed)
    vector = (*k, 1, h) if k else (h,)
    z, b = case.normal(*k, n, h), case.normal(*vector) if bias else None
    case.compare("bias_activation", z, b, activation)
    y = activation.value(case.backend.xp, z)
    dbias = case.normal(*vector) if bias else None
    args = (case.normal(*k, n, h), z, y, activation, dbias)
    case.compare("bias_activation_gradient", *args, writes=(4,) if bias else ())


@pytest.mark.parametrize("name", OVERRIDING)
@given(
    k=members,
    n=sizes,
    c=st.integers(2, 12),
    dtype=dtypes,
    labels=st.booleans(),
    smoothing=st.booleans(),
    class_weights=st.booleans(),
    weights=st.booleans(),
    seed=seeds,
)
def test_softmax_cross_entropy(
    name, k, n, c, dtype, labels, smoothing, class_weights, weights, seed
):
    case = Case(name, dtype, seed)
    targets = (
        case.backend.asarray(case.rng.integers(0, c, (*k, n)))
        if labels
        else case.backend.asarray(case.rng.dirichlet(np.ones(c), (*k, n)), case.dtype)
    )
    case.compare(
        "softmax_cross_entropy",
        case.normal(*k, n, c),
        targets,
        case.backend.constant(0.1, case.dtype) if smoothing else None,
        case.positive(c) if class_weights else None,
        case.positive(*k, n) if weights else None,
    )


@pytest.mark.parametrize("name", OVERRIDING)
@given(
    k=members,
    p=sizes,
    dtype=dtypes,
    momentum=st.booleans(),
    nesterov=st.booleans(),
    decay=st.booleans(),
    seed=seeds,
)
def test_sgd(name, k, p, dtype, momentum, nesterov, decay, seed):
    case = Case(name, dtype, seed)
    double = case.backend.xp.float64
    case.compare(
        "sgd",
        case.normal(*k, p),
        case.normal(*k, p),
        case.normal(*k, p) if momentum else None,
        case.scalar(k, double),
        case.scalar(k, double) if momentum else None,
        case.scalar(k, double) if decay else None,
        nesterov,
        writes=(0, 2) if momentum else (0,),
    )


@pytest.mark.parametrize("name", OVERRIDING)
@given(
    k=members,
    p=sizes,
    dtype=dtypes,
    step=st.integers(0, 10**6),
    decay=st.booleans(),
    decoupled=st.booleans(),
    seed=seeds,
)
def test_adam(name, k, p, dtype, step, decay, decoupled, seed):
    case = Case(name, dtype, seed)
    double = case.backend.xp.float64
    case.compare(
        "adam",
        case.normal(*k, p),
        case.normal(*k, p),
        case.normal(*k, p),
        case.positive(*k, p),
        case.scalar(k, double),
        case.scalar(k, double),
        case.scalar(k, double),
        case.backend.asarray(1e-3, double),
        case.backend.asarray(float(step), double),
        case.scalar(k, double) if decay else None,
        decoupled,
        writes=(0, 2, 3),
    )


# ---- the update rules in plain NumPy, for one parameter vector or K, after `step` updates --------


def rmsprop(w, g, s, m, v, *, lr, alpha, eps, momentum, weight_decay):
    g = g + weight_decay * w
    s = alpha * s + (1 - alpha) * g**2
    m = alpha * m + (1 - alpha) * g
    v = momentum * v + g / (np.sqrt(s - m**2) + eps)
    return w - lr * v, s, m, v


def adagrad(w, g, s, *, lr, lr_decay, eps, weight_decay, step):
    g = g + weight_decay * w
    s = s + g**2
    return w - lr / (1 + step * lr_decay) * g / (np.sqrt(s) + eps), s


def nadam(w, g, m, v, product, *, lr, beta1, beta2, eps, momentum_decay, weight_decay, step):
    t = step + 1
    g = g + weight_decay * w
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    mu, following = (beta1 * (1 - 0.96 ** (i * momentum_decay) / 2) for i in (t, t + 1))
    product = product * mu
    m_hat = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
    return w - lr * m_hat / (np.sqrt(v / (1 - beta2**t)) + eps), m, v, product


def lion(w, g, m, *, lr, beta1, beta2, weight_decay):
    c = beta1 * m + (1 - beta1) * g
    return w - lr * (np.sign(c) + weight_decay * w), beta2 * m + (1 - beta2) * g


RULES = {
    "rmsprop": (rmsprop, ("square", "mean", "velocity")),
    "adagrad": (adagrad, ("total",)),
    "nadam": (nadam, ("mean", "square", "mu_product")),
    "lion": (lion, ("mean",)),
}


@pytest.mark.parametrize("step", [0, 7, 10**6])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_its_formula(backend, dtype, draw, rule, members, step):
    formula, memory = RULES[rule]
    stack = (members,) if members else ()
    rows = (members, 1) if members else ()
    host = dict(zip(("params", "grads", "mean", "velocity"), draw(4, *stack, 11), strict=True))
    host |= {name: 1 + draw(*stack, 11) ** 2 for name in ("square", "total")}  # above mean^2 / 4
    host |= {"mean": host["mean"] / 4, "mu_product": np.full((*rows[:1], 1), 0.9)}
    host = {name: host[name] for name in ("params", "grads", *memory)}
    parameters = inspect.signature(formula).parameters.values()
    names = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    settings = {n: step if n == "step" else 0.1 + 0.8 * np.tanh(draw(*rows) ** 2) for n in names}

    xp = backend.xp
    dtypes = dict.fromkeys(host, dtype) | {"mu_product": "float64"}
    own = {
        name: xp.asarray(backend.asarray(value, getattr(xp, dtypes[name])), copy=True)
        for name, value in host.items()
    }
    given = {name: backend.asarray(value, xp.float64) for name, value in settings.items()}
    getattr(backend, rule)(**own, **given)

    rtol = 1e-5 if dtype == "float32" else 1e-12
    wanted = formula(*host.values(), **settings)
    for name, value in zip(("params", *memory), wanted, strict=True):
        error = np.abs(backend.to_numpy(own[name]) - value).max()
        assert error <= rtol * np.abs(value).max(), name
    np.testing.assert_array_equal(backend.to_numpy(own["grads"]), host["grads"].astype(dtype))


def test_what_a_rule_leaves_out_is_a_setting_of_0(backend, draw):
    xp, drawn = backend.xp, draw(3, 11) ** 2

    def run(momentum, weight_decay, velocity):
        w, g, s = (xp.asarray(backend.asarray(values), copy=True) for values in drawn)
        lr, alpha, eps = (backend.asarray(value, xp.float64) for value in (0.1, 0.9, 1e-3))
        backend.rmsprop(w, g, s, None, velocity, lr, alpha, eps, momentum, weight_decay)
        return backend.to_numpy(w)

    zero = backend.asarray(0.0, xp.float64)
    without, with_zeros = run(None, None, None), run(zero, zero, xp.zeros(11, dtype=xp.float64))
    np.testing.assert_array_equal(without, with_zeros)
    assert np.abs(without - drawn[0]).max() > 0.01


def test_a_centred_rmsprop_stays_finite_where_the_gradient_is_constant(backend, dtype, draw):
    """s - m^2 is 0 there but for rounding, which leads below it, too."""
    xp, g = backend.xp, backend.asarray(draw(99), getattr(backend.xp, dtype))
    w, s, m = (xp.zeros_like(g) for _ in range(3))
    lr, alpha, eps = (backend.asarray(value, xp.float64) for value in (1e-3, 0.5, 1e-8))
    below = 0
    for _ in range(400):
        backend.rmsprop(w, g, s, m, None, lr, alpha, eps)
        below += int(xp.sum(xp.astype(s < m * m, xp.int64)))
    assert below > 0
    assert np.isfinite(backend.to_numpy(w)).all()


@pytest.mark.parametrize("name", OVERRIDING)
@given(k=members, n=sizes, d=sizes, dtype=dtypes, rows=st.booleans(), seed=seeds)
def test_gather_rows(name, k, n, d, dtype, rows, seed):
    case = Case(name, dtype, seed)
    images = case.backend.asarray(case.rng.integers(0, 256, (*k, n, d)).astype(np.uint8))
    order = case.backend.asarray(case.rng.integers(0, n, 5)) if rows else None
    case.compare("gather_rows", images, order, case.dtype, 1 / 255)
    case.compare("gather_rows", case.normal(*k, n, d), order, case.dtype)


@pytest.mark.parametrize("name", OVERRIDING)
@given(
    k=members,
    shared=st.booleans(),
    size=st.integers(1, 99),
    step=st.integers(0, 2**32 - 1),
    rate=st.floats(0, 0.99),
    seed=seeds,
)
def test_random_bits_and_dropout_are_equal_to_the_bit(name, k, shared, size, step, rate, seed):
    case = Case(name, "float64", seed)
    case.tolerance = 0
    key = case.backend.asarray(case.rng.integers(0, 2**32, (*k, 2)))
    step = case.backend.asarray(step, case.backend.xp.int64)
    case.compare("random_bits", key, step, size)
    threshold = case.backend.asarray(int(rate * 2**32), case.backend.xp.int64)
    x = case.normal(*(() if shared else k), size, 3)
    case.compare("dropout", x, key, step, threshold, case.scalar(()))
