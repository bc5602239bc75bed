"""Work ahead: the next items are made on a thread while the present one is used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], ahead: int = 2) -> Iterator[Item]:
    """The items, up to `ahead` of them made before they are asked for.

    An exception comes out where its item would have come.  The thread ends with the items, or when
    this iterator is closed.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(ahead)
    closed = threading.Event()

    def put(ended: bool, item: Any) -> None:
        while not closed.is_set():
            try:
                made.put((ended, item), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(False, item)
                if closed.is_set():
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

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
        thread.join()
