"""Are the derivatives right?  Central differences say so."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends import Array
from mlpkit.intake import Intake
from mlpkit.losses import Loss, get_loss
from mlpkit.network import Network
from mlpkit.penalties import Penalty, check_penalties, penalized
from mlpkit.random import Purpose, make_key, uniform
from mlpkit.settings import check_members, whole

STEP = 1e-5


def check_gradients(
    network: Network,
    loss: str | Loss,
    x: Any,
    targets: Any,
    weights: Any = None,
    penalties: Sequence[Penalty] = (),
    train: bool = False,
    samples: int = 40,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> dict[str, float]:
    """Compare the gradients of a loss with (L(w + h) - L(w - h)) / 2h, h = 1e-5.

    Of each parameter, and of x, all elements are moved one by one, or `samples` of them drawn by
    `seed`; an element is moved in all members at once.  Where the slopes to the left and to the
    right differ, as those of a ReLU at 0, there is no derivative and the element is left out.

    Parameters
    ----------
    network : of dtype float64; all but its gradients is left as it was
    loss, x, targets, weights, penalties : as for `Trainer`
    train : whether dropout is on, with the masks of the next training pass
    tolerance : the largest error allowed

    Returns
    -------
    The largest error by the parameter's name, and by "x": |difference - gradient| over the largest
    of either among the elements looked at (over 1e-4 where they are smaller than that).

    Raises
    ------
    TypeError
        The network is not of dtype float64, in which alone differences mean something.
    AssertionError
        An error exceeds the tolerance; the message names the parameter and the element.

    >>> from mlpkit import L2, MLP
    >>> net = MLP([2, 3, 1], "tanh", dtype="float64")
    >>> errors = check_gradients(net, "huber", [[0.5, -1.0]], [[0.2]], penalties=[L2(0.1)])
    >>> max(errors.values()) < 1e-6
    True
    """
    if network.dtype_name != "float64":
        raise TypeError(f"check_gradients needs a float64 network, got {network.dtype_name}")
    whole("samples", samples)
    backend, loss = network.backend, get_loss(loss)
    check_members(loss.name, loss.hyper(), network.members)
    penalties = check_penalties(penalties, network)
    x, targets, weights = Intake(network, loss).data_set(x, targets, weights)
    x = backend.to_numpy(network.rows(x))

    with _left_as_it_was(network) as begin_anew:

        def forward() -> tuple[Array, Callable[..., Any]]:
            begin_anew()  # each pass with the same dropout masks
            return network.forward(x, train)

        scores, backward = forward()
        start, dscores = loss(backend, scores, targets, weights)
        gradients = {"x": backend.to_numpy(backward(dscores, need_dx=True))}
        base = backend.to_numpy(penalized(start, network, penalties))
        for name, view in network.named_gradients().items():
            gradients[name] = backend.to_numpy(view)

        def value() -> NDArray[np.float64]:
            start, _ = loss(backend, forward()[0], targets, weights)
            return backend.to_numpy(penalized(start, network, penalties))

        errors = {}
        for number, (name, array) in enumerate((network.named_parameters() | {"x": x}).items()):
            # The elements of one member; in x they may be shared by all.
            shape = (
                tuple(array.shape)[-2:] if network.members or name == "x" else tuple(array.shape)
            )
            order = np.argsort(uniform(make_key(seed, Purpose.CHECK, number), math.prod(shape)))
            places = [tuple(map(int, np.unravel_index(p, shape))) for p in order[:samples]]
            found: Any = gradients[name]
            expected = np.array([found[(..., *place)] for place in places])
            differences, error = _compare(array, places, expected, value, base, tolerance)
            errors[name] = float(error.max())
            if not errors[name] <= tolerance:
                worst = int(error.max(axis=1).argmax())
                raise AssertionError(
                    f"the gradient of {name} at {places[worst]} is {expected[worst]}, but central "
                    f"differences give {differences[worst]}: error {errors[name]:.1e}, "
                    f"allowed {tolerance:.1e}"
                )
    return errors


@contextmanager
def _left_as_it_was(network: Network) -> Iterator[Callable[[], None]]:
    """A function that puts back what forward passes change beside the scores; it is called last."""
    backend = network.backend
    passes, buffers = backend.to_numpy(network.passes), backend.to_numpy(network.buffers)

    def put_back() -> None:
        network.passes[...] = int(passes)
        network.buffers[...] = backend.asarray(buffers)

    try:
        yield put_back
    finally:
        put_back()


def _compare(
    array: Any,
    places: list[tuple[int, ...]],
    expected: NDArray[Any],
    value: Callable[[], Any],
    base: Any,
    tolerance: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Central differences, and their relative error, of elements of an array: (samples, 1 or K)."""
    slopes = np.array([_slopes(array, (..., *place), STEP, value, base) for place in places])
    differences = slopes.mean(axis=1).reshape(len(places), -1)  # (samples, 1 or K)
    expected = expected.reshape(differences.shape)
    error = np.abs(differences - expected)
    bends = np.abs(slopes[:, 1] - slopes[:, 0]).reshape(differences.shape)
    scale = max(1e-4, np.abs(differences).max(), np.abs(expected).max())
    for i in np.flatnonzero((error > tolerance * scale).any(axis=1)):
        # Closer up, a kink is left behind, or the two slopes still differ as much.
        left, right = _slopes(array, (..., *places[i]), STEP / 100, value, base)
        bend, miss = np.abs(right - left), np.abs((left + right) / 2 - expected[i])
        kink = (bend > bends[i] / 2) & (error[i] < 100 * bend)  # and it is no rounding
        error[i] = np.where(kink | (miss <= tolerance * scale), 0.0, error[i])
    return differences, error / scale


def _slopes(
    array: Array, index: Any, step: float, value: Callable[[], Any], base: Any
) -> tuple[Any, Any]:
    """The slopes () or (K,) of the loss to the left and to the right of an element of `array`."""
    before = array[index] + 0.0  # a copy
    try:
        array[index] = before - step
        left = (base - value()) / step
        array[index] = before + step
        return left, (value() - base) / step
    finally:
        array[index] = before
