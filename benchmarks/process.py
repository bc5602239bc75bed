"""The driver's end of a worker."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

LIMITS = ("OMP", "OPENBLAS", "MKL", "NUMBA")  # *_NUM_THREADS; PyTorch goes by OMP's
CACHES = (
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "CUPY_CACHE_DIR",
)  # JAX keeps none unless it is told to


class WorkerError(Exception):
    """A contestant has nothing to show; the message says why."""


class Worker:
    """A contestant in a process of its own.

    Parameters
    ----------
    name, device, precision, threads, data : see `benchmarks.worker`
    timeout : seconds until a worker that does not answer is killed
    caches : folder for what compilers keep; None for the user's own
    """

    def __init__(
        self,
        name: str,
        device: str,
        precision: str,
        threads: int,
        data: Path,
        timeout: float,
        caches: Path | None = None,
    ) -> None:
        self.timeout = timeout
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by stop)
        environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in LIMITS}
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        if caches is not None:
            environment |= {cache: str(caches / cache) for cache in CACHES}
        options = ["--device", device, "--precision", precision, "--data", str(data)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, env=environment, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        # XLA has no setting for it: it counts the cores it may run on.
        os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[:threads])
        try:
            self.about = self._answer()
        except WorkerError:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """The answer to a request; WorkerError with the reason where there is none."""
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(f"its process has ended {self._last_words()}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(self.timeout, kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self._process.wait()
        if expired.is_set():
            raise WorkerError(f"no answer within {self.timeout:g} s")
        if not line:
            raise WorkerError(f"its process has ended {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"with status {self._process.wait()}: {last}"

    def stop(self) -> None:
        """Wait until the process has ended, which it does when its input does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
