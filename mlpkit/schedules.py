"""Learning rates that change from step to step, computed on the device from the step count.

A schedule is called as `schedule(backend, step, run)`, with the step count () and the number of
steps in the run () as float64 device arrays, and returns the rate () or (K, 1), float64.  The first
update has step 0.  `Trainer.fit` knows how long the run is; outside of it `run` is None.

A length of time is a number of steps, an int, or a share of the run, a float in (0, 1].
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpkit.backends import Array, Backend
from mlpkit.backends.base import Namespace
from mlpkit.settings import PerMember, assign, number, one_number, whole

Length = int | float


@dataclass(frozen=True)
class Schedule(ABC):
    """A schedule: a frozen dataclass whose first field is the rate that it scales."""

    rate: PerMember

    def __post_init__(self) -> None:
        assign(self, rate=number("learning rate", self.rate))

    def __call__(self, backend: Backend, step: Array, run: Array | None) -> Array:
        """The rate () or (K, 1) of update number `step` of `run`."""
        rate = backend.constant(self.rate, backend.xp.float64, ndim=2)
        return rate * self.profile(backend, step, run)

    @abstractmethod
    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        """What the rate is multiplied by, ()."""


# ---- lengths -------------------------------------------------------------------------------------


def check_length(name: str, value: Any, least: int = 1) -> Length:
    """`value` as an int of at least `least`, or as a float in (0, 1]; 0.0 is a `least` of 0."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if value >= least:
            return int(value)
    elif 0 < (share := one_number(name, value)) <= 1 or share == least:
        return share
    raise ValueError(
        f"{name} must lie in (0, 1], a share of the run, or be an integer from {least} on, "
        f"a number of steps, got {value!r}"
    )


def check_steps(steps: int | None) -> int | None:
    return None if steps is None else whole("steps", steps)


def in_steps(backend: Backend, length: Length | None, run: Array | None) -> Array:
    """A length in steps, (), not rounded; None is the whole run."""
    if isinstance(length, int):
        return backend.constant(float(length), backend.xp.float64)
    if run is None:
        raise ValueError(
            "where the length of the run is not known, a schedule needs its own in steps: "
            "steps=... where it has that, and integers for shares of the run"
        )
    return run if length is None else length * run


def whole_steps(backend: Backend, length: Length, run: Array | None, least: float = 1.0) -> Array:
    """A length in whole steps, (), and no fewer than `least`."""
    xp = backend.xp
    rounded = xp.round(in_steps(backend, length, run))
    return xp.maximum(rounded, backend.constant(least, xp.float64))


# ---- curves --------------------------------------------------------------------------------------


def progress(xp: Namespace, step: Array, start: Array, stop: Array) -> Array:
    """How far `step` has come from `start` to `stop`, from 0 to 1."""
    zero, one = xp.zeros_like(step), xp.ones_like(step)
    share = (step - start) / xp.where(start < stop, stop - start, one)
    return xp.where(step < stop, xp.maximum(share, zero), one)


def rise(xp: Namespace, step: Array, steps: Array) -> Array:
    """A line that reaches 1 after `steps` steps, and stays."""
    return xp.minimum((step + 1) / (steps + 1), xp.ones_like(step))


def half_cosine(xp: Namespace, share: Array) -> Array:
    """Down from 1 to 0 as the share goes from 0 to 1."""
    return (1 + xp.cos(math.pi * share)) / 2


# ---- the schedules: in small letters, for they read like functions -------------------------------
# ruff: noqa: N801


class constant(Schedule):
    """The same rate at every step."""

    def __call__(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return backend.constant(self.rate, backend.xp.float64, ndim=2)

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return backend.xp.ones_like(step)


@dataclass(frozen=True)
class step(Schedule):
    """rate gamma^floor(t / every) at step t, as torch.optim.lr_scheduler.StepLR."""

    every: Length
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, every=check_length("every", self.every), gamma=one_number("gamma", self.gamma))

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return self.gamma ** (step // whole_steps(backend, self.every, run))


@dataclass(frozen=True)
class exponential(Schedule):
    """rate gamma^(t / every) at step t, as torch.optim.lr_scheduler.ExponentialLR."""

    gamma: float
    every: Length = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, gamma=one_number("gamma", self.gamma), every=check_length("every", self.every))

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return self.gamma ** (step / in_steps(backend, self.every, run))


@dataclass(frozen=True)
class linear_warmup(Schedule):
    """A linear rise over w = `warmup` steps, rate (t + 1)/(w + 1) at step t, and then `rate`."""

    warmup: Length

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, warmup=check_length("warmup", self.warmup, least=0))

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        return rise(backend.xp, step, whole_steps(backend, self.warmup, run, least=0.0))


@dataclass(frozen=True)
class Decay(Schedule):
    """A linear rise to `rate`, then a fall to `final` times it at the end of the run.

    Parameters
    ----------
    rate : the highest, or one per member
    warmup : length of the rise, as in `linear_warmup`; one step at least is left for the fall
    final : in [0, 1), the last rate over the highest
    steps : length of the run; by default that of the whole `Trainer.fit`
    """

    warmup: Length = 0
    final: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(
            self,
            warmup=check_length("warmup", self.warmup, least=0),
            final=one_number("final", self.final, below=1.0),
            steps=check_steps(self.steps),
        )

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        xp = backend.xp
        run = in_steps(backend, self.steps, run)
        warmup = xp.minimum(whole_steps(backend, self.warmup, run, least=0.0), run - 1)
        fall = self.fall(xp, progress(xp, step, warmup, run))
        return rise(xp, step, warmup) * (self.final + (1 - self.final) * fall)

    @abstractmethod
    def fall(self, xp: Namespace, share: Array) -> Array:
        """Down from 1 to 0 as the share goes from 0 to 1."""


class linear(Decay):
    """A linear rise to `rate`, then a linear fall to `final` times it; settings as in `Decay`."""

    def fall(self, xp: Namespace, share: Array) -> Array:
        return 1 - share


class cosine(Decay):
    """A linear rise to `rate`, then half a cosine down to `final` times it; settings as in `Decay`.

    (Loshchilov and Hutter 2017, without restarts.)
    """

    def fall(self, xp: Namespace, share: Array) -> Array:
        return half_cosine(xp, share)


@dataclass(frozen=True)
class cosine_restarts(Schedule):
    """Half a cosine from `rate` down to `final` times it, again and again.

    (Loshchilov and Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.)

    Parameters
    ----------
    rate : the highest, or one per member
    first : length of the first period
    factor : each period is so many times as long as the one before, an integer
    final : in [0, 1), what the rate falls to over the highest
    """

    first: Length
    factor: int = 1
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(
            self,
            first=check_length("first", self.first),
            factor=whole("factor", self.factor),
            final=one_number("final", self.final, below=1.0),
        )

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        xp, q = backend.xp, self.factor
        first = whole_steps(backend, self.first, run)
        if q == 1:
            share = step % first / first
        else:
            # Period n begins at step first (q^n - 1)/(q - 1).  Half a step later there is no
            # border near, where the rounding of the logarithm could give the wrong period.
            n = xp.floor(xp.log((step + 0.5) / first * (q - 1) + 1) / math.log(q))
            growth = xp.round(q**n)
            share = (step / first - (growth - 1) / (q - 1)) / growth
        return self.final + (1 - self.final) * half_cosine(xp, share)


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Half a cosine up to `rate`, then half a cosine down to almost nothing.

    (Smith and Topin 2019; torch.optim.lr_scheduler.OneCycleLR, whose momentum is left alone here.)

    Parameters
    ----------
    rate : the highest, or one per member
    warmup : length of the rise, whose last step has the highest rate; a share is not rounded
    div_factor : the highest rate over the first
    final_div_factor : the first rate over the last
    steps : length of the run; by default that of the whole `Trainer.fit`
    """

    warmup: Length = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(
            self,
            warmup=check_length("warmup", self.warmup),
            div_factor=one_number("div_factor", self.div_factor, low=1.0),
            final_div_factor=one_number("final_div_factor", self.final_div_factor, low=1.0),
            steps=check_steps(self.steps),
        )

    def profile(self, backend: Backend, step: Array, run: Array | None) -> Array:
        xp = backend.xp
        run = in_steps(backend, self.steps, run)
        last = run - 1
        top = xp.minimum(in_steps(backend, self.warmup, run) - 1, last)
        first_rate = 1 / self.div_factor
        last_rate = first_rate / self.final_div_factor
        up = half_cosine(xp, progress(xp, step, xp.zeros_like(step), top))
        down = half_cosine(xp, progress(xp, step, top, last))
        return (1 + (first_rate - 1) * up) * (last_rate + (1 - last_rate) * down)
