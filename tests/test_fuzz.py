"""A few mutants of each kind, and that the watch over them sees what it is there for."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.fuzz import FAILURES, Task, outcomes, report
from benchmarks.fuzz_roads import _foreign, mutant
from benchmarks.soak import soak

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processor time from /proc")
LIMIT = 30.0  # seconds: machines that test are busy

BAD = """
import os, signal, subprocess, time, benchmarks.fuzz_roads as roads
from onnxcam.errors import ImageError

def images(self, made, work, outcome):
    if outcome.index == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    while outcome.index == 1:
        pass
    if outcome.index == 2:
        dict()["x"]
    if outcome.index == 3:
        open(os.environ["ELSEWHERE"], "w").close()
    if outcome.index == 4:
        (work / "out" / "x").write_text("")
    if outcome.index == 5:
        raise ImageError("no picture")
    if outcome.index == 6:
        roads._check_printed("a\\x1b[31m")
    if outcome.index == 7:
        time.sleep(60)
    if outcome.index == 8:
        subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)

roads.Road._images = images
"""


@pytest.mark.slow
@pytest.mark.parametrize(("road", "count"), [("models", 30), ("images", 90), ("words", 15)])
def test_mutants_give_a_result_or_an_error(tmp_path, road, count):
    found = list(outcomes(Task(road, 7, None, str(tmp_path)), range(count), 1, LIMIT))
    assert [f for f in found if f.kind in FAILURES] == []
    assert sorted(f.index for f in found) == list(range(count))
    assert {f.kind for f in found} == {"result", "error"}
    assert sum(f.parsed for f in found) >= 0.3 * count


@pytest.mark.anyruntime
def test_a_mutant_is_the_same_each_time(tmp_path):
    for road in ("models", "images", "words"):
        one, other, next_one = (mutant(Task(road, 3, None, ""), k) for k in (5, 5, 6))
        assert (one.data, one.changes) == (other.data, other.changes)
        assert one.data != next_one.data


@pytest.mark.slow
@pytest.mark.anyruntime
def test_what_must_not_happen_is_seen(tmp_path, monkeypatch, capsys):
    (tmp_path / "sitecustomize.py").write_text(BAD)
    root = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root]))
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    (tmp_path / "work").mkdir()
    found = {f.index: f for f in outcomes(Task("images", 0, None, str(tmp_path / "work")), range(9), 1, 2.0)}
    kinds = [found[k].kind for k in range(9)]
    assert kinds == ["crash", "hang", "untyped", "outside", "result", "error", "untyped", "hang", "result"]
    assert [found[k].said.partition(":")[0] for k in (0, 2, 5)] == ["SIGSEGV", "KeyError", "ImageError"]
    assert report(iter(found.values()), "images") == 1
    assert "9 images: 2 result, 1 error, 1 crash, 2 hang, 2 untyped, 1 outside;" in capsys.readouterr().out


@pytest.mark.anyruntime
def test_what_a_damaged_model_has_no_reason_to_read_is_known(tmp_path):
    for path in ("/etc/passwd", "/dev/zero", os.path.realpath("/proc/self/mem"), str(tmp_path / "canary")):
        assert _foreign(path), path
    assert not _foreign(str(tmp_path / "weights.data"))


class Leaking:
    """Work that holds on to what it makes."""

    def __init__(self, leaks):
        self.leaks, self.held, self.done = leaks, [], {}

    def round(self):
        self.held += self.leaks()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.anyruntime
@pytest.mark.parametrize(
    ("leaks", "code"),
    [
        (list, 0),
        (lambda: [bytes(2**21)], 1),
        (lambda: [subprocess.Popen(["sleep", "60"])], 1),
        (lambda: [socket.socket()], 1),
    ],
    ids=["nothing", "memory", "processes", "files"],
)
def test_the_soak_tells_what_grows(leaks, code):
    work = Leaking(leaks)
    try:
        assert soak(work, 4.0) == code
    finally:
        for held in work.held:
            if isinstance(held, socket.socket):
                held.close()
            if isinstance(held, subprocess.Popen):
                held.kill()
                held.wait()


@pytest.mark.anyruntime
def test_a_soak_of_few_rounds_tells_nothing():
    assert soak(Leaking(list), 0.1) == 2
