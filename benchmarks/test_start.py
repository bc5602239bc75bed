"""What a fresh interpreter takes to start; `import numpy` is there to compare with."""

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

COMMANDS = {
    "import numpy": ["-c", "import numpy"],
    "import mlpkit": ["-c", "import mlpkit"],
    "MLP": ["-c", "import mlpkit; mlpkit.MLP([784, 256, 128, 10])"],
    "mlpkit info": ["-m", "mlpkit", "info"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_start(benchmark: BenchmarkFixture, arguments: list[str]) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)

    benchmark.group = "start"
    done = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert done.returncode == 0, done.stderr
