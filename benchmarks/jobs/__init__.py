"""The jobs by name: each takes a `Bench` and gives its tables by name."""

from benchmarks.jobs.timing import busy, epoch, inference, members, step
from benchmarks.jobs.whole import accuracy, memory, size

JOBS = {
    job.__name__: job for job in (step, epoch, accuracy, inference, members, memory, size, busy)
}
