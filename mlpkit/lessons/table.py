"""Figures in columns."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 8) -> str:
    """Columns under their heads, numbers to the right."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | np.integer):
            return f"{value:,}"
        return f"{float(value) + 0.0:.{digits}g}"

    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        right = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join(["  " + first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines) + "\n"
