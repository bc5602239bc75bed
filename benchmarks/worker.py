"""A contestant in a process of its own, which answers requests: lines of JSON on stdin and stdout.

    python -m benchmarks.worker NAME --device cpu --precision float32 --data FOLDER

A request names one of `Server`'s methods as "do", with its arguments; the answer is what that
returns, or {"error": why}.  The driver limits threads, see `benchmarks.process`.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks import cells
from benchmarks.contestants import find
from benchmarks.contestants.base import NotOfferedError
from benchmarks.memory import PeakMemory
from benchmarks.workload import GATE_STEPS, MAX_EPOCHS, Workload, scaled


class Server:
    """What the driver may ask for."""

    def __init__(self, name: str, device: str, precision: str, data: Path) -> None:
        kind = find(name)
        if device not in kind.devices:
            raise NotOfferedError(f"does not run on {device}")
        self.contestant = kind(device, precision)
        self.workload = Workload.read(data)
        self.cells: dict[str, cells.Cell] = {}

    def describe(self) -> dict[str, Any]:
        from threadpoolctl import threadpool_info

        contestant, distribution = self.contestant, self.contestant.requirement.partition("[")[0]
        return {
            "version": importlib.metadata.version(distribution),
            "requirement": contestant.requirement,
            "imports": contestant.imports,
            "how": contestant.how,
            "eps_hat": contestant.eps_hat,
            "thread_pools": [
                {key: pool.get(key) for key in ("internal_api", "version", "num_threads")}
                for pool in threadpool_info()
            ],
        }

    def losses(self, optimizer: str, batch: int, members: int) -> dict[str, Any]:
        """Of the first steps, (n, K)."""
        placed = self.contestant.place(self.workload.batches(batch, GATE_STEPS))
        training = cells.begin(self.contestant, self.workload, optimizer, members)
        losses = np.asarray(training.run(placed), np.float64)
        return {"losses": losses.reshape(GATE_STEPS, members).tolist()}

    def epoch(self) -> dict[str, Any]:
        """The mean loss of a first epoch."""
        training = self.contestant.network(self.workload.params[0], "Adam")
        return {"loss": training.epoch(self.workload.x, self.workload.y)}

    def classes(self) -> dict[str, Any]:
        """Of the test images, by the initial weights."""
        training = self.contestant.network(self.workload.params[0], "Adam")
        return {"classes": training.classes(scaled(self.workload.x_test)).tolist()}

    def open(self, key: str, kind: str, seconds: float, **what: Any) -> dict[str, Any]:
        """Set up and warm up what `block` times under this key."""
        contestant, workload = self.contestant, self.workload
        cell: cells.Cell
        if kind == "steps":
            cell = cells.Steps(contestant, workload, seconds, **what)
        elif kind == "products":
            cell = cells.products(contestant, seconds, **what)
        elif kind == "epoch":
            cell = cells.epoch(contestant, workload, seconds)
        else:
            cell = cells.inference(contestant, workload, seconds, **what)
        self.cells[key] = cell
        return {}

    def block(self, key: str) -> dict[str, float | None]:
        time.sleep(cells.SETTLE)
        host, device = self.cells[key].block()
        return {"seconds": host, "device_seconds": device}

    def close(self) -> dict[str, Any]:
        """Let go of what was opened."""
        self.cells.clear()
        return {}

    def train(self, seed: int, target: float) -> dict[str, Any]:
        """Train to a test accuracy: seconds, epochs and the accuracy after the last."""
        work, start = self.workload, time.perf_counter()
        training = self.contestant.network(work.params[seed], "Adam", seed)
        x_test = scaled(work.x_test)
        epochs, accuracy = 0, 0.0
        while accuracy < target and epochs < MAX_EPOCHS:
            training.epoch(work.x, work.y)
            accuracy = float(np.mean(training.classes(x_test) == work.y_test))
            epochs += 1
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "epochs": epochs, "accuracy": accuracy}

    def memory(self) -> dict[str, float]:
        """MB (1e6 bytes) that the first epoch needs at its peak beyond what is there before it."""
        with PeakMemory() as peak:
            self.contestant.network(self.workload.params[0], "Adam").epoch(
                self.workload.x, self.workload.y
            )
        return {"megabytes": peak.megabytes}


def serve(server: Server, answers: TextIO) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # voids the row; the process can go on with the next request
            answer = {"error": describe(error)}
        print(json.dumps(answer), file=answers, flush=True)


def describe(error: Exception) -> str:
    """In a line."""
    message = (str(error).splitlines() or [""])[0]
    return message if isinstance(error, NotOfferedError) else f"{type(error).__name__}: {message}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        server = Server(options.name, options.device, options.precision, options.data)
    except ImportError as error:
        print(json.dumps({"error": f"not installed ({error})"}), file=answers, flush=True)
    except Exception as error:
        print(json.dumps({"error": describe(error)}), file=answers, flush=True)
    else:
        print(json.dumps(server.describe()), file=answers, flush=True)
        serve(server, answers)


if __name__ == "__main__":
    main()
