"""One Explainer, asked by many threads at once, and by processes that are forked off."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.image import read_image
from onnxcam.zoo import samples

MODEL = "zoo:shapes-cnn"
TARGETS = [None, 0, 3, "probability:2", "margin:1,5", None, 6, 1]
JOBS = [(read_image(p), target) for p, target in zip(samples("shapes-cnn")[:8], TARGETS, strict=True)]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
shared: Explainer


def answer(explainer: Explainer, job: tuple[np.ndarray, object]) -> tuple[bytes, bytes, float, int]:
    e = explainer.explain(*job)
    return e.heatmap.tobytes(), e.cam.tobytes(), e.score, e.class_index


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradcam", {}),
        ("guided_backprop", {}),
        ("rise", {"budget": 20}),
        ("scorecam", {}),
        ("integrated_gradients", {"budget": 4}),
    ],
)
def test_eight_threads_get_bit_for_bit_what_one_gets(method, options):
    """All begin together on an Explainer that has built nothing yet, each with pictures and targets of its own."""
    alone, together = (Explainer(MODEL, method=method, threads=1, **options) for _ in range(2))
    begin = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=begin.wait) as pool:
        found = list(pool.map(lambda job: answer(together, job), JOBS * 2))
    want = [answer(alone, job) for job in JOBS]
    assert found == want * 2
    assert len({heatmap for heatmap, *_ in want}) == len(JOBS)


@forks
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forked_process_goes_on_with_the_session_and_so_does_its_parent(threads):
    """The child has none of the runtime's other threads."""
    explainer = Explainer(MODEL, threads=threads)
    want = [answer(explainer, job) for job in JOBS[:5]]
    assert in_a_fork(lambda: [answer(explainer, job) for job in JOBS[:5]] == want) == SO
    assert [answer(explainer, job) for job in JOBS[:5]] == want


@forks
def test_a_forked_process_lets_go_of_sessions_that_have_threads():
    """Whose ends it would wait for: they are not there, and what the system kept of them is given back."""
    kept = [Explainer(MODEL, threads=4) for _ in range(6)]  # threads of more stack than is kept
    want = [answer(e, JOBS[0]) for e in kept]

    def lets_go() -> bool:
        kept.clear()
        gc.collect()
        return [answer(Explainer(MODEL, threads=4), JOBS[0])] * 6 == want

    assert in_a_fork(lets_go) == SO


@forks
def test_a_forked_process_builds_while_its_parent_does():
    """What another thread holds at that moment, nobody in the child ever lets go of."""
    explainer, held, done = Explainer(MODEL, threads=1), threading.Event(), threading.Event()

    def build() -> None:
        with explainer.programs._building:
            held.set()
            done.wait()

    thread = threading.Thread(target=build)
    thread.start()
    held.wait()
    try:
        child = in_a_fork(lambda: answer(explainer, JOBS[0]) == answer(Explainer(MODEL, threads=1), JOBS[0]))
    finally:
        done.set()
        thread.join()
    assert child == SO


@forks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks of processes with threads
def test_a_pool_of_forked_processes_shares_what_was_built_before():
    global shared
    shared = Explainer(MODEL)
    want = [answer(shared, job) for job in JOBS]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map_async(answer_shared, range(len(JOBS)), chunksize=1).get(timeout=60)
    assert found == want


def answer_shared(k: int) -> tuple[bytes, bytes, float, int]:
    return answer(shared, JOBS[k])


SO = 0


def in_a_fork(asked: Callable[[], bool]) -> int:
    """Whether it is so in a forked process: `SO`; 1 where it is not, -14 of one that hangs, which is ended."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(120)  # a machine that is busy with other things takes its time
            code = SO if asked() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
