from __future__ import annotations

import threading
import time

import pytest

from onnxcam.batch import local

pytestmark = pytest.mark.anyruntime


def groups(count: int, read: list[int] | None = None):
    for k in range(count):
        if read is not None:
            read.append(k)
        yield [k]


def never() -> bool:
    return False


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_groups_come_in_order_whoever_is_first(workers):
    def do(group):
        time.sleep(0.02 if group[0] % 3 == 1 else 0)
        return [{"index": group[0]}]

    assert [rows[0]["index"] for rows in local.run(do, groups(17), workers, never)] == list(range(17))


def test_the_first_group_is_done_alone_and_the_others_together():
    running, most = set(), {}

    def do(group):
        running.add(group[0])
        time.sleep(0.05)
        most[group[0]] = len(running)
        running.discard(group[0])
        return [{}]

    assert len(list(local.run(do, groups(9), 4, never))) == 9
    assert most[0] == 1
    assert max(most.values()) == 4


def test_a_slow_group_holds_up_those_behind_it_before_memory_fills():
    """Of 100 groups, those are read that may wait, and no more, while nobody takes what is done."""
    read, gate = [], threading.Event()

    def do(group):
        if group[0] == 1:
            gate.wait(10)
        return [{"index": group[0]}]

    found = local.run(do, groups(100, read), 3, never)
    next(found)
    threading.Timer(0.3, gate.set).start()
    next(found)
    assert len(read) <= 1 + 2 * 3 + 1
    assert len(list(found)) == 98


def test_what_is_begun_is_finished_and_nothing_else_is_begun():
    begun, ended, stopped, both = [], [], threading.Event(), threading.Barrier(3)

    def do(group):
        begun.append(group[0])
        if group[0]:
            both.wait(10)
            both.wait(10)
        ended.append(group[0])
        return [{"index": group[0]}]

    def stop():
        both.wait(10)  # two are begun, two more wait in the queue
        stopped.set()
        both.wait(10)

    threading.Thread(target=stop).start()
    told = [rows[0]["index"] for rows in local.run(do, groups(50), 2, stopped.is_set)]
    assert told == sorted(begun) == sorted(ended) == [0, 1, 2]


def test_nothing_is_begun_where_it_is_stopped_beforehand():
    assert list(local.run(lambda group: pytest.fail("begun"), groups(3), 2, lambda: True)) == []


def test_an_error_ends_it_and_takes_back_what_is_not_begun():
    begun = []

    def do(group):
        begun.append(group[0])
        if group[0] == 1:
            time.sleep(0.1)
            raise KeyError("one")
        time.sleep(0.15 if group[0] else 0)
        return [{"index": group[0]}]

    found = local.run(do, groups(50), 2, never)
    assert next(found) == [{"index": 0}]
    with pytest.raises(KeyError, match="one"):
        list(found)
    assert sorted(begun)[:3] == [0, 1, 2]
    assert len(begun) <= 4


def test_a_loop_that_is_left_waits_for_what_is_begun_and_takes_back_the_rest():
    begun, ended = [], []

    def do(group):
        begun.append(group[0])
        time.sleep(0.1 if group[0] else 0)
        ended.append(group[0])
        return [{"index": group[0]}]

    found = local.run(do, groups(50), 2, never)
    next(found)
    next(found)
    found.close()
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 5


def test_opencv_works_in_the_thread_that_asks_and_is_left_as_it_was():
    import cv2

    before, seen = cv2.getNumThreads(), []
    groups = [[k] for k in range(3)]
    list(local.run(lambda group: seen.append(cv2.getNumThreads()) or [{"index": group[0]}], groups, 2, lambda: False))
    assert seen[1:] == [1, 1]
    assert cv2.getNumThreads() == before
