from __future__ import annotations

import signal
import threading

import pytest

from onnxcam import signals

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def told(monkeypatch):
    """Signal numbers that a handler was called with; the clock stands still until it is set."""
    times, numbers = [1000.0], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: times[0])
    monkeypatch.setattr(signals, "_last", 0.0)
    return times, numbers, signals.once(lambda number, frame: numbers.append(number))


@pytest.fixture(autouse=True)
def restored():
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    for number in signals.STOPPING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_comes_twice_within_half_a_second_counts_once(told):
    times, numbers, handler = told
    for times[0] in (1000, 1000.4, 1000.5, 1000.9, 1001.2):
        handler(signal.SIGINT, None)
    handler(signal.SIGTERM, None)  # one request, two signals
    assert numbers == [signal.SIGINT] * 3


def test_all_that_ask_are_heeded_and_afterwards_as_before():
    numbers: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(-1))
    before = signal.getsignal(signal.SIGTERM)
    with signals.heeding(lambda number, frame: numbers.append(number)):
        for number in signals.STOPPING:
            signal.raise_signal(number)
    assert numbers == list(signals.STOPPING) == [2, 15, 1][: len(numbers)]
    assert (mine, signal.getsignal(signal.SIGTERM)) == (signal.SIG_DFL, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals to hang up here")
def test_what_is_ignored_stays_ignored():
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals.heeding(lambda number, frame: pytest.fail("called")):
        signal.raise_signal(signal.SIGHUP)
        assert signals.heeded() == [signal.SIGINT, signal.SIGTERM]


def test_another_thread_has_no_signals():
    def inside() -> None:
        with signals.heeding(lambda number, frame: None):
            found.extend(signal.getsignal(number) for number in signals.STOPPING)

    found: list[object] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL] * len(signals.STOPPING)
