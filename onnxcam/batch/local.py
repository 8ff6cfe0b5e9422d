"""The work on one machine: threads that each do whole groups, on one session."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import takewhile
from typing import TypeVar

from onnxcam.image import one_thread

T = TypeVar("T")
R = TypeVar("R")
_WAITING = 2  # groups for each thread that may be begun or finished before their turn: what bounds the memory


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    do: Callable[[list[T]], list[R]],
    groups: Iterable[list[T]],
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[list[R]]:
    """The rows of each group, in order. While one thread decodes or writes, another one runs the model.

    The first group is done alone: what is wrong with the job shows there, and the model's programs are built once.

    Args:
        do: the work on a group.
        groups: read as they are needed.
        workers: threads.
        stopped: asked before each group; once it is true, what is begun is finished, and no more is begun.
    """

    def one(group: list[T]) -> list[R]:
        return [] if stopped() else do(group)

    groups = takewhile(lambda group: not stopped(), groups)
    for first in groups:
        yield do(first)
        break
    with (
        one_thread(),
        ThreadPoolExecutor(workers, thread_name_prefix="onnxcam") as pool,
        closing(_in_turn(pool, one, groups, _WAITING * workers)) as found,
    ):
        for rows in found:
            if rows:
                yield rows


def _in_turn(
    pool: ThreadPoolExecutor, do: Callable[[list[T]], list[R]], groups: Iterable[list[T]], most: int
) -> Generator[list[R], None, None]:
    """The results in order; an exception, or a loop that is left, takes back what is not begun."""
    waiting = deque[Future[list[R]]]()
    try:
        for group in groups:
            waiting.append(pool.submit(do, group))
            while waiting and (len(waiting) >= most or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
