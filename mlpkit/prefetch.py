"""Work ahead: the next items are made on a thread while the present one is used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

Item = TypeVar("Item")
PATIENCE = 100  # hundredths of a second that closing waits for


def prefetch(items: Iterable[Item], ahead: int = 2) -> Iterator[Item]:
    """The items, up to `ahead` of them made before they are asked for.

    An exception comes out where its item would have come.  The thread ends with the items, or when
    this iterator is closed; one that is stalled in its source is left behind.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(ahead)
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                made.put((False, item))
                if closed.is_set():
                    return
            made.put((True, None))
        except BaseException as error:
            made.put((True, error))

    thread = threading.Thread(target=work, name="mlpkit prefetch", daemon=True)
    thread.start()
    try:
        while True:
            ended, item = made.get()
            if not ended:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        closed.set()
        for _ in range(PATIENCE):
            with suppress(queue.Empty):  # room for what the thread may be waiting to put
                made.get_nowait()
            thread.join(1e-2)
            if not thread.is_alive():
                break
