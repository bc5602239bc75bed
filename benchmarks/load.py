"""Other programs that compute, on every core."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

START = 0.2  # seconds until they all run


@contextmanager
def load() -> Iterator[None]:
    """Within it as many processes as there are cores run a Python loop each."""
    loop = [sys.executable, "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(START)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
