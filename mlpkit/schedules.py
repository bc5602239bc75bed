"""Learning rates that change from step to step, computed on the device from the step count.

A schedule is called as `schedule(backend, step, run)`, with the step count () and the number of
steps in the run () as float64 device arrays, and returns the rate () or (K, 1), float64.  The first
update has step 0.  `Trainer.fit` knows how long the run is; outside of it `run` is None.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from mlpkit.backends import Array, Backend
from mlpkit.settings import PerMember, number, positive_int


@dataclass(frozen=True)
class Schedule(ABC):
    """A schedule: a frozen dataclass whose first field is the rate that it scales."""

    rate: PerMember

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("learning rate", self.rate))

    def __call__(self, backend: Backend, step: Array, run: Array | None) -> Array:
        """The rate () or (K, 1) of update number `step` of `run`."""
        rate = backend.constant(self.rate, backend.xp.float64, ndim=2)
        return rate * self.factor(backend, step, run)

    @abstractmethod
    def factor(self, backend: Backend, step: Array, run: Array | None) -> Array:
        """What the rate is multiplied by, ()."""


class constant(Schedule):  # noqa: N801  (schedules read like functions)
    """The same rate at every step."""

    def factor(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return backend.xp.ones_like(step)


@dataclass(frozen=True)
class cosine(Schedule):  # noqa: N801
    """A linear rise to `rate`, then half a cosine down to `final` times it at the end of the run.

    (Loshchilov and Hutter 2017, without restarts.)

    Parameters
    ----------
    rate : the highest, or one per member
    warmup : share of the run spent rising, in [0, 1); step i of the w it takes has the share
        (i + 1)/(w + 1) of the rate
    final : in [0, 1), the last rate over the highest
    steps : length of the run; by default that of the whole `Trainer.fit`
    """

    warmup: float = 0.0
    final: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            positive_int("steps", self.steps)
        for name in ("warmup", "final"):
            object.__setattr__(self, name, number(name, getattr(self, name), below=1.0))

    def factor(self, backend: Backend, step: Array, run: Array | None) -> Array:
        xp = backend.xp
        if self.steps is not None:
            run = backend.constant(float(self.steps), xp.float64)
        if run is None:
            raise ValueError("a cosine schedule outside of Trainer.fit needs its length: steps=...")
        rise = xp.round(self.warmup * run)
        rise = xp.where(rise < run, rise, run - 1)
        progress = (step - rise) / (run - rise)
        progress = xp.where(progress < 1, progress, xp.ones_like(progress))  # and stays there
        fall = self.final + (1 - self.final) * (1 + xp.cos(math.pi * progress)) / 2
        return xp.where(step < rise, (step + 1) / (rise + 1), fall)
