"""A lecture on paper: one step of gradient descent on a small network, number by number."""

import copy
from collections.abc import Sequence
from typing import Any

from mlpkit.backends.names import look_up
from mlpkit.lessons.blackboard import Blackboard
from mlpkit.lessons.record import Part, Recorder, on_host
from mlpkit.losses import Loss
from mlpkit.network import Network
from mlpkit.optimizers import SGD
from mlpkit.stack import walk
from mlpkit.trainer import Trainer

UNITS, SAMPLES = 12, 8  # more would not be legible


def lesson(
    network: Network,
    x: Any,
    targets: Any,
    loss: str | Loss = "half_squared_error",
    lr: float = 0.1,
    hold: Sequence[str] = (),
    digits: int = 8,
) -> str:
    """Forward pass, error, backward pass and update, as a lecturer writes them on a blackboard.

    Every number comes out of the network's own layers, its `Loss` and `SGD`, which run on a copy.
    `Dense` and activations are written out; of another layer it shows what goes in and comes out,
    forward and back.  All of them behave as outside training, so that nothing is dropped.

    Parameters
    ----------
    network : a single one, of at most 12 units in a layer
    x, targets, loss : as for `Trainer`; at most 8 samples
    lr : the learning rate
    hold : names of parameters that the step leaves unchanged, such as "0.bias"
    digits : significant digits; float32 has 7

    Raises
    ------
    ValueError, TypeError
        The network or the data are too large or do not fit, or the network has members or a
        precision.

    >>> from mlpkit import MLP
    >>> text = lesson(MLP([2, 2, 1], "sigmoid", dtype="float64"), [[2.0, 3.0]], [[1.0]], lr=0.05)
    >>> text.splitlines()[0]
    '9 parameters, half_squared_error, learning rate 0.05'
    """
    if network.members is not None:
        raise ValueError(f"a lesson is about one network, this one has {network.members} members")
    if (precision := network.backend.precision) is not None:
        raise ValueError(f"a lesson shows what it multiplies, which precision={precision!r} rounds")
    network = copy.deepcopy(network)
    backend = network.backend
    parameters, gradients = network.named_parameters(), network.named_gradients()
    widest = max(network.n_in, *(size for value in parameters.values() for size in value.shape))
    if widest > UNITS:
        raise ValueError(f"a lesson is for layers of at most {UNITS} units, got {widest}")
    x = network.place(x)
    if x.shape[0] > SAMPLES:
        raise ValueError(f"a lesson is for at most {SAMPLES} samples, got {x.shape[0]}")
    trainer = Trainer(network, loss, SGD(lr))
    trainer.evaluate(x, targets)  # refuses what does not fit
    held = [look_up("parameter", name, gradients) for name in hold]

    layers, parts = network.layers, list[Part]()
    network.layers = [
        Recorder(layer, name, parts) for path, name, layer in walk(layers) if len(path) == 1
    ]
    scores, backward = network.forward(x)
    network.layers = layers
    _, dscores = trainer.loss(backend, scores, targets)
    backward(dscores, need_dx=True)
    old, slopes = on_host(backend, parameters), on_host(backend, gradients)
    for gradient in held:
        gradient[...] = 0.0
    trainer.optimizer.step()
    new = on_host(backend, parameters)

    board, output = Blackboard(x.shape[0], digits), parts[-1].output
    board.write(
        f"{network.n_parameters} parameters, {trainer.loss.name}, learning rate {board.number(lr)}"
        + f"; E is the mean over {board.samples} samples" * (board.samples > 1)
    )
    board.title("1  Forward pass")
    for part in parts:
        board.forward(part)
    board.title("2  Error and its derivative")
    board.error(trainer.loss, backend, scores, targets, output)
    board.title("3  Backward pass")
    for part in reversed(parts):
        board.backward(part, need_dx=part is not parts[0])
    board.title("4  Update")
    for name in parameters:
        if name in hold:
            board.write(f"{name} is held")
        else:
            board.update(name, old[name], lr, slopes[name], new[name])
    board.title("After the step")
    board.values(output, backend.to_numpy(network.predict_scores(x)))
    board.equations([("E", board.number(trainer.evaluate(x, targets)["loss"]))])
    return "\n".join(board.lines[1:]) + "\n"
