"""What is timed, inside the process of a contestant: blocks of many steps, or of many calls."""

import time
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Protocol

from benchmarks.contestants.base import Contestant, NotOfferedError, Training
from benchmarks.workload import Workload, scaled

MAX_STEPS = 768  # of one training: see `Steps`
ROTATED = 4096  # samples, times networks, of a round: its batches are between the two numbers below
FEWEST, MOST = 4, 64
SETTLE = 0.05  # seconds in which the spinning threads of the process before go to sleep

Seconds = tuple[float, float | None]  # by the host's clock, and by the device's where it has one


class Cell(Protocol):
    """What a worker has set up: `block` gives seconds per unit."""

    def block(self) -> Seconds: ...


def timed(contestant: Contestant, call: Callable[[], object]) -> Seconds:
    """What `call`, which waits for the device, takes."""
    begin, start = contestant.event(), time.perf_counter()
    call()
    end = contestant.event()
    seconds = time.perf_counter() - start
    return seconds, None if begin is None else contestant.elapsed(begin, end)


def begin(contestant: Contestant, workload: Workload, optimizer: str, members: int) -> Training:
    """A training of the first `members` networks from their initial weights."""
    if members == 1:
        return contestant.network(workload.params[0], optimizer)
    return contestant.networks(workload.params[:members], optimizer)


class Steps:
    """Training steps on batches in memory.

    A block is as many short trainings as fill `seconds`, each from the initial weights, with an
    untimed round over the batches before the timed ones.  They are short because momenta of
    weights that have no gradient any more shrink to subnormal numbers, which is a thing of endless
    repetition and slow on some contestants only.
    """

    def __init__(
        self,
        contestant: Contestant,
        workload: Workload,
        seconds: float,
        optimizer: str,
        batch: int,
        members: int,
    ) -> None:
        self.contestant = contestant
        self.begin = partial(begin, contestant, workload, optimizer, members)
        self.count = min(max(ROTATED // (batch * members), FEWEST), MOST)
        self.placed = contestant.place(workload.batches(batch, self.count))
        training = self.begin()
        training.run(self.placed)
        per_round, _ = timed(contestant, lambda: training.run(self.placed))
        self.rounds = min(ceil(seconds / per_round), MAX_STEPS // self.count - 1)
        self.trainings = ceil(seconds / per_round / self.rounds)

    def block(self) -> Seconds:
        parts = []
        for _ in range(self.trainings):
            training = self.begin()
            training.run(self.placed)
            parts.append(timed(self.contestant, lambda: training.run(self.placed, self.rounds)))  # noqa: B023
        return per_unit(parts, self.trainings * self.rounds * self.count)


class Calls:
    """A function called until `seconds` have passed."""

    def __init__(self, contestant: Contestant, seconds: float, call: Callable[[], object]) -> None:
        self.contestant, self.call = contestant, call
        call()
        self.count = ceil(seconds / timed(contestant, call)[0])

    def block(self) -> Seconds:
        def calls() -> None:
            for _ in range(self.count):
                self.call()

        return per_unit([timed(self.contestant, calls)], self.count)


def per_unit(parts: list[Seconds], units: int) -> Seconds:
    device = [seconds for _, seconds in parts if seconds is not None]
    host = sum(seconds for seconds, _ in parts) / units
    return host, sum(device) / units if device else None


def products(contestant: Contestant, seconds: float, batch: int) -> Calls:
    """The matrix products of a step alone."""
    call = contestant.products(batch)
    if call is None:
        raise NotOfferedError("its products are not timed alone")
    return Calls(contestant, seconds, call)


def epoch(contestant: Contestant, workload: Workload, seconds: float) -> Calls:
    """An epoch from uint8 arrays, of one training that goes on from block to block."""
    training = contestant.network(workload.params[0], "Adam")
    return Calls(contestant, seconds, lambda: training.epoch(workload.x, workload.y))


def inference(contestant: Contestant, workload: Workload, seconds: float, images: int) -> Calls:
    """The classes of float32 images on the host, on the host."""
    x = scaled(workload.x_test[:images])
    training = contestant.network(workload.params[0], "Adam")
    return Calls(contestant, seconds, lambda: training.classes(x))
