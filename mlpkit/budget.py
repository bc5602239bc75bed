"""How long a training may go on."""

import time

from mlpkit.settings import one_number, whole


class Budget:
    """Updates in all, and seconds from now on; None for no end.

    Attributes
    ----------
    max_steps : updates in all
    """

    def __init__(self, max_steps: int | None, max_seconds: float | None) -> None:
        self.max_steps = None if max_steps is None else whole("max_steps", max_steps)
        self._end = None
        if max_seconds is not None:
            self._end = time.perf_counter() + one_number("max_seconds", max_seconds)

    @property
    def timed(self) -> bool:
        """Whether the time counts, too."""
        return self._end is not None

    def spent(self, steps: int) -> bool:
        """Whether it ends here, after so many updates."""
        late = self._end is not None and time.perf_counter() >= self._end
        return late or (self.max_steps is not None and steps >= self.max_steps)
