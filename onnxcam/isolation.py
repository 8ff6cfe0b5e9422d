"""Native code in a process of its own: where it crashes, that process ends, and the caller gets an error."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar

from onnxcam.errors import OnnxcamError

P = ParamSpec("P")
T = TypeVar("T")
_PATIENCE = 600.0  # seconds for one call
_KILL = 9  # Windows has no SIGKILL to name
# Python looks for the modules of a command in the working folder first, where files of strangers may lie.
_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)
if sys.argv[1] not in sys.path:
    sys.path.insert(0, sys.argv[1])
from onnxcam.isolation import serve
serve()
"""
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # may be in the path as the working folder only


class CrashError(Exception):
    """How the process ended: ``crashed (SIGSEGV)``; its callers say what it was doing.

    Attributes:
        ended: it did not crash, but was ended: by the system, or as it took too long.
    """

    def __init__(self, how: str, ended: bool) -> None:
        super().__init__(how)
        self.ended = ended


class Worker:
    """A process that calls functions, one at a time; any number of threads may ask.

    The process is begun with the first call, and anew after a crash and in a process that was forked off. It ends with
    the worker, and with the process that it works for.

    Args:
        patience: seconds after which a call is taken for hanging.

    Attributes:
        life: how many processes there were; what a call left in one is lost with it.
        lock: held during a call; hold it for calls that belong together.
        gone: what callers left there and let go of, for their next call to take away.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.patience, self.life, self.lock = patience, 0, threading.RLock()
        self.gone = deque[int]()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[..., Worker] | None = None
        tell_of_forks(self)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of a module gives there; its arguments and its result are copied.

        Raises:
            CrashError: the process died of it, or took too long.
            OnnxcamError: as the function raises it; what else it raises comes as a RuntimeError of the same words.
        """
        with self.lock:
            process = self.ready()
            expired = threading.Event()
            late = threading.Timer(self.patience, _end_late, (process, expired))
            late.start()
            try:
                done, answer = _exchange(process, (function, args, kwargs))
            except (OSError, EOFError, pickle.UnpicklingError):
                raise self._crash(process, expired.is_set()) from None
            except BaseException:  # an interrupt: the answer would be taken for the next call's
                self._end()
                raise
            finally:
                late.cancel()
        if not done:
            raise answer
        found: T = answer
        return found

    def ready(self) -> subprocess.Popen[bytes]:
        """The process, begun where there is none."""
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it was ended from outside
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, _ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self.life += 1
            self._stop = weakref.finalize(self, _kill, self._process)
        return self._process

    def forked(self) -> None:
        """In a process that was forked off: leaves the process, and who calls it, to the one that began it."""
        process, stop = self._process, self._stop
        self.lock, self._process, self._stop = threading.RLock(), None, None
        if stop is not None:
            stop.detach()
        if process is not None:
            _inherited.append(process)
            _let_go(process)

    def _crash(self, process: subprocess.Popen[bytes], late: bool) -> CrashError:
        self._end()
        code = process.returncode
        if late:
            return CrashError(f"did not finish within {self.patience:g} s", ended=True)
        if code < 0:
            return CrashError(_signalled(-code), ended=code == -_KILL)
        return CrashError(f"ended (code {code:#x})", ended=False)  # on Windows the exception's

    def _end(self) -> None:
        if self._stop is not None:
            self._stop()
        self._process = self._stop = None


class Forked(Protocol):
    """Who holds what a process that is forked off cannot go on with: locks of threads that it lacks, pipes."""

    def forked(self) -> None:
        """Called in that process, first of all."""


_holders = weakref.WeakSet[Forked]()
_inherited: list[subprocess.Popen[bytes]] = []  # kept: a buffer whose lock was held at the fork cannot be closed


def tell_of_forks(holder: Forked) -> None:
    """Have ``holder.forked()`` called in every process that is forked off, as long as it lives."""
    _holders.add(holder)


def _tell_all() -> None:
    for holder in list(_holders):
        with suppress(OSError):  # one that finds no file descriptor left must not keep it from the others
            holder.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_tell_all)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    # The numbers stay taken: what is left in a buffer is written at the end, and not into the pipe, nor another's file.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            os.dup2(nowhere, stream.fileno(), inheritable=False)
    os.close(nowhere)


def _signalled(number: int) -> str:
    if number == _KILL:
        return "was killed (SIGKILL, likely for want of memory)"
    try:
        return f"crashed ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"crashed (signal {number})"


def _end_late(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what is still to be written, the process does not read any more
                continue


def _exchange(process: subprocess.Popen[bytes], asked: object) -> tuple[bool, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(asked, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
    done, answer = pickle.load(process.stdout)
    return bool(done), answer


def serve() -> None:
    """The process: calls what it is asked for, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who asks decides
    _leave_no_core()
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    while True:
        try:
            function, args, kwargs = pickle.load(calls)
        except EOFError:
            return
        try:
            answer = True, function(*args, **kwargs)
        except Exception as error:
            answer = False, error if isinstance(error, OnnxcamError | MemoryError) else RuntimeError(str(error))
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _leave_no_core() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
