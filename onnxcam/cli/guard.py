"""The command in a process of its own: a crash in native code ends that one, and becomes one message here."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from onnxcam.signals import STOPPING, heeded, once

CRASHES = ("SIGSEGV", "SIGFPE", "SIGBUS", "SIGILL", "SIGABRT")
_PR_SET_PDEATHSIG = 1


def guarded(command: Callable[[], None]) -> int:
    """Run ``command`` in a forked process and give its exit code; where there is no fork, in this one.

    Both are of one process group: what the command reads from a terminal comes to it, and Ctrl-Z stops both. Signals
    sent to this process alone are forwarded, and the command ends with it, whatever ends it.

    Returns:
        The command's own exit code; 2 where native code crashed; 128 + N where signal N ended it.
    """
    if not hasattr(os, "fork"):
        command()
        return 0
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # what comes now waits until it can be forwarded
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _end_with(parent)
        return _heeding(command)
    asked: list[int] = []
    for number in heeded():
        signal.signal(number, lambda number, frame: _forward(child, number, asked))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed once more while this process ends, it would decide the code
    return code if code >= 0 else _told(signal.Signals(-code), signal.SIGINT in asked)


def _end_with(parent: int) -> None:
    """Have this process killed when its parent is gone: Linux does it; elsewhere a thread looks."""
    if sys.platform != "linux" or not _killed_by_linux():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it was quicker
        _kill_self()


def _killed_by_linux() -> bool:
    """See prctl(2), PR_SET_PDEATHSIG."""
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    _kill_self()


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _heeding(command: Callable[[], None]) -> int:
    try:
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, once(signal.default_int_handler))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        command()
    except KeyboardInterrupt:  # before the command could see to it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("onnxcam: interrupted", file=sys.stderr)
        return 130
    return 0


def _forward(child: int, number: int, asked: list[int]) -> None:
    asked.append(number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _told(ended_by: signal.Signals, interrupted: bool) -> int:
    if ended_by.name in CRASHES and interrupted:  # libraries seldom expect it while they are imported
        print(f"onnxcam: interrupted, within native code ({ended_by.name})", file=sys.stderr)
        return 128 + signal.SIGINT
    if ended_by.name in CRASHES:
        print(
            f"onnxcam: native code crashed ({ended_by.name}), most likely ONNX Runtime on this model. Check the model "
            "with another tool, export it again, or try another build or version of ONNX Runtime. With --isolate, "
            "explain and batch outlive the crash of one picture",
            file=sys.stderr,
        )
        return 2
    if ended_by is signal.SIGKILL:
        print("onnxcam: the process was killed; perhaps memory ran out", file=sys.stderr)
    return 128 + ended_by
