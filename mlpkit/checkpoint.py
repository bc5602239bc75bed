"""Networks and trainings in files: safetensors with JSON in the metadata, nothing unpickled.

A file holds the parameters under the names of `Network.named_parameters`.  The metadata hold
"mlpkit", a JSON object with the format's number and all settings, and "sha256", the digest of that
text and of every tensor, so that no damage goes unnoticed.  The state of a training is the same
file with more in it, and `load` reads the network from either.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpkit import activations
from mlpkit.backends import get_backend
from mlpkit.base import Layer
from mlpkit.files import write_atomically
from mlpkit.history import EpochLosses
from mlpkit.layers import Dense, Dropout
from mlpkit.network import Network
from mlpkit.normalization import BatchNorm, LayerNorm
from mlpkit.parameters import buffer_slots, parameter_slots, size
from mlpkit.residual import Residual
from mlpkit.settings import from_settings, to_settings, whole

if TYPE_CHECKING:
    from mlpkit.trainer import Trainer

FORMAT = 1
STATE = ("optimizer.", "average.", "epoch.", "callback.")  # tensors beside those of the network
KINDS: tuple[type[Layer], ...] = (
    Dense,
    Dropout,
    LayerNorm,
    BatchNorm,
    Residual,
    *activations.KINDS,
)
LAYERS = {kind.__name__: kind for kind in KINDS}

Tensors = dict[str, NDArray[Any]]


# ---- networks ------------------------------------------------------------------------------------


def save(network: Network, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network's settings and parameters to `path`, whole or not at all.

    `notes` is JSON-able and comes back as `read(path)[0]["notes"]`.
    """
    content = {"network": network.settings(), "notes": dict(notes or {})}
    _write(path, _tensors(network), content)


def load(path: str | Path, backend: Any = "numpy", custom: Iterable[type[Layer]] = ()) -> Network:
    """The network in a file of `save` or `save_state`, on any backend.

    Parameters
    ----------
    custom : layer and activation types of your own that the file names

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is damaged, or not mlpkit's.
    """
    return load_with_notes(path, backend, custom)[0]


def load_with_notes(
    path: str | Path, backend: Any = "numpy", custom: Iterable[type[Layer]] = ()
) -> tuple[Network, dict[str, Any]]:
    """What `load` gives, and the notes that were saved with it."""
    backend = get_backend(backend)
    content, tensors = read(path)
    try:
        return _build(content, tensors, backend, custom), content.get("notes", {})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no network that can be built: {error}") from error


def _build(
    content: dict[str, Any], tensors: Tensors, backend: Any, custom: Iterable[type[Layer]]
) -> Network:
    settings = content["network"]
    types = LAYERS | {kind.__name__: kind for kind in custom}
    try:
        stack = [from_settings(layer, types) for layer in settings["layers"]]
    except ValueError as error:
        raise ValueError(f"{error}; layers of your own are given as custom=[...]") from error
    members = settings["members"]
    # Compared before anything is allocated: the settings of a damaged file may ask for anything.
    given = sum(tensor.size for name, tensor in tensors.items() if not _is_state(name))
    wanted = size(parameter_slots(stack)) + size(buffer_slots(stack))
    wanted *= 1 if members is None else whole("members", members)
    if given != wanted:
        raise ValueError(f"the settings call for {wanted:,} numbers, the file has {given:,}")
    how = {name: settings[name] for name in ("dtype", "seed", "multilabel", "precision")}
    network = Network(stack, members, backend, **how)
    network.load_parameters({n: tensor for n, tensor in tensors.items() if not _is_state(n)})
    return network


def _tensors(network: Network) -> Tensors:
    named = network.named_parameters() | network.named_buffers()
    return {name: network.backend.to_numpy(tensor) for name, tensor in named.items()}


def _is_state(name: str) -> bool:
    return name.startswith(STATE)


# ---- trainings -----------------------------------------------------------------------------------


def save_state(
    trainer: "Trainer", path: str | Path, notes: Mapping[str, Any] | None = None
) -> None:
    """Write the whole state of a training to `path`, whole or not at all.

    `notes` as in `save`.
    """
    network, backend = trainer.network, trainer.network.backend
    tensors = _tensors(network)
    tensors |= {name: backend.to_numpy(array) for name, array in _memory(trainer).items()}
    tensors |= dict(zip(("epoch.losses", "epoch.sizes"), trainer.losses.arrays(), strict=False))
    states = trainer.paused if trainer.restored is None else trainer.restored
    if states is None:
        states = {name: callback.state() for name, callback in trainer.callbacks.items()}
    for name, state in states.items():
        for key, array in state.items():
            tensors[f"callback.{name}.{key}"] = array
    content = _training_settings(trainer) | {
        "progress": {
            "passes": int(backend.to_numpy(network.passes)),
            "updates": int(backend.to_numpy(trainer.optimizer.count)),
            "epoch": trainer.epoch,
            "batch": trainer.batch,
            "form": trainer.form,
            "stop": trainer.stop,
            "history": trainer.history.rows,
        },
        "notes": dict(notes or {}),
    }
    _write(path, tensors, content)


def restore_state(trainer: "Trainer", path: str | Path) -> None:
    """Put a trainer where the one that `save_state` wrote was; its next `fit` goes on from there.

    On the same backend, with the same data and the same arguments to `fit`, the weights come out as
    if the training had never stopped, bit for bit.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is damaged, holds no training, or one with other settings; the trainer is unchanged.
    """
    content, tensors = read(path)
    if "progress" not in content:
        raise ValueError(f"{path} holds a network, but no state of a training")
    mine = json.loads(_json(_training_settings(trainer)))
    for part, value in mine.items():
        if other := _difference(part, content.get(part), value):
            raise ValueError(f"{path} is of a training with another {other}")
    progress = _checked_progress(path, content["progress"])
    network, backend = trainer.network, trainer.network.backend
    memory = _memory(trainer)
    state = {name: tensors.pop(name, None) for name in memory}
    losses = [tensors.pop(name) for name in ("epoch.losses", "epoch.sizes") if name in tensors]
    callbacks: dict[str, Tensors] = {}
    for name in [name for name in tensors if name.startswith("callback.")]:
        _, kind, number, key = name.split(".", 3)
        callbacks.setdefault(f"{kind}.{number}", {})[key] = tensors.pop(name)
    for name, tensor in state.items():
        if tensor is None or tensor.shape != tuple(memory[name].shape):
            raise ValueError(f"{path}: {name} is missing or has another shape")
    steps = [(progress["batch"], *network.params.shape[:-1])] * 2 if progress["batch"] else []
    if [tensor.shape for tensor in losses] != steps:
        raise ValueError(f"{path}: the losses of the epoch under way do not fit")

    network.load_parameters(tensors)
    for name, tensor in state.items():
        memory[name][...] = backend.asarray(tensor, memory[name].dtype)
    network.passes[...] = progress["passes"]
    trainer.optimizer.count[...] = progress["updates"]
    trainer.epoch, trainer.batch = progress["epoch"], progress["batch"]
    trainer.steps, trainer.form = progress["updates"], progress["form"]
    trainer.losses = EpochLosses(backend)
    if losses:
        trainer.losses.restore(*losses)
    trainer.stop = progress["stop"]
    trainer.history.rows[:] = progress["history"]
    trainer.restored = callbacks


def _difference(name: str, theirs: Any, mine: Any) -> str:
    """Where two settings differ first, and how; nothing if they do not."""
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(theirs, dict) and isinstance(mine, dict):
        pairs = [(key, theirs.get(key), mine.get(key)) for key in (*mine, *theirs)]
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        pairs = [(index, *pair) for index, pair in enumerate(zip(theirs, mine, strict=True))]
    elif theirs != mine:
        return f"{name}: {theirs!r}, this trainer has {mine!r}"
    found = (_difference(f"{name} {key}", *pair) for key, *pair in pairs)
    return next(filter(None, found), "")


def _memory(trainer: "Trainer") -> dict[str, Any]:
    """The device arrays that a training keeps beside the network's, by their names in a file."""
    optimizer, average = trainer.optimizer, trainer.average
    kept = {"optimizer": optimizer.memory | {"scale": optimizer.scale, "lr": optimizer.lr}}
    if average is not None:
        kept["average"] = average.memory
    return {
        f"{part}.{name}": array for part, named in kept.items() for name, array in named.items()
    }


def _checked_progress(path: str | Path, progress: Any) -> dict[str, Any]:
    """The progress of a training, its types checked, so that restoring cannot fail half-way."""
    counts = ("passes", "updates", "epoch", "batch")
    kinds = dict.fromkeys(counts, int) | {"form": dict, "stop": bool, "history": list}
    if not isinstance(progress, dict) or {k: type(v) for k, v in progress.items()} != kinds:
        raise ValueError(f"{path}: the progress of the training is damaged: {progress!r:.80}")
    if not all(0 <= progress[name] < 2**63 for name in counts):
        raise ValueError(f"{path}: impossible progress, {progress!r:.80}")
    return progress


def _training_settings(trainer: "Trainer") -> dict[str, Any]:
    return {
        "network": trainer.network.settings(),
        "loss": to_settings(trainer.loss),
        "optimizer": to_settings(trainer.optimizer.rule),
        "seed": trainer.seed,
        "penalties": [to_settings(penalty) for penalty in trainer.penalties],
        "constraints": [to_settings(constraint) for constraint in trainer.constraints],
        "accumulate": trainer.accumulate,
        "average": None if trainer.average is None else trainer.average.decay,
    }


# ---- files ---------------------------------------------------------------------------------------


def _write(path: str | Path, tensors: Tensors, content: dict[str, Any]) -> None:
    from safetensors.numpy import save as serialize

    text = _json({"format": FORMAT} | content)
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {"mlpkit": text, "sha256": _digest(text, tensors)}
    write_atomically(path, serialize(tensors, metadata=metadata))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, default=float)  # of NumPy's numbers


def read(path: str | Path) -> tuple[dict[str, Any], Tensors]:
    """The settings and the tensors of a file that this module wrote.

    Raises OSError where it cannot be read, and ValueError where it is damaged or foreign.
    """
    from safetensors import SafetensorError, safe_open

    with Path(path).open("rb"):  # safetensors' own errors for this say less
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if "mlpkit" not in metadata:
        raise ValueError(f"{path} is a safetensors file, but not one of mlpkit's")
    text = metadata["mlpkit"]
    if metadata.get("sha256") != _digest(text, tensors):
        raise ValueError(f"{path} is damaged: its checksum does not match its content")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its settings are no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}, which this mlpkit reads: {text:.80}")
    return content, tensors


def _digest(text: str, tensors: Tensors) -> str:
    import hashlib

    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
