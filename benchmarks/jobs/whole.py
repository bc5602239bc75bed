"""Jobs that look at whole trainings, processes and installations."""

import tempfile
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Cell, Rows, cell, void
from benchmarks.jobs.table import Table, table
from benchmarks.process import WorkerError
from benchmarks.size import megabytes, milliseconds
from benchmarks.workload import TARGET

Run = dict[str, Any]  # what `benchmarks.worker.Server.train` gives


def accuracy(bench: Bench) -> dict[str, Table]:
    """Seconds to the target, evaluated after each epoch; a repeat is a seed.

    Cold is a process from its start to its end; first the same, but once, with the caches of its
    compilers empty; warm is one training more in a process that has trained before.
    """
    seeds, target = (range(2), 0.5) if bench.settings.quick else (range(5), TARGET)
    first: Rows = {}
    cold: Rows = {}
    warm: Rows = {}

    def train(name: str, seed: int) -> Run:
        return bench.ask(name, "train", seed=seed, target=target)

    def train_cold(name: str, seed: int, caches: Path | None = None) -> Run:
        start = time.perf_counter()
        worker = bench.worker(name, caches)
        try:
            run = worker.ask("train", seed=seed, target=target)
        finally:
            worker.stop()
        return run | {"seconds": time.perf_counter() - start}

    for name in bench.settings.names:
        try:
            bench.check(name)
            bench.gate.check_epoch(bench.ask(name, "epoch")["loss"])
            with tempfile.TemporaryDirectory() as caches:
                first[name] = of_seeds([train_cold(name, 0, Path(caches))], target)
            cold[name] = of_seeds([train_cold(name, seed) for seed in seeds], target)
            warm[name] = of_seeds([train(name, seed) for seed in seeds], target)
        except WorkerError as error:
            for rows in (first, cold, warm):
                rows.setdefault(name, void(error))
    bench.close()
    return {
        "Adam": table(
            f"seconds to {target:.0%} test accuracy", {"first": first, "cold": cold, "warm": warm}
        )
    }


def of_seeds(runs: list[Run], target: float) -> Cell:
    """With the seeds that missed the target.

    Their seconds, those of all epochs, are less than the target takes, so that the median holds as
    long as they are the fewer; else there is none.
    """
    missed = [seed for seed, run in enumerate(runs) if run["accuracy"] < target]
    if 2 * len(missed) >= len(runs):
        return void(f"{len(missed)} of {len(runs)} seeds missed the target")
    figures = {key: [run[key] for run in runs] for key in ("epochs", "accuracy")}
    return cell([run["seconds"] for run in runs], **figures, missed=missed)


def memory(bench: Bench) -> dict[str, Table]:
    """Peak resident MB of a first epoch, compilation included, beyond library and data.

    A repeat is a process.  On a GPU this is the host's memory alone.
    """

    def peak(name: str) -> float:
        worker = bench.worker(name)
        try:
            return float(worker.ask("memory")["megabytes"])
        finally:
            worker.stop()

    rows: Rows = {}
    for name in bench.settings.names:
        try:
            bench.check(name)
            rows[name] = cell([peak(name) for _ in range(bench.settings.repeats)])
        except WorkerError as error:
            rows[name] = void(error)
    bench.close()
    return {"memory": table("MB above library and data", {"MB": rows})}


def size(bench: Bench) -> dict[str, Table]:
    """MB installed with all that is needed, and ms to import."""
    disk: Rows = {}
    start: Rows = {}
    for name in bench.settings.names:
        about = bench.about[name]
        if "void" in about:
            disk[name] = start[name] = void(about["void"])
            continue
        try:
            disk[name] = cell([megabytes(about["requirement"])])
        except (PackageNotFoundError, ValueError) as error:
            disk[name] = void(error)
        start[name] = cell([milliseconds(about["imports"]) for _ in range(bench.settings.repeats)])
    return {
        "disk": table("MB installed", {"MB": disk}),
        "import": table("ms to import", {"ms": start}),
    }
