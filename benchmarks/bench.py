"""A run of the comparison: its workers, and how they are measured in turn."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gate import Gate
from benchmarks.process import Worker, WorkerError
from benchmarks.workload import BATCH, Workload

Cell = dict[str, Any]  # what `cell` or `void` gives
Rows = dict[str, Cell]
Spec = dict[str, Any]  # the arguments of `benchmarks.worker.Server.open`
Entries = Mapping[str, tuple[str, Spec]]  # row: the contestant, and what it is to do
CLOCKS_AGREE = 0.05  # relative, of host and device


@dataclass(frozen=True)
class Settings:
    names: tuple[str, ...]
    repeats: int
    quick: bool
    threads: int
    device: str
    precision: str
    timeout: float


class Bench:
    """The workers of the contestants, one each, and the settings of the run.

    Attributes
    ----------
    about : what each worker says of itself, or {"void": why it has not started}
    """

    def __init__(self, settings: Settings, workload: Workload, data: Path) -> None:
        self.settings, self.data = settings, data
        self.seconds = 0.01 if settings.quick else 0.1  # of a block
        self.gate = Gate(workload, settings.precision)
        self.workers: dict[str, Worker] = {}
        self.about: dict[str, dict[str, Any]] = {}
        for name in settings.names:
            self._begin(name)

    def worker(self, name: str, caches: Path | None = None) -> Worker:
        """A new one."""
        how = self.settings
        return Worker(name, how.device, how.precision, how.threads, self.data, how.timeout, caches)

    def _begin(self, name: str) -> None:
        try:
            self.workers[name] = self.worker(name)
            self.about[name] = self.workers[name].about
        except WorkerError as error:
            self.about[name] = {"void": str(error)}

    def ask(self, name: str, do: str, **what: Any) -> dict[str, Any]:
        """The answer of a worker.  One that has ended makes way for a new one, for what follows."""
        if name not in self.workers:
            raise WorkerError(self.about[name]["void"])
        try:
            return self.workers[name].ask(do, **what)
        except WorkerError:
            if not self.workers[name].alive:
                self.workers.pop(name).stop()
                self._begin(name)
            raise

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()

    def check(
        self, name: str, optimizer: str = "Adam", batch: int = BATCH, members: int = 1
    ) -> None:
        """Pass the gate, or raise WorkerError."""
        what: dict[str, Any] = {"optimizer": optimizer, "batch": batch, "members": members}
        losses = self.ask(name, "losses", **what)["losses"]
        self.gate.check_losses(losses, **what, eps_hat=self.about[name]["eps_hat"])

    def measure(self, entries: Entries, unit: float = 1.0) -> Rows:
        """A cell for each entry, of blocks in turn, in seconds times `unit` per step or call."""
        rows, opened = self.open(entries)
        rows |= cells(self.blocks(opened, self.settings.repeats), unit)
        return {row: rows[row] for row in entries}

    def open(self, entries: Entries) -> tuple[Rows, dict[str, str]]:
        """Gate and set up the entries: the void rows, and the contestants of the other rows."""
        rows: Rows = {}
        opened: dict[str, str] = {}
        for row, (name, spec) in entries.items():
            kind, what = spec["kind"], {key: spec[key] for key in spec if key != "kind"}
            try:
                self.check(name, **what if kind == "steps" else {})
                if kind == "epoch":
                    self.gate.check_epoch(self.ask(name, "epoch")["loss"])
                elif kind == "inference":
                    self.gate.check_classes(self.ask(name, "classes")["classes"])
                self.ask(name, "open", key=row, seconds=self.seconds, **spec)
                opened[row] = name
            except WorkerError as error:
                rows[row] = void(error)
        return rows, opened

    def blocks(self, opened: Mapping[str, str], repeats: int) -> dict[str, list[Any]]:
        """The answers of `repeats` blocks of each, in turn, there and back; or the first error."""
        answers: dict[str, list[Any]] = {row: [] for row in opened}
        for repeat in range(repeats):
            for row in list(opened)[:: -1 if repeat % 2 else 1]:
                try:
                    answers[row].append(self.ask(opened[row], "block", key=row))
                except WorkerError as error:
                    answers[row].append(error)
        return answers

    def close(self) -> None:
        """Let the workers forget what was opened."""
        for name in list(self.workers):
            with suppress(WorkerError):  # one that has ended has been replaced
                self.ask(name, "close")


def steps(optimizer: str, batch: int, members: int = 1) -> Spec:
    return {"kind": "steps", "optimizer": optimizer, "batch": batch, "members": members}


def cells(answers: Mapping[str, list[Any]], unit: float) -> Rows:
    """Cells of what `Bench.blocks` gave."""
    rows: Rows = {}
    for row, blocks in answers.items():
        failed = next((block for block in blocks if isinstance(block, WorkerError)), None)
        if failed is not None:
            rows[row] = void(failed)
            continue
        rows[row] = cell([block["seconds"] * unit for block in blocks])
        pairs = [(b["seconds"], b["device_seconds"]) for b in blocks if b["device_seconds"]]
        off = max((abs(device / host - 1) for host, device in pairs), default=0.0)
        if off > CLOCKS_AGREE:
            rows[row]["note"] = f"the device's clock differs by up to {off:.0%}"
    return rows


def cell(raw: Iterable[float], **more: Any) -> Cell:
    """Median and spread (minimum, maximum, interquartile range) of the repeats."""
    raw = list(raw)
    first, median, third = np.percentile(raw, (25, 50, 75)).tolist()
    spread = {"min": min(raw), "max": max(raw), "iqr": third - first}
    return {"median": median, **spread, "raw": raw, **more}


def void(reason: object) -> Cell:
    return {"void": str(reason)}
