"""The command line: train, evaluate, predict, lesson, info."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.panel import Panel

import mlpkit
from mlpkit import checkpoint, images, info, run
from mlpkit.backends.names import look_up
from mlpkit.data import DatasetUnavailableError
from mlpkit.lessons import LESSONS, lesson
from mlpkit.losses import ManyClasses, get_loss
from mlpkit.progress import show

app = typer.Typer(
    name="mlpkit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT = run.RunSettings()
MISTAKES = (ValueError, TypeError, OSError, ArithmeticError, mlpkit.BackendUnavailableError)

Dataset = Annotated[
    str | None,
    typer.Option(
        help="mnist or digits (drawn).  By default MNIST, and digits if it is not to be had."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Folder of the four MNIST files.  Otherwise $MLPKIT_DATA, the cache, a mirror."
    ),
]
BackendName = Annotated[str, typer.Option(help="numpy, cupy, auto or a plug-in.")]
Model = Annotated[Path, typer.Argument(help="A .safetensors file or the folder of a run.")]


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake ends in one line and exit status 1, not in a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except MISTAKES as error:
        print(f"mlpkit: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def train(
    context: typer.Context,
    dataset: Dataset = None,
    data: Data = None,
    hidden: Annotated[
        str, typer.Option(help="Hidden layer sizes, separated by commas.")
    ] = ",".join(map(str, DEFAULT.hidden)),
    activation: Annotated[str, typer.Option(help="Of the hidden layers.")] = DEFAULT.activation,
    dropout: Annotated[float, typer.Option(help="Rate after each hidden layer.")] = DEFAULT.dropout,
    members: Annotated[
        int | None,
        typer.Option(help="Networks trained at once, with weights of seeds SEED, SEED+1, ..."),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="sgd, adam, muon, ... in small letters.")
    ] = DEFAULT.optimizer,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate, falling along a cosine; the default suits most."),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="By default what the optimizer has.")
    ] = None,
    epochs: int = DEFAULT.epochs,
    batch_size: int = DEFAULT.batch_size,
    validation: Annotated[
        int | None,
        typer.Option(help="Training images held out; by default 5000 of MNIST, 2000 drawn ones."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after as many epochs without a better val_loss.")
    ] = None,
    seed: int = DEFAULT.seed,
    backend: BackendName = DEFAULT.backend,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = DEFAULT.dtype,
    folder: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of the run; by default a new one in runs/."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this folder; it keeps its settings."),
    ] = None,
) -> None:
    """Train a network to read digits; at the end it is judged on the test set."""
    with user_errors():
        if resume is not None:
            _refuse_other_options(context)
            settings = run.saved_settings(resume)
            if data is not None:
                settings = replace(settings, data=str(Path(data).resolve()))
            images_and_labels = run.load_dataset(settings.dataset, settings.data)
            _run(images_and_labels, settings, resume, resume=True)
            return
        mlpkit.get_backend(backend)  # before a download
        name, images_and_labels = _choose_dataset(dataset, data)
        settings = run.RunSettings(
            dataset=name,
            data=None if data is None else str(Path(data).resolve()),
            hidden=_sizes(hidden),
            activation=activation,
            dropout=dropout,
            members=members,
            optimizer=optimizer,
            lr=run.RATES.get(optimizer, DEFAULT.lr) if lr is None else lr,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=batch_size,
            validation=run.HELD_OUT.get(name, 0) if validation is None else validation,
            patience=patience,
            seed=seed,
            backend=backend,
            dtype=dtype,
        )
        # The process, too, for two runs may begin in one second.
        unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        _run(images_and_labels, settings, folder or Path("runs") / unique)


def _run(data: run.Data, settings: run.RunSettings, folder: Path, resume: bool = False) -> None:
    trainer = run.build(settings)
    network = trainer.network
    print(network.summary())
    print(f"dataset {settings.dataset}, backend {network.backend.name}, run {folder}", flush=True)
    try:
        figures = run.train(trainer, data, settings, folder, [mlpkit.Progress()], resume)
    except KeyboardInterrupt:
        print(f"interrupted; go on with: mlpkit train --resume {folder}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"test accuracy {show(figures['accuracy'])}  loss {show(figures['loss'])}")


def _refuse_other_options(context: typer.Context) -> None:
    if others := sorted(_given(context) - {"resume", "data"}):
        raise ValueError(f"a resumed run keeps its settings: --resume goes without {others}")


def _given(context: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _sizes(text: str, option: str = "--hidden") -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise ValueError(f"{option} takes sizes such as 256,128, got {text!r}") from None


def _choose_dataset(dataset: str | None, folder: str | None) -> tuple[str, run.Data]:
    """The dataset asked for; without a wish MNIST, and the drawn digits where there is none."""
    try:
        return dataset or "mnist", run.load_dataset(dataset or "mnist", folder)
    except DatasetUnavailableError as error:
        if dataset is not None:
            raise
        text = (
            f"{error}\n\nTraining on DRAWN DIGITS instead: the accuracy says nothing of "
            "MNIST.  --dataset mnist makes this an error."
        )
        Console(stderr=True).print(Panel(text, title="MNIST is not to be had", style="bold yellow"))
        return "digits", run.load_dataset("digits", None)


def _load(model: Path, backend: str) -> tuple[mlpkit.Network, dict[str, Any]]:
    """The network in a file or in the folder of a run, and the settings of that run."""
    if model.is_dir():
        names = [name for name in (run.MODEL, run.STATE) if (model / name).exists()]
        if not names:
            raise FileNotFoundError(f"{model} holds neither {run.MODEL} nor {run.STATE}")
        model = model / names[0]
    return checkpoint.load_with_notes(model, backend)


@app.command()
def evaluate(
    model: Model, dataset: Dataset = None, data: Data = None, backend: BackendName = "auto"
) -> None:
    """Print loss and accuracy on a test set, by default that of the dataset it was trained on."""
    with user_errors():
        network, notes = _load(model, backend)
        name = dataset or notes.get("dataset", "mnist")
        _, (x, y) = run.load_dataset(name, data or notes.get("data"))
        figures = mlpkit.Trainer(network, metrics=["accuracy"]).evaluate(x, y)
        print(f"{name} test set, {len(x):,} images")
        print(f"test accuracy {show(figures['accuracy'])}  loss {show(figures['loss'])}")


@app.command()
def predict(
    model: Model,
    files: Annotated[list[Path], typer.Argument(help="Pictures (PNG, ...) or IDX files.")],
    backend: BackendName = "auto",
) -> None:
    """Print class and probabilities of each image; members of one file vote with their mean."""
    with user_errors():
        network, _ = _load(model, backend)
        for path in files:
            x = images.read_images(path)
            proba = network.backend.to_numpy(network.predict_proba(x))
            proba = proba.reshape(-1, *proba.shape[-2:]).mean(axis=0)
            for index, p in enumerate(proba):
                label = str(path) if len(x) == 1 else f"{path}[{index}]"
                print(f"{label}  class {int(np.argmax(p))}  p {' '.join(f'{v:.4f}' for v in p)}")


@app.command(name="lesson")
def lesson_command(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A worked example, such as E3.  Without one, their list.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Of a network of your own, from input to output: 2,2,1.")
    ] = None,
    activation: Annotated[str, typer.Option(help="Of the hidden layers.")] = "sigmoid",
    output: Annotated[str, typer.Option(help="Activation of the last layer.")] = "linear",
    bias: bool = True,
    seed: Annotated[int, typer.Option(help="Of the initial weights.")] = 0,
    weights: Annotated[
        Path | None,
        typer.Option(help='A JSON file of all parameters by name: {"0.weight": [[...]], ...}'),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A small network in a file, instead of --sizes.")
    ] = None,
    x: Annotated[str | None, typer.Option(help="The sample, such as 2,3; several: 2,3;4,5")] = None,
    target: Annotated[str | None, typer.Option(help="As --x, or a class label each.")] = None,
    loss: Annotated[str, typer.Option(help="See mlpkit.losses.")] = "half_squared_error",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.1,
    hold: Annotated[str, typer.Option(help="Parameters to leave as they are: 0.bias,1.bias")] = "",
) -> None:
    """Print a worked example, or one gradient step of a small network, number by number."""
    with user_errors():
        given = _given(context)
        if given <= {"name"}:
            print(look_up("lesson", name.upper(), LESSONS)[1]() if name else _list_of_lessons())
            return
        if name is not None:
            raise ValueError(f"the lesson {name} takes no options, got {sorted(given - {'name'})}")
        if x is None or target is None:
            raise ValueError("a network of your own needs --x and --target")
        if model is not None:
            if own := sorted(given & {"sizes", "activation", "output", "bias", "seed", "weights"}):
                raise ValueError(f"--model is a whole network: it goes without {own}")
            network, _ = _load(model, "numpy")
        elif sizes is not None:
            if not (widths := list(pairwise(_sizes(sizes, "--sizes")))):
                raise ValueError(f"--sizes go from the input to the output: 2,2,1, got {sizes!r}")
            kinds = [activation] * (len(widths) - 1) + [output]
            layers = [mlpkit.Dense(*width, g, bias) for width, g in zip(widths, kinds, strict=True)]
            multilabel = isinstance(get_loss(loss), ManyClasses)
            network = mlpkit.Network(layers, dtype="float64", seed=seed, multilabel=multilabel)
        else:
            raise ValueError("a network of your own needs --sizes or --model")
        if weights is not None:
            network.load_parameters(_parameters(weights))
        samples, targets = _samples("--x", x), _samples("--target", target)
        if targets.shape[1] == 1 < network.n_out and np.all(targets == np.floor(targets)):
            targets = targets.astype(np.int64).squeeze(axis=-1)  # class labels
        held = [parameter for parameter in hold.split(",") if parameter]
        print(lesson(network, samples, targets, loss, lr, held), end="")


def _list_of_lessons() -> str:
    return "\n".join(f"mlpkit lesson {name}  {title}" for name, (title, _) in LESSONS.items())


def _samples(option: str, text: str) -> np.ndarray[Any, Any]:
    try:
        return np.array([[float(v) for v in row.split(",")] for row in text.split(";")])
    except ValueError:
        raise ValueError(f"{option} takes samples such as 2,3;4,5, got {text!r}") from None


def _parameters(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no parameters by name, such as {{'0.weight': [[1.0]]}}")
    return values


@app.command(name="info")
def info_command() -> None:
    """Print versions, devices, BLAS and threads: the block for a bug report."""
    with user_errors():
        report = info.describe()
        width = max(map(len, report))
        for name, value in report.items():
            print(f"{name:<{width}}  {value}")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Multilayer perceptrons on NumPy, CuPy or any Array API library."""
    if version:
        print(mlpkit.__version__)
        raise typer.Exit


def main() -> None:
    """The entry point of the command `mlpkit`."""
    app()
