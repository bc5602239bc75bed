"""A run that is killed again and again comes out as if nothing had happened, bit for bit."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from numpy.testing import assert_array_equal

import mlpkit

KILLS, EPOCHS = 10, 16
OPTIONS = (
    *("train", "--dataset", "digits", "--backend", "numpy", "--hidden", "128,64"),
    *("--epochs", str(EPOCHS), "--batch-size", "16", "--validation", "600"),
    *("--dropout", "0.2", "--patience", "5"),
)  # fmt: skip
DRIVER = """
import mlpkit.cli
import mlpkit.run

mlpkit.run.DRAWN_TRAIN, mlpkit.run.DRAWN_TEST = 3000, 200
mlpkit.cli.main()
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts the small training in another process."""
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}

    def start(*arguments):
        command = [sys.executable, str(driver), *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )

    return start


def begin_or_resume(start, folder):
    if (folder / "state.safetensors").exists():
        return start("train", "--resume", folder)
    return start(*OPTIONS, "--run", folder)


def wait_for(stream, beginning):
    """Read lines up to the first that begins so, or to the end."""
    for line in stream:
        if line.startswith(beginning):
            break


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.splitlines()[-1]


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("seconds", "sam"))} for row in rows]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_ten_times_ends_like_one_that_was_not(start, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    last_line = finish(start(*OPTIONS, "--run", whole))

    moments = random.Random(11)
    for _ in range(KILLS):
        with begin_or_resume(start, broken) as process:
            wait_for(process.stdout, "dataset ")  # what follows is the loading of the data
            if moments.random() < 0.6:
                wait_for(process.stderr, "epoch ")
            time.sleep(moments.uniform(0, 0.3))  # an epoch takes about half as long
            process.kill()
            errors = process.stderr.read()
        assert process.returncode in (-9, 0), errors
        assert "Traceback" not in errors

    assert finish(begin_or_resume(start, broken)) == last_line
    rows = log_of(broken)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows == log_of(whole)
    params = [mlpkit.load(folder / "model.safetensors").params for folder in (whole, broken)]
    assert_array_equal(*params, strict=True)
    assert {path.name for path in broken.iterdir() if path.name[0] != "."} == {
        path.name for path in whole.iterdir()
    }
