"""The command line, on drawn digits few enough to be learnt in a moment."""

import gzip
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mlpkit
from mlpkit import cli
from mlpkit.data import DatasetUnavailableError

FILES = ["log.jsonl", "model.safetensors", "result.json", "state.safetensors"]


@pytest.fixture(autouse=True)
def few_digits(monkeypatch, tmp_path):
    monkeypatch.setattr(mlpkit.run, "DRAWN_TRAIN", 400)
    monkeypatch.setattr(mlpkit.run, "DRAWN_TEST", 100)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MLPKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_mnist(monkeypatch):
    three_ways = sys.modules["mlpkit.data.mnist"].THREE_WAYS

    def unavailable(folder=None):
        raise DatasetUnavailableError(f"MNIST cannot be downloaded. {three_ways}")

    monkeypatch.setattr(mlpkit.data, "mnist", unavailable)
    monkeypatch.setattr(mlpkit.run, "mnist", unavailable)


def mlpkit_(*arguments, code=0):
    """Run the command; its result, with the exit code checked."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def train(*options, code=0):
    digits = ("--dataset", "digits", "--epochs", 1, "--validation", 50, "--backend", "numpy")
    return mlpkit_("train", *digits, *options, code=code)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlpkit.run, "DRAWN_TRAIN", 400)
        patch.setattr(mlpkit.run, "DRAWN_TEST", 100)
        return folder, train("--run", folder, "--epochs", 8).stdout


def test_train_leaves_a_run_and_ends_with_the_test_accuracy(run):
    folder, output = run
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert "235,146" in output
    assert "dataset digits, backend numpy" in output
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == len((folder / "log.jsonl").read_text().splitlines()) == 8
    assert result["settings"]["hidden"] == [256, 128]
    test = result["test"]
    assert output.splitlines()[-1] == (
        f"test accuracy {test['accuracy']:.4g}  loss {test['loss']:.4g}"
    )
    assert test["accuracy"] > 0.3


def test_train_says_an_epoch_a_line_on_standard_error():
    result = train("--run", "here", "--epochs", 2)
    assert [line[:9] for line in result.stderr.splitlines()] == ["epoch   1", "epoch   2"]
    assert "val_accuracy" in result.stderr


def test_train_chooses_a_folder_by_the_time(tmp_path):
    train()
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == FILES


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        (["sgd"], 0.1), (["adam"], 1e-3), (["adamw"], 1e-3), (["rmsprop"], 1e-3),
        (["adagrad"], 1e-2), (["lion"], 3e-4), (["muon"], 2e-2), (["sgd", "--lr", 0.25], 0.25),
    ],
)  # fmt: skip
def test_each_optimizer_has_a_learning_rate_of_its_own(options, lr):
    train("--run", "here", "--hidden", "4", "--optimizer", *options)
    assert json.loads(Path("here/result.json").read_text())["settings"]["lr"] == lr


def test_members_are_trained_together():
    output = train("--members", 3, "--run", "here", "--hidden", "16").stdout
    assert "each of 3 members" in output
    assert output.splitlines()[-1].count("[") == 2  # accuracy and loss with their ranges
    result = json.loads(Path("here/result.json").read_text())
    assert len(result["test"]["accuracy"]) == 3


def test_a_finished_run_resumes_to_the_same_end(run):
    folder, output = run
    log = (folder / "log.jsonl").read_text()
    again = mlpkit_("train", "--resume", folder).stdout
    assert again.splitlines()[-1] == output.splitlines()[-1]
    assert (folder / "log.jsonl").read_text() == log


@pytest.mark.parametrize("what", ["", "model.safetensors", "state.safetensors"])
def test_evaluate_finds_what_train_found(run, what):
    folder, output = run
    lines = mlpkit_("evaluate", folder / what).stdout.splitlines()
    assert lines == ["digits test set, 100 images", output.splitlines()[-1]]


def idx(images):
    return struct.pack(">HBB3I", 0, 8, 3, *images.shape) + images.tobytes()


def classes(*arguments):
    lines = mlpkit_("predict", *arguments).stdout.splitlines()
    return [int(line.split("  class ")[1].split()[0]) for line in lines]


def test_predict_reads_pictures_and_idx_files_alike(run, tmp_path):
    images = mlpkit.data.digits(5, seed=1)[0].reshape(5, 28, 28)
    (tmp_path / "five.idx").write_bytes(idx(images))
    (tmp_path / "five.gz").write_bytes(gzip.compress(idx(images)))
    expected = mlpkit.load(run[0] / "model.safetensors").predict(images.reshape(5, 784)).tolist()
    for name in ("five.idx", "five.gz"):
        assert classes(run[0], tmp_path / name) == expected
    pictures = []
    for i, image in enumerate(images):
        for name, pixels in (("white", image), ("black", 255 - image)):
            pictures.append(tmp_path / f"{name}_on_the_other_{i}.png")
            Image.fromarray(pixels).save(pictures[-1])
    assert classes(run[0], *pictures) == np.repeat(expected, 2).tolist()


def test_predict_prints_probabilities_that_the_members_agreed_on(tmp_path):
    train("--members", 2, "--run", "here", "--hidden", "8")
    image = mlpkit.data.digits(1, seed=3)[0]
    Image.fromarray(image.reshape(28, 28)).save("digit.png")
    (line,) = mlpkit_("predict", "here", "digit.png").stdout.splitlines()
    assert line.startswith("digit.png  class ")
    p = np.array(line.partition("  p ")[2].split(), float)
    expected = mlpkit.load("here/model.safetensors").predict_proba(image)[:, 0].mean(axis=0)
    np.testing.assert_allclose(p, expected, atol=6e-5)


def test_info_says_versions_backends_and_threads():
    lines = mlpkit_("info").stdout.splitlines()
    report = {line.split("  ")[0]: line.partition("  ")[2].strip() for line in lines}
    assert report["mlpkit"] == mlpkit.__version__
    assert report["numpy"] == np.__version__
    assert report["backend numpy"] == "works"
    assert "cupy" in report["backend cupy"].lower() or report["backend cupy"] == "works"
    assert any(name.startswith("blas") for name in report)


def test_without_mnist_drawn_digits_are_announced_loudly(no_mnist):
    result = mlpkit_("train", "--epochs", 1, "--validation", 50, "--run", "here")
    assert "DRAWN DIGITS" in result.stderr
    assert "--dataset mnist makes this an error" in result.stderr
    assert "dataset digits" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("test accuracy ")


def test_mnist_asked_for_and_not_to_be_had_is_an_error(no_mnist, tmp_path):
    result = mlpkit_("train", "--dataset", "mnist", "--run", "here", code=1)
    for way in ("three ways", "--data", "MLPKIT_DATA", "network connection"):
        assert way in result.stderr
    assert "test accuracy" not in result.stdout


MISTAKES = [
    (["--dataset", "digit"], r"unknown dataset 'digit'; did you mean 'digits'\?"),
    (["--activation", "rellu"], r"unknown activation 'rellu'; did you mean 'relu'\?"),
    (["--optimizer", "adm"], r"unknown optimizer 'adm'; did you mean 'adam'\?"),
    (["--backend", "nunpy"], r"unknown backend 'nunpy'; did you mean 'numpy'\?"),
    (["--dtype", "float23"], r"unknown dtype 'float23'; did you mean 'float32'\?"),
    (["--hidden", "abc"], r"--hidden takes sizes such as 256,128, got 'abc'"),
    (["--hidden", "0"], r"n_out must be at least 1, got 0"),
    (["--epochs", "0"], r"epochs must be at least 1, got 0"),
    (["--batch-size", "0"], r"batch_size must be at least 1, got 0"),
    (["--validation", "400"], r"validation must lie in \[0, 399\], got 400"),
    (["--patience", "0"], r"patience must be at least 1"),
    (["--dropout", "1"], r"(rate|dropout) must lie in \[0, 1\), got 1"),
    (["--lr", "-1"], r"learning rate must lie in \[0, inf\), got -1"),
    (["--members", "0"], r"members must be at least 1, got 0"),
    (["--seed", "-1"], r"a seed is an integer in \[0, 2\*\*64\), got -1"),
    (["--dataset", "mnist", "--data", "nowhere"], r"the MNIST folder nowhere is not a folder"),
    (["--data", "nowhere"], r"the MNIST folder nowhere is not a folder"),
    (["--resume", "nowhere"], r"a resumed run keeps its settings: .* 'epochs', 'validation'"),
    (["--patience", "2", "--validation", "0"], "patience needs validation"),
]


def assert_one_line(result, message):
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("epoch ")]
    assert line.startswith("mlpkit: ")
    assert re.search(message, line), line
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "message"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES]
)
def test_mistakes_end_in_one_line(options, message):
    defaults = ["--epochs", "1", "--validation", "50"]
    if "--data" not in options:
        defaults += ["--dataset", "digits"]
    assert_one_line(mlpkit_("train", *defaults, *options, code=1), message)


def test_a_run_is_not_written_over(run):
    before = (run[0] / "state.safetensors").read_bytes()
    result = train("--run", run[0], code=1)
    assert_one_line(result, r"run holds a run already: .*resume")
    assert (run[0] / "state.safetensors").read_bytes() == before


FILE_MISTAKES = [
    (["train", "--resume", "nowhere"], r"nowhere holds no state.safetensors: no run was begun"),
    (["train", "--resume", "{empty}"], r"empty holds no state.safetensors"),
    (["evaluate", "{empty}"], r"empty holds neither model.safetensors nor state.safetensors"),
    (["evaluate", "{missing}"], r"No such file .*missing"),
    (["evaluate", "{text}"], r"text is damaged or no safetensors file"),
    (["evaluate", "{run}", "--dataset", "minst"], r"unknown dataset 'minst'; did you mean 'mnist'"),
    (["predict", "{run}", "{text}"], r"text is no picture that can be read"),
    (["predict", "{run}", "{missing}"], r"No such file .*missing"),
    (["predict", "{run}", "{empty}"], r"Is a directory.*empty"),
    (["predict", "{run}", "{idx}"], r"idx holds uint8 \(2, 3, 3\), expected uint8 \(N, 28, 28\)"),
    (["predict", "{missing}", "{text}"], r"No such file .*missing"),
    (["predict", "{run}", "{text}", "--backend", "numppy"], r"did you mean 'numpy'\?"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), FILE_MISTAKES, ids=[" ".join(a) for a, _ in FILE_MISTAKES]
)
def test_files_that_will_not_do_end_in_one_line(run, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("This is no picture, and no model either.")
    (tmp_path / "idx").write_bytes(idx(np.zeros((2, 3, 3), np.uint8)))
    places = {"run": run[0]} | {name: tmp_path / name for name in ("empty", "text", "idx")}
    places["missing"] = tmp_path / "missing"
    result = mlpkit_(*(argument.format(**places) for argument in arguments), code=1)
    assert_one_line(result, message)


def test_a_lesson_with_targets_of_another_size_ends_in_one_line():
    result = mlpkit_("lesson", "--sizes", "2,3", "--x", "1,2", "--target", "1,2", code=1)
    assert_one_line(result, r"targets have shape \(1, 2\), expected \(1, 3\)$")


@pytest.mark.parametrize(("argument", "code"), [("info", 0), ("--help", 0), ("trian", 2)])
def test_python_m_mlpkit_is_the_command(argument, code):
    command = [sys.executable, "-m", "mlpkit", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    shown = {"info": mlpkit.__version__, "--help": "evaluate", "trian": "trian"}[argument]
    assert shown in done.stdout + done.stderr


def test_version():
    assert mlpkit_("--version").stdout.strip() == mlpkit.__version__


def test_an_interrupted_training_says_how_to_go_on(monkeypatch):
    def interrupt(self, trainer, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlpkit.Progress, "on_epoch_end", interrupt)
        result = train("--run", "here", code=130)
    assert "interrupted; go on with: mlpkit train --resume here" in result.stderr
    resumed = mlpkit_("train", "--resume", "here")
    assert resumed.stdout.splitlines()[-1].startswith("test accuracy ")


def test_data_beside_resume_are_looked_for_where_it_says(run, tmp_path):
    """--data is the one option beside --resume, for the files may have moved; here, drawn ones."""
    result = mlpkit_("train", "--resume", run[0], "--data", tmp_path, code=1)
    assert_one_line(result, r"digits are drawn, they take no folder of data, got /.*")
