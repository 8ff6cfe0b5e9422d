"""The entry point: exit codes, streams, tracebacks, interruption."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from builders import classifier, png, write

from onnxcam import __version__, cli

pytestmark = pytest.mark.anyruntime

COMMANDS = ("explain", "inspect", "methods", "zoo")
START = [sys.executable, "-c", "import sys; sys.argv[0] = 'onnxcam'; from onnxcam.cli import main; main()"]


def test_help_names_every_command(run):
    for flag in ("--help", "-h"):
        done = run(flag)
        assert done.code == 0
        assert all(name in done.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    done = run(command, "--help")
    assert done.code == 0
    assert "Usage: onnxcam" in done.out


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"onnxcam {__version__}\n"


@pytest.mark.parametrize("arguments", [["explane"], ["explain"], ["explain", "--nope"], ["methods", "--nope"]])
def test_wrong_usage_is_exit_code_2_on_stderr(run, arguments):
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert done.err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, tmp_path, place):
    arguments = ["inspect", str(tmp_path / "none.onnx")]
    arguments.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["onnxcam", *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(cli.OnnxcamError, match="no such file"):
        cli.main()


def test_what_is_not_foreseen_is_one_message_too(run, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "application", lambda *_: lambda **_: 1 / 0)
    done = run("methods")
    assert (done.code, done.out) == (2, "")
    assert "unexpected ZeroDivisionError: division by zero. Run with --debug" in done.err
    assert "Traceback" not in done.err


def test_with_json_an_error_is_an_object_too(run, tmp_path):
    done = run("explain", tmp_path / "none.onnx", "a.png", "--json")
    assert done.code == 2
    assert "no such file" in done.json[0]["error"]
    assert "no such file" in done.err


def test_warnings_are_one_line_on_stderr(run, monkeypatch):
    monkeypatch.setattr(cli, "application", lambda *_: lambda **_: warnings.warn("mind the gap", stacklevel=1))
    assert run("methods").err == "onnxcam: warning: mind the gap\n"


def test_a_name_that_the_stream_cannot_encode_is_escaped(tmp_path):
    model = write(tmp_path / "model.onnx", classifier())
    picture = png(tmp_path / os.fsdecode(b"caf\xe9 \xff.png"))
    done = subprocess.run(
        [*START, "explain", model, picture, picture.with_name("é.png"), "-o", tmp_path / "out"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 1
    assert b"caf\\udce9 \\udcff.png" in done.stdout
    assert b"\\xe9.png" in done.stderr
    assert b"unexpected" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_stream_is_one_message(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*START, "methods"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("onnxcam: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor in the shell")
def test_a_closed_stream_is_no_traceback():
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shell = ["sh", "-c", f'"$@" methods {closed}', "sh", *START]
        done = subprocess.run(shell, capture_output=True, text=True)
        assert done.returncode == 0, closed
        assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    """As `onnxcam explain ... --json | head -1` does."""
    model = write(tmp_path / "model.onnx", classifier())
    pictures = [png(tmp_path / f"{k}.png") for k in range(40)]
    command = [*START, "explain", model, *pictures, "-o", tmp_path / "out", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert json.loads(child.stdout.readline())["class_index"] in range(4)
        child.stdout.close()
        said = child.stderr.read()
    assert child.returncode != 0
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def _interrupt(child):
    """Press Ctrl-C until it is heard: Python drops the exception where it comes up in a finaliser."""
    for _ in range(10):
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=2)[1]
    raise AssertionError("it does not stop")


def _heed_interrupts():
    """A shell's background jobs ignore them, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_is_exit_code_130_and_leaves_whole_files_only(tmp_path):
    model = write(tmp_path / "model.onnx", classifier())
    pictures = [png(tmp_path / f"{k}.png") for k in range(1000)]
    command = [*START, "explain", model, *pictures, "-o", tmp_path / "out", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=_heed_interrupts) as child:
        child.stdout.readline()
        time.sleep(0.05)
        said = _interrupt(child)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob(".*"))
    for record in (tmp_path / "out").glob("*.json"):
        files = json.loads(record.read_text())["files"]
        assert all((record.parent / name).is_file() for name in files.values())
