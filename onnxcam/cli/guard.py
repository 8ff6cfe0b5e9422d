"""The command in a process of its own: a crash in native code ends that one, and becomes one message here."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

CRASHES = ("SIGSEGV", "SIGFPE", "SIGBUS", "SIGILL", "SIGABRT")
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")


def guarded(command: Callable[[], None]) -> int:
    """Run ``command`` in a forked process and give its exit code; where there is no fork, in this one.

    Returns:
        The command's own exit code; 2 where native code crashed; 128 + N where signal N ended it.
    """
    if not hasattr(os, "fork"):
        command()
        return 0
    forwarded = [signal.Signals[name] for name in _FORWARDED]
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)  # what comes now waits until it can be forwarded
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # so that Ctrl-C comes once, forwarded by the parent
        return _heeding(command, forwarded)
    for number in forwarded:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: _forward(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed once more while this process ends, it would decide the code
    return code if code >= 0 else _told(signal.Signals(-code))


def _heeding(command: Callable[[], None], forwarded: list[signal.Signals]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
        command()
    except KeyboardInterrupt:  # before the command could see to it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("onnxcam: interrupted", file=sys.stderr)
        return 130
    return 0


def _forward(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _told(ended_by: signal.Signals) -> int:
    if ended_by.name in CRASHES:
        print(
            f"onnxcam: native code crashed ({ended_by.name}), most likely ONNX Runtime on this model. Check the model "
            "with another tool, export it again, or try another build or version of ONNX Runtime",
            file=sys.stderr,
        )
        return 2
    if ended_by is signal.SIGKILL:
        print("onnxcam: the process was killed; perhaps memory ran out", file=sys.stderr)
    return 128 + ended_by
