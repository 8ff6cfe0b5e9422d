from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [
    pytest.mark.anyruntime,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here: the command runs in this process"),
]
CODE = """
import os, signal, sys, time
from onnxcam.cli.guard import guarded
def command():
    print("started", flush=True)
    {body}
raise SystemExit(guarded(command))
"""


def start(body: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE.format(body=body)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, preexec_fn=_heed_interrupts)


def _heed_interrupts() -> None:
    """A shell's background jobs ignore them, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGFPE", "SIGABRT"])
def test_a_crash_in_native_code_is_one_message_and_exit_code_2(name):
    out, err = (process := start(f"os.kill(os.getpid(), signal.{name})")).communicate(timeout=30)
    assert (process.returncode, out) == (2, "started\n")
    assert err.startswith(f"onnxcam: native code crashed ({name})")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("body", "code"), [("sys.exit(1)", 1), ("pass", 0), ("os.kill(os.getpid(), 9)", 137)])
def test_other_exit_codes_pass_through(body, code):
    process = start(body)
    process.communicate(timeout=30)
    assert process.returncode == code


def test_an_interrupt_reaches_the_command():
    process = start("\n    try: time.sleep(30)\n    except KeyboardInterrupt: sys.exit(130)")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_a_crash_on_an_interrupt_is_the_interrupt():
    process = start("signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGSEGV)); time.sleep(30)")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "onnxcam: interrupted, within native code (SIGSEGV)\n")


EARLY = """
import os, signal, time
fork = os.fork
os.fork = lambda: (os.kill(os.getpid(), signal.SIGINT), fork())[1]
"""


def test_an_interrupt_before_the_fork_is_over_shows_no_traceback(monkeypatch):
    monkeypatch.setattr("test_guard.CODE", EARLY + CODE.replace(STARTED, ""))
    process = start("time.sleep(30)")
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "onnxcam: interrupted\n")


IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from onnxcam.__main__ import run
sys.exit(run())
"""


def test_an_interrupt_while_the_command_is_imported_shows_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, "methods"], capture_output=True, text=True, preexec_fn=_heed_interrupts
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "onnxcam: interrupted\n")


COMMAND = """
import os, signal, sys
from onnxcam import cli
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
{where} = interrupted
sys.argv = ["onnxcam", "methods"]
sys.exit(cli.run())
"""


@pytest.mark.parametrize("where", ["cli.listing.table", "cli.typer.Typer.__call__"])
def test_an_interrupt_within_a_command_is_told(where):
    code = COMMAND.format(where=where)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=_heed_interrupts)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "onnxcam: interrupted\n")


@pytest.mark.parametrize("where", ["", "guard._killed_by_linux = lambda: False"])
def test_a_command_ends_with_the_process_that_was_started(monkeypatch, where):
    """Whatever ends it, and wherever: its output then ends, too."""
    monkeypatch.setattr("test_guard.CODE", f"import onnxcam.cli.guard as guard\n{where}\n{CODE}")
    process = start("time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGKILL


# ---- at a terminal ----


AT_TERMINAL = """
import fcntl, os, termios
from onnxcam import signals
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""

STARTED = 'print("started", flush=True)'


def typed(body: str, keys: bytes) -> tuple[int, str, str]:
    """Exit code and output of a command in front of a terminal where that is typed once it has started."""
    pty = pytest.importorskip("pty", reason="no terminals here")
    here, there = pty.openpty()
    command = [sys.executable, "-c", AT_TERMINAL + CODE.replace(STARTED, "").format(body=body)]
    pipes = {"stdin": there, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, preexec_fn=_heed_interrupts)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.write(here, keys)
        return (*process.communicate(timeout=10), process.returncode)[::-1]
    finally:
        process.kill()
        os.close(here)
        os.close(there)


def test_a_command_reads_what_is_typed():
    code, _, out = typed(f"{STARTED}; print(sys.stdin.read().split())", b"one\ntwo\n\x04")
    assert (code, out) == (0, "['one', 'two']\n")


COUNTED = """
    asked = []
    with signals.heeding(signals.once(lambda number, frame: asked.append(number))):
        print("started", flush=True)
        while not asked: time.sleep(0.01)
        time.sleep(0.3)
    print(len(asked))
"""


def test_ctrl_c_is_one_request():
    """The terminal sends it to both processes, and the first forwards it."""
    assert typed(COUNTED, b"\x03") == (0, "", "1\n")


def test_ctrl_c_ends_what_waits_for_input():
    assert typed(f"{STARTED}; sys.stdin.read()", b"\x03") == (130, "onnxcam: interrupted\n", "")
