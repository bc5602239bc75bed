"""Test accuracy and time of `mlpkit train --dataset mnist` with its defaults, seeds 0 to 4.

    MLPKIT_DATA=FOLDER python benchmarks/mnist_accuracy.py

Each seed is a process of its own, timed from its start to its end.  The figures are written to
benchmarks/results/mnist_accuracy.json.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlpkit import info

COMMAND = "mlpkit train --dataset mnist --seed SEED"
RESULT = Path(__file__).parent / "results" / "mnist_accuracy.json"


def train(seed: int, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    options = ["--dataset", "mnist", "--seed", str(seed), "--run", str(folder)]
    subprocess.run([sys.executable, "-m", "mlpkit", "train", *options], check=True)
    seconds = time.perf_counter() - start
    result = json.loads((folder / "result.json").read_text())
    return {"seed": seed, "accuracy": result["test"]["accuracy"], "seconds": round(seconds, 1)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(seed, Path(folder) / str(seed)) for seed in range(5)]
    accuracies = [run["accuracy"] for run in runs]
    report = {
        "command": COMMAND,
        "made_by": "python benchmarks/mnist_accuracy.py",
        "mean_accuracy": round(statistics.mean(accuracies), 5),
        "sd_accuracy": round(statistics.stdev(accuracies), 5),
        "runs": runs,
        "machine": info.describe(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"mean {report['mean_accuracy']:.4f}, sd {report['sd_accuracy']:.4f}")


if __name__ == "__main__":
    main()
