from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from builders import png

from onnxcam.cli import batch as command
from onnxcam.cli import progress

pytestmark = pytest.mark.anyruntime

FEW = ("--preprocess", "unit", "--workers", "1", "--batch", "1")


@pytest.fixture
def photos(tmp_path) -> Path:
    for k in range(6):
        png(tmp_path / "photos" / f"{k}.png", k)
    return tmp_path / "photos"


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


# ---- Exit codes, what is printed ----


def test_all_explained_is_0(run, model, photos, tmp_path):
    done = run("batch", model, photos, "-o", tmp_path / "out", *FEW)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"onnxcam: 6 explained, 0 failed: {tmp_path / 'out' / 'results.jsonl'}\n"
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png.*")) == [f"{k}.png.overlay.jpg" for k in range(6)]


def test_some_failed_is_1_and_each_is_told(run, model, photos, tmp_path):
    (photos / "bad\x1b[31m.png").write_bytes(b"")
    done = run("batch", model, photos, "-o", tmp_path / "out", *FEW)
    assert (done.code, done.out) == (1, "")
    first, last = done.err.splitlines()
    assert first.startswith("onnxcam: cannot read ")
    assert first.endswith("the file is empty")
    assert "\x1b" not in done.err
    assert last.startswith("onnxcam: 6 explained, 1 failed: ")


def test_all_failed_is_2(run, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    done = run("batch", model, tmp_path / "photos", "-o", tmp_path / "out", *FEW)
    assert done.code == 2
    assert done.err.endswith(f"0 explained, 1 failed: {tmp_path / 'out' / 'results.jsonl'}\n")


def test_what_cannot_start_is_2_and_one_message(fails, model, photos, tmp_path):
    out = tmp_path / "out"
    assert "no pictures in" in fails("batch", model, tmp_path / "nothing*.png", "-o", out)
    assert "did you mean 'gradcam'" in fails("batch", model, photos, "-o", out, "--method", "gradcm")
    assert "unknown result to save 'maps'" in fails("batch", model, photos, "-o", out, "--save", "maps")
    assert "save=['']: give one or more of overlay" in fails("batch", model, photos, "-o", out, "--save", "")
    assert "give a folder for the results" in fails("batch", model, photos, "-o", "")
    assert "address 's3://bucket/out'" in fails("batch", model, photos, "-o", "s3://bucket/out")
    assert "choose another" in fails("batch", model, photos, "-o", model)
    assert not out.exists()


def test_a_second_start_is_refused_and_resume_goes_on(run, fails, model, photos, tmp_path):
    arguments = ("batch", model, photos, "-o", tmp_path / "out", *FEW)
    assert run(*arguments).code == 0
    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "results.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert "2 of 6 pictures done: go on with resume (--resume)" in fails(*arguments)
    done = run(*arguments, "--resume")
    assert done.code == 0
    assert done.err.splitlines()[0] == "onnxcam: goes on: 2 of 6 pictures are done"
    assert [r["index"] for r in rows(tmp_path / "out")] == list(range(6))


def test_what_failed_is_tried_again_where_asked(run, model, photos, tmp_path):
    good = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(b"")
    arguments = ("batch", model, photos, "-o", tmp_path / "out", *FEW)
    assert run(*arguments).code == 1
    assert run(*arguments, "--resume").code == 1
    (photos / "3.png").write_bytes(good)
    assert run(*arguments, "--retry-errors").code == 0


def test_json_is_one_object_a_picture_and_nothing_else(run, model, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"")
    done = run("batch", model, photos, "-o", tmp_path / "out", "--json", *FEW)
    assert done.code == 1
    assert done.json == rows(tmp_path / "out")
    assert (
        run("batch", model, photos, "-o", tmp_path / "out", "--json").json[0]["error"].count("holds a job already") == 1
    )


def test_options_reach_the_job(run, model, photos, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    done = run(
        *(
            "batch",
            model,
            photos,
            "-o",
            tmp_path / "out",
            "--method",
            "layercam",
            "--target",
            "cat",
            "--layer",
            "relu1",
        ),
        *("--labels", labels, "--save", "overlay, heatmap", "--format", "png", "--heatmap-format", "npy"),
        *("--save", "box"),
        *("--threshold", "0.3", "--colormap", "turbo", "--blend", "0.2", "--max-pixels", "100000", "--batch", "2"),
        *("--preprocess", "unit", "--threads", "1", "--workers", "2", "--normalize", "minmax"),
    )
    assert done.code == 0
    row = rows(tmp_path / "out")[0]
    assert (row["method"], row["label"], row["layer"]) == ("layercam", "cat", "relu1")
    assert sorted(row["files"].values()) == ["0.png.heatmap.npy", "0.png.overlay.png"]
    told = json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]
    assert told["saving"] == {
        "kinds": ["overlay", "heatmap", "box"], "image": "png", "heatmap": "npy", "colormap": "turbo", "blend": 0.2,
        "style": "blend", "title": False, "threshold": 0.3,
    }  # fmt: skip
    assert (told["batch"], told["max_pixels"], told["normalize"]) == (2, 100000, "minmax")


def test_paths_may_come_on_standard_input(run, model, photos, tmp_path, monkeypatch):
    paths = "".join(f"{photos / name}\n" for name in ("5.png", "1.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(paths.encode())))
    assert run("batch", model, "-", "-o", tmp_path / "out", *FEW).code == 0
    assert [r["source"] for r in rows(tmp_path / "out")] == [str(photos / "1.png"), str(photos / "5.png")]


def test_progress_is_plain_lines_where_there_is_no_terminal(run, model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_BETWEEN", 0.0)
    (photos / "2.png").write_bytes(b"")
    err = run("batch", model, photos, "-o", tmp_path / "out", *FEW).err.splitlines()
    told = [line for line in err if " of 6, " in line]
    assert len(told) == 6
    for k, line in enumerate(told, 1):
        failed = ", 1 failed" if k > 2 else ""
        assert re.fullmatch(rf"onnxcam: {k} of 6, [\d.e+]+ a second{failed}, 0:00:\d\d left", line)


# ---- Signals ----

SLOW = """
import pathlib, sys, time
from onnxcam.batch.work import Work
from onnxcam.cli import run
group = Work.group
def slow(self, items):
    if items[0].index > 1:
        pathlib.Path({begun!r}).touch()
        time.sleep({seconds})
    return group(self, items)
Work.group = slow
sys.exit(run())
"""


def started(
    model: Path, photos: Path, out: Path, seconds: float, hangup: Any = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """A job that takes its time for each picture from the third on, which it has begun."""
    begun = out.with_name("begun")

    def heed() -> None:
        """A shell's background jobs ignore interrupts, and their children inherit that."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, hangup)

    arguments = ["batch", str(model), str(photos), "-o", str(out), *FEW]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=seconds, begun=str(begun)), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
    )  # fmt: skip
    while process.poll() is None and (not begun.exists() or len(rows(out)) < 2):
        time.sleep(0.01)
    return process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as elsewhere")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_asked_to_end_finishes_what_is_begun(run, model, photos, tmp_path, number):
    process = started(model, photos, tmp_path / "out", 0.15)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    done = len(rows(tmp_path / "out"))
    assert 2 <= done < 6
    assert err.splitlines() == [
        "onnxcam: finishes what is begun; once more ends at once",
        f"onnxcam: stopped: {done} of 6 pictures are done; the same command with --resume goes on",
    ]
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (told["complete"], told["counts"]["explained"]) == (False, done)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert run("batch", model, photos, "-o", tmp_path / "out", *FEW, "--resume").code == 0
    assert [r["index"] for r in rows(tmp_path / "out")] == list(range(6))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals to hang up here")
def test_what_is_ignored_stays_ignored(model, photos, tmp_path):
    """As under nohup."""
    process = started(model, photos, tmp_path / "out", 0.15, signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as elsewhere")
def test_a_job_that_is_asked_twice_ends_at_once(run, model, photos, tmp_path):
    process = started(model, photos, tmp_path / "out", 60)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "once more ends at once" in process.stderr.readline()
    time.sleep(0.6)  # sooner, it would be the same request
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "onnxcam: ended at once: 2 of 6 pictures are done; the same command with --resume goes on\n"
    assert len(rows(tmp_path / "out")) == 2
    assert run("batch", model, photos, "-o", tmp_path / "out", *FEW, "--resume").code == 0
    assert [r["index"] for r in rows(tmp_path / "out")] == list(range(6))


def test_another_thread_has_no_signals(model, photos, tmp_path):
    """The command's function may be called from one."""
    import onnxcam.batch

    job = onnxcam.batch.run(model, photos, tmp_path / "out", preprocess="unit")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(command._watched(job, False)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_reader_that_leaves_ends_the_job_which_goes_on_later(run, model, photos, tmp_path):
    arguments = ["batch", str(model), str(photos), "-o", str(tmp_path / "out"), *FEW, "--json"]
    code = SLOW.format(seconds=0.1, begun=str(tmp_path / "begun"))
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) != 0
    assert 1 <= len(rows(tmp_path / "out")) < 6
    assert run("batch", model, photos, "-o", tmp_path / "out", *FEW, "--resume").code == 0
