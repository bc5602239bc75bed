"""From a file of results: Markdown tables, and a plot of the time of a step.

    python -m benchmarks.report benchmarks/results/compare_cpu.json

prints a short table for the README, then those of each job, and writes the plot beside the file,
as .svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.jobs.table import Table

Row = dict[str, dict[str, Any]]  # cells by column


def compact(table: Table) -> str:
    """The medians of the contestants."""
    rows = {name: row for name, row in table["rows"].items() if name in CONTESTANTS}
    return markdown(table, rows, spread=False)


def full(table: Table) -> str:
    """Medians with their spread, mlpkit against the best peer, and what there is to know."""
    lines = [markdown(table, table["rows"], spread=True), ""]
    for column, of in table["mlpkit_against_best_peer"].items():
        without = f", without {', '.join(of['without'])}" if of["without"] else ""
        times = f"mlpkit {of['times']:.2f} times as good"
        lines.append(f"- {column}: best peer {of['peer']}, {times}{without}")
    for name, row in table["rows"].items():
        remarks: dict[str, list[str]] = {}
        for column, cell in row.items():
            for remark in remarks_on(cell):
                remarks.setdefault(remark, []).append(column)
        lines += [f"- {name} ({', '.join(at)}): {remark}" for remark, at in remarks.items()]
    return "\n".join(lines)


def markdown(table: Table, rows: dict[str, Row], spread: bool) -> str:
    """Rows are contestants; the best median of a column is bold."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    best = {column: best_of(table, rows, column) for column in columns}
    lines = [
        f"| {table['unit']} | {' | '.join(columns)} |",
        f"|---{'|---:' * len(columns)}|",
    ]
    for name, row in rows.items():
        cells = []
        for column in columns:
            cell = row.get(column, {})
            text = number(cell["median"]) if "median" in cell else "-"
            text = f"**{text}**" if name == best[column] else text
            if spread and "median" in cell:
                text += f" ({number(cell['min'])} to {number(cell['max'])})"
            cells.append(text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def best_of(table: Table, rows: dict[str, Row], column: str) -> str | None:
    """The contestant with the best median; rows that are parts of one do not count."""
    medians = {
        name: row[column]["median"]
        for name, row in rows.items()
        if name in CONTESTANTS and "median" in row.get(column, {})
    }
    choose = min if table["less_is_better"] else max
    return choose(medians, key=lambda name: medians[name]) if medians else None


def remarks_on(cell: dict[str, Any]) -> list[str]:
    remarks = [cell[kind] for kind in ("void", "note") if kind in cell]
    if "epochs" in cell:
        remarks.append(f"epochs {' '.join(map(str, cell['epochs']))}")
    if cell.get("missed"):
        remarks.append(f"seeds that missed the target: {' '.join(map(str, cell['missed']))}")
    return remarks


def number(value: float) -> str:
    """Three digits, without a power of ten."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plot(table: Table, title: str, path: Path) -> None:
    """Time against batch size, both logarithmic; a bar from the fastest to the slowest repeat."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    ticks: list[int] = []
    for index, name in enumerate(CONTESTANTS):
        points = [
            (int(column), cell)
            for column, cell in table["rows"].get(name, {}).items()
            if "median" in cell
        ]
        if not points:
            continue
        batches = [batch for batch, _ in points]
        ticks = sorted({*ticks, *batches})
        median = [cell["median"] for _, cell in points]
        below = [cell["median"] - cell["min"] for _, cell in points]
        above = [cell["max"] - cell["median"] for _, cell in points]
        axes.errorbar(
            batches, median, yerr=(below, above), label=name, color=f"C{index}",
            marker="osD^v*<>P"[index], markersize=4, capsize=3,
            linewidth=2.5 if name == "mlpkit" else 1.2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel=table["unit"], title=title)
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("results", type=Path, help="a file that benchmarks.compare has written")
    path = parser.parse_args().results
    report = json.loads(path.read_text())
    where = report["machine"].get("gpu", report["machine"]["processor"])
    title = f"A step of Adam, 784-256-128-10, {where}, {report['threads']} threads"
    steps = report["jobs"].get("step", {}).get("Adam")
    if steps is not None:
        print(f"{title}\n\n{compact(steps)}")
        plot(steps, title, path.with_suffix(".svg"))
    for job, tables in report["jobs"].items():
        for name, table in tables.items():
            print(f"\n## {job}: {name}\n\n{full(table)}")
    absent = {
        name: about["void"] for name, about in report["contestants"].items() if "void" in about
    }
    for name, reason in absent.items():
        print(f"\n{name}: {reason}")


if __name__ == "__main__":
    main()
