"""Jobs that time blocks of steps or calls, all contestants in turn."""

from collections.abc import Callable
from typing import Any

from benchmarks.bench import Bench, Cell, Rows, cell, cells, steps
from benchmarks.contestants import OURS
from benchmarks.jobs.table import Table, table
from benchmarks.load import load
from benchmarks.workload import BATCH

MICROSECONDS = 1e6
SIZES = {"cpu": (1, 8, 32, 128, 512, 2048), "cuda": (32, 128, 512, 2048, 8192)}
PRODUCTS = "{}: its matrix products"  # the name of a row


def step(bench: Bench) -> dict[str, Table]:
    """us per step on float32 batches in memory, by batch size."""
    names = bench.settings.names
    sizes = SIZES[bench.settings.device][: 2 if bench.settings.quick else None]
    tables = {}
    for optimizer in ("Adam", "SGD"):
        columns = {}
        for batch in sizes:
            entries = {name: (name, steps(optimizer, batch)) for name in names}
            for name in OURS:
                if name in names:
                    entries[PRODUCTS.format(name)] = (name, {"kind": "products", "batch": batch})
            columns[str(batch)] = bench.measure(entries, MICROSECONDS)
            bench.close()
        tables[optimizer] = table("us per step", columns)
    return tables


def epoch(bench: Bench) -> dict[str, Table]:
    """Seconds per epoch from uint8 images: order, gather, scale, step, losses read."""
    entries = {name: (name, {"kind": "epoch"}) for name in bench.settings.names}
    rows = bench.measure(entries)
    bench.close()
    return {"Adam": table("seconds per epoch", {str(BATCH): rows})}


def inference(bench: Bench) -> dict[str, Table]:
    """From float32 images on the host to classes there: one image, and many at once."""
    names, many = bench.settings.names, 1_000 if bench.settings.quick else 10_000
    rows = {
        images: bench.measure(
            {name: (name, {"kind": "inference", "images": images}) for name in names}
        )
        for images in (1, many)
    }
    bench.close()
    latency = {name: scaled(found, lambda s: s * MICROSECONDS) for name, found in rows[1].items()}
    rate = {name: scaled(found, lambda s: many / s) for name, found in rows[many].items()}
    return {
        "latency": table("us for one image", {"1": latency}),
        "throughput": table("images per second", {str(many): rate}, less_is_better=False),
    }


def scaled(found: Cell, to: Callable[[float], float]) -> Cell:
    """A cell in another unit."""
    return found if "void" in found else cell(map(to, found["raw"]))


def members(bench: Bench) -> dict[str, Table]:
    """us per step of all of K networks on one shared batch."""
    columns = {}
    for K in (1, 2) if bench.settings.quick else (1, 8, 64):
        entries = {name: (name, steps("Adam", BATCH, K)) for name in bench.settings.names}
        columns[str(K)] = bench.measure(entries, MICROSECONDS)
        bench.close()
    return {"Adam": table("us per step of all networks", columns)}


def busy(bench: Bench) -> dict[str, Table]:
    """us per step while as many other processes as there are cores compute, and without them."""
    quiet: dict[str, Rows] = {}
    loaded: dict[str, Rows] = {}
    slower: dict[str, Rows] = {}
    for batch in (8,) if bench.settings.quick else (8, 32, 128, 512):
        entries = {name: (name, steps("Adam", batch)) for name in bench.settings.names}
        rows, opened = bench.open(entries)
        without: dict[str, list[Any]] = {name: [] for name in opened}
        beside: dict[str, list[Any]] = {name: [] for name in opened}
        for _ in range(bench.settings.repeats):
            for name, answers in bench.blocks(opened, 1).items():
                without[name] += answers
            with load():
                for name, answers in bench.blocks(opened, 1).items():
                    beside[name] += answers
        bench.close()
        column = str(batch)
        quiet[column] = rows | cells(without, MICROSECONDS)
        loaded[column] = rows | cells(beside, MICROSECONDS)
        slower[column] = {
            name: ratio(found, quiet[column][name]) for name, found in loaded[column].items()
        }
    return {
        "quiet": table("us per step, quiet", quiet),
        "busy": table("us per step, busy", loaded),
        "slow-down": table("times slower than quiet", slower),
    }


def ratio(above: Cell, below: Cell) -> Cell:
    """Repeat by repeat."""
    if "void" in above or "void" in below:
        return above if "void" in above else below
    return cell(a / b for a, b in zip(above["raw"], below["raw"], strict=True))
