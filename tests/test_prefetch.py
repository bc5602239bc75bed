"""Work ahead on a thread: the same items, in order, with their errors, and no thread left over."""

import gc
import threading

import pytest

from mlpkit.prefetch import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "mlpkit prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert threads() == []


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("items", [[], [None], [3, 1, 2], list(range(50))])
def test_the_items_come_in_order(items, ahead):
    assert list(prefetch(items, ahead)) == items
    assert threads() == []


class BrokenDiskError(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("bad row"), BrokenDiskError("bad block")])
def test_an_error_comes_out_where_its_item_would_have_come(error):
    def items():
        yield 1
        yield 2
        raise error

    seen = []
    with pytest.raises(type(error), match="bad") as caught:
        seen.extend(prefetch(items()))
    assert caught.value is error
    assert seen == [1, 2]
    assert threads() == []


def test_an_iterable_that_cannot_begin_says_so_itself():
    class Unready:
        def __iter__(self):
            raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        next(prefetch(Unready()))


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_made_ahead_than_asked_for(ahead):
    """Besides what waits there are the item in use and the one that is made."""
    made = []

    def items():
        for item in range(100):
            made.append(item)
            yield item

    ahead_of = prefetch(items(), ahead)
    for item in range(5):
        assert next(ahead_of) == item
        assert len(made) <= item + ahead + 2
    ahead_of.close()
    assert len(made) <= 5 + ahead + 1
    assert threads() == []


def test_nothing_is_made_before_it_is_asked_for():
    made = []
    ahead_of = prefetch(made.append(item) or item for item in range(3))
    assert (made, threads()) == ([], [])
    ahead_of.close()


def test_the_next_items_are_made_while_one_is_used():
    """The second item lets the first be used up: made one after the other they would not meet."""
    second_is_made = threading.Event()

    def items():
        yield 1
        second_is_made.set()
        yield 2

    ahead_of = prefetch(items())
    assert next(ahead_of) == 1
    assert second_is_made.wait(timeout=60)
    assert list(ahead_of) == [2]


def test_the_items_are_made_on_one_other_thread():
    names = list(prefetch(threading.current_thread().name for _ in range(4)))
    assert names == ["mlpkit prefetch"] * 4


@pytest.mark.parametrize("ahead", [1, 3])
def test_closing_lets_a_thread_go_that_waits_for_room(ahead):
    """Here with an error, which nobody will see."""
    full = threading.Event()

    def items():
        yield from range(ahead + 1)
        full.set()
        raise BrokenDiskError("bad block")

    ahead_of = prefetch(items(), ahead)
    assert next(ahead_of) == 0
    assert full.wait(timeout=60)
    ahead_of.close()
    assert threads() == []


def test_closing_leaves_a_source_behind_that_is_stalled(monkeypatch):
    monkeypatch.setattr("mlpkit.prefetch.PATIENCE", 2)
    released = threading.Event()

    def items():
        yield 1
        released.wait(timeout=60)
        yield 2

    ahead_of = prefetch(items())
    assert next(ahead_of) == 1
    (stalled,) = threads()
    ahead_of.close()
    assert stalled.is_alive()
    released.set()
    stalled.join(timeout=60)
    assert threads() == []
