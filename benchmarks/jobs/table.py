"""What a job gives."""

from collections.abc import Mapping
from typing import Any

from benchmarks.bench import Rows

Table = dict[str, Any]  # see `table`


def table(unit: str, columns: Mapping[str, Rows], less_is_better: bool = True) -> Table:
    """{"unit", "less_is_better", "rows": {contestant: {column: cell}}} from the rows by column."""
    names = dict.fromkeys(name for rows in columns.values() for name in rows)
    rows = {
        name: {column: found[name] for column, found in columns.items() if name in found}
        for name in names
    }
    return {"unit": unit, "less_is_better": less_is_better, "rows": rows}
