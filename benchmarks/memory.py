"""The peak of this process's resident memory, as Linux counts it."""

from pathlib import Path
from types import TracebackType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """`megabytes` (1e6 bytes) between what is resident at the start of the block and its peak."""

    megabytes = 0.0

    def __enter__(self) -> "PeakMemory":
        CLEAR.write_text("5")  # the peak is what is resident now
        self.before = _kilobytes("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.megabytes = (_kilobytes("VmHWM") - self.before) * 1024 / 1e6


def _kilobytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])
