"""A run: digits learnt from start to end in a folder that holds all there is to know of it.

state.safetensors   the whole state of the training, replaced after every epoch
log.jsonl           one line an epoch
model.safetensors   the trained network
result.json         the settings and the figures on the test set
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpkit.backends.names import look_up
from mlpkit.callbacks import Callback, Checkpoint, JSONLinesLog
from mlpkit.checkpoint import read, restore_state, save
from mlpkit.data import digits, mnist
from mlpkit.files import write_atomically
from mlpkit.mlp import MLP
from mlpkit.optimizers import OPTIMIZERS
from mlpkit.schedules import cosine
from mlpkit.stopping import EarlyStopping
from mlpkit.trainer import Trainer

STATE, LOG, MODEL, RESULT = "state.safetensors", "log.jsonl", "model.safetensors", "result.json"
HELD_OUT = {"mnist": 5000, "digits": 2000}  # training images kept for validation by default
DRAWN_TRAIN, DRAWN_TEST = 12_000, 2_000
RATES = {"sgd": 0.1, "rmsprop": 1e-3, "adagrad": 1e-2, "lion": 3e-4, "muon": 2e-2}  # else Adam's
WARMUP = 0.05  # share of the run in which the learning rate rises

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Data = tuple[Split, Split]


@dataclass(frozen=True)
class RunSettings:
    """What a run is made from.  `data` is the folder of the MNIST files, None to search for it."""

    dataset: str = "mnist"
    data: str | None = None
    hidden: tuple[int, ...] = (256, 128)
    activation: str = "relu"
    dropout: float = 0.2
    members: int | None = None
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float | None = None
    epochs: int = 15
    batch_size: int = 128
    validation: int = HELD_OUT["mnist"]
    patience: int | None = None
    seed: int = 0
    backend: str = "auto"
    dtype: str = "float32"


def load_dataset(name: str, folder: str | None) -> Data:
    """Training and test set: uint8 images (N, 784) with uint8 labels (N,)."""
    look_up("dataset", name, HELD_OUT)
    if name == "mnist":
        return mnist(folder)
    if folder is not None:
        raise ValueError(f"{name} are drawn, they take no folder of data, got {folder}")
    return digits(DRAWN_TRAIN, seed=0), digits(DRAWN_TEST, seed=1)


def build(settings: RunSettings) -> Trainer:
    """The trainer of a run, before its first step."""
    kind = look_up("optimizer", settings.optimizer, OPTIMIZERS)
    if kind.full_batch:
        raise ValueError(f"{settings.optimizer} needs full batches, a run is made in mini-batches")
    network = MLP(
        [784, *settings.hidden, 10],
        activation=settings.activation,
        dropout=settings.dropout,
        members=settings.members,
        backend=settings.backend,
        dtype=settings.dtype,
        seed=settings.seed,
    )
    decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    rule = kind(cosine(settings.lr, warmup=WARMUP), **decay)
    return Trainer(network, optimizer=rule, metrics=["accuracy"], seed=settings.seed)


def train(
    trainer: Trainer,
    data: Data,
    settings: RunSettings,
    folder: Path,
    callbacks: Iterable[Callback] = (),
    resume: bool = False,
) -> dict[str, Any]:
    """Make the run, or what is left of it, in `folder`; the figures on the test set.

    The last `settings.validation` training images are held out and judged after each epoch; the
    test set is looked at once, at the end.
    """
    (x, y), (x_test, y_test) = data
    n = len(x) - settings.validation
    if settings.validation < 0 or n < 1:
        raise ValueError(f"validation must lie in [0, {len(x) - 1}], got {settings.validation}")
    if settings.patience is not None and settings.validation == 0:
        raise ValueError("patience needs validation: there is no val_loss to watch without it")
    if resume:
        restore_state(trainer, folder / STATE)
    elif (folder / STATE).exists():
        raise FileExistsError(f"{folder} holds a run already: resume it, or name another folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
    stopping = [] if settings.patience is None else [EarlyStopping(patience=settings.patience)]
    notes = asdict(settings)
    trainer.fit(
        x[:n],
        y[:n],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        validation=(x[n:], y[n:]) if settings.validation else None,
        # The checkpoint comes last: it saves the state of the others.
        callbacks=[
            *stopping,
            JSONLinesLog(folder / LOG),
            *callbacks,
            Checkpoint(folder / STATE, notes),
        ],
    )
    save(trainer.network, folder / MODEL, notes)
    figures = trainer.evaluate(x_test, y_test)
    result = {"settings": notes, "epochs": trainer.epoch, "test": figures}
    write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return figures


def saved_settings(folder: Path) -> RunSettings:
    """The settings of the run that was begun in `folder`."""
    path = folder / STATE
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no {STATE}: no run was begun there, or it ended before its first step"
        )
    notes = read(path)[0].get("notes", {})
    known = {field.name for field in fields(RunSettings)}
    if set(notes) != known:
        raise ValueError(f"{path} was not written by a run of this mlpkit")
    return RunSettings(**notes | {"hidden": tuple(notes["hidden"])})
