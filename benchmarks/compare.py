"""mlpkit beside its peers, on the same job: who is faster, smaller, sooner there.

    python -m benchmarks.compare [JOB ...] [--repeats 9] [--only NAME ...] [--threads 2]

All jobs and contestants by default, an hour on two cores; what is less needs an --output.  Every
contestant runs in a process of its own, passes a gate (its first losses are those of plain float64
NumPy), and is then measured: in turn with the others, block by block, where a job times blocks.
The file of results is written after every job.  It holds

    machine, python, versions, data, command, date, threads, device, precision, repeats, quick
    contestants   name: version, requirement, how the library is used, thread pools; or void: why
    jobs          job: table: unit, less_is_better, rows, mlpkit_against_best_peer
      rows        contestant: column: median, min, max, iqr, raw (every repeat); or void: why
      mlpkit_against_best_peer
                  column: peer; times, how many times better mlpkit is (below 1 the peer wins);
                  without, the rows that are void here
"""

import argparse
import json
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bench import Bench, Settings
from benchmarks.contestants import CONTESTANTS, OURS, find
from benchmarks.jobs import JOBS
from benchmarks.jobs.table import Table
from benchmarks.workload import Workload, load
from mlpkit.files import write_atomically

QUICK_TRAINING, QUICK_TEST = 1_000, 1_000  # images
SEEDS, MEMBERS = 5, 64  # networks that the jobs need initial weights of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; all by default"
    )
    parser.add_argument("--repeats", type=int, help="blocks of each contestant (9; 2 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="smallest sizes, to see that all works"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=list(CONTESTANTS),
        metavar="NAME",
        help=f"of {', '.join(CONTESTANTS)}",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "bfloat16"),
        default="float32",
        help="of matrix products on a GPU",
    )
    parser.add_argument(
        "--timeout", type=float, default=900.0, help="seconds that an answer may take"
    )
    parser.add_argument(
        "--output", type=Path, help="of a whole run: benchmarks/results/compare_DEVICE.json"
    )
    options = parser.parse_args()
    for kind, given, known in (
        ("job", options.jobs, JOBS),
        ("contestant", options.only, CONTESTANTS),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {kind} {unknown[0]!r}; there are {', '.join(known)}")
    if options.repeats is None:
        options.repeats = 2 if options.quick else 9
    if options.device == "cpu" and options.precision != "float32":
        parser.error("--precision is for --device cuda")
    if not min(options.repeats, options.threads) >= 1 or not options.timeout > 0:
        parser.error("--repeats and --threads are 1 or more, --timeout is above 0")
    whole = not options.quick and {*options.only} == {*CONTESTANTS}
    if options.output is None:
        if options.jobs or not whole:
            parser.error("a run of some jobs or contestants, or a quick one, needs --output FILE")
        kind = options.device + ("" if options.precision == "float32" else f"_{options.precision}")
        options.output = Path(f"benchmarks/results/compare_{kind}.json")
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.output.parent).close()
    except OSError as error:
        parser.error(f"--output {options.output}: {error.strerror}")
    return options


def against_best_peer(table: Table) -> dict[str, Any]:
    """For each column the best of the peers, how many times better mlpkit is, and who is void."""
    rows, less = table["rows"], table["less_is_better"]
    found = {}
    for column, own in rows.get("mlpkit", {}).items():
        peers = {
            name: cells[column]["median"]
            for name, cells in rows.items()
            if not name.startswith(OURS) and "median" in cells.get(column, {})
        }
        if peers and "median" in own:
            peer = (min if less else max)(peers, key=lambda name: peers[name])
            times = peers[peer] / own["median"]
            absent = [name for name, row in rows.items() if "void" in row.get(column, {})]
            found[column] = {
                "peer": peer, "times": times if less else 1 / times, "without": absent,
            }  # fmt: skip
    return found


def main() -> None:
    options = arguments()
    names = tuple(name for name in CONTESTANTS if name in options.only)
    settings = Settings(
        names, options.repeats, options.quick, options.threads, options.device,
        options.precision, options.timeout,
    )  # fmt: skip
    wanted = options.jobs or list(JOBS)
    workload, data = load(MEMBERS if "members" in wanted else SEEDS)
    if options.quick:
        train, test = slice(QUICK_TRAINING), slice(QUICK_TEST)
        workload = Workload(
            workload.x[train], workload.y[train], workload.x_test[test], workload.y_test[test],
            workload.params,
        )  # fmt: skip
    report: dict[str, Any] = {
        "machine": machine.describe(settings.device),
        "python": sys.version.split()[0],
        "versions": machine.versions(),
        "data": f"{data}, {len(workload.x)} images",
        "command": shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": settings.threads,
        "device": settings.device,
        "precision": settings.precision,
        "repeats": settings.repeats,
        "quick": settings.quick,
        "jobs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        workload.write(Path(folder))
        bench = Bench(settings, workload, Path(folder))
        try:
            for job in wanted:
                print(job, file=sys.stderr, flush=True)
                tables = JOBS[job](bench)
                for table in tables.values():
                    table["mlpkit_against_best_peer"] = against_best_peer(table)
                report["contestants"] = bench.about
                report["jobs"][job] = tables
                write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())
        finally:
            bench.stop()
    print(f"written to {options.output}", file=sys.stderr)
    for name, about in bench.about.items():
        if "void" in about:
            print(f"without {name}: {about['void']}", file=sys.stderr)
    void = [
        f"{job}, {name}, {column}: {cell['void']}"
        for job, tables in report["jobs"].items()
        for table in tables.values()
        for name, row in table["rows"].items()
        if name in OURS and settings.device in find(name).devices
        for column, cell in row.items()
        if "void" in cell
    ]
    if void:
        raise SystemExit("\n".join(["void rows of mlpkit:", *void]))


if __name__ == "__main__":
    main()
