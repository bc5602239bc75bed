"""What a training writes down, on the host."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]


class History:
    """What each epoch gave: `rows` is a list of dicts, one value per member where there are any."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        """One column over the epochs, such as history["val_loss"]."""
        return [row[column] for row in self.rows]


def host_value(value: NDArray[Any]) -> Any:
    """A number, or a list of one per member, for the history."""
    return np.asarray(value, np.float64).reshape(-1).tolist() if np.ndim(value) else float(value)
