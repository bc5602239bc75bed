"""What each way to share the cores costs a step, on a quiet machine and on a busy one.

    python -m benchmarks.threads [--repeats 7] [--output benchmarks/results/threads_cpu.json]

Microseconds per step of Adam on 784-256-128-10, a process for each policy, measured in turn.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.cells import SETTLE
from benchmarks.load import load

POLICIES = {
    "one pool, TBB's": {},
    "one thread": {"OPENBLAS_NUM_THREADS": "1"},
    "kernels on one thread, products on OpenBLAS's pool": {"NUMBA_THREADING_LAYER": "workqueue"},
}
SIZES = (8, 32, 128, 512, 2048)
SECONDS = 0.1  # of a block


def serve() -> None:
    """A worker: reads batch sizes, answers with seconds per step of a block."""
    import numpy as np

    import mlpkit

    trainer = mlpkit.Trainer(mlpkit.MLP([784, 256, 128, 10]))
    rng = np.random.default_rng(0)
    for line in sys.stdin:
        n = int(line)
        x, y = rng.random((n, 784), np.float32), rng.integers(0, 10, n)
        time.sleep(SETTLE)
        for _ in range(20):
            trainer.step(x, y)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            trainer.step(x, y)
            steps += 1
        print((time.perf_counter() - start) / steps, flush=True)


def worker(environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.threads", "--serve"],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def block(process: "subprocess.Popen[str]", n: int) -> float:
    """Microseconds per step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{n}\n")
    process.stdin.flush()
    return 1e6 * float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default="benchmarks/results/threads_cpu.json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    workers = {name: worker(environment) for name, environment in POLICIES.items()}
    results: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for state in ("quiet", "busy"):
        results[state] = {name: {} for name in POLICIES}
        with load() if state == "busy" else nullcontext():
            for n in SIZES:
                raw: dict[str, list[float]] = {name: [] for name in POLICIES}
                for _ in range(options.repeats):
                    for name, process in workers.items():
                        raw[name].append(block(process, n))
                for name, times in raw.items():
                    cell = {"median": median(times), "min": min(times), "max": max(times)}
                    results[state][name][str(n)] = cell | {"raw": times}
                    print(f"{state} {n:5} {name:52} {median(times):9.0f} us", file=sys.stderr)
    for process in workers.values():
        process.communicate("")
    report = {
        "machine": machine.describe("cpu"),
        "versions": machine.versions(),
        "command": shlex.join(["python", "-m", "benchmarks.threads", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "unit": "us per step, Adam; a busy machine has a process that computes for every core",
        "results": results,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
