"""Folders full of what is no picture, or is called what no picture should be, and jobs that are killed."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import png
from running import job, left, rows

from onnxcam import Explainer
from onnxcam.errors import ImageError
from onnxcam.image import read_image

pytestmark = pytest.mark.anyruntime

NAMES = ["a b.png", "-rf.png", "a\nb.png", "\rb.png", "\x1b[31mred.png", "<script>alert(1)<\\script>.png",
         "'\"`$(x).png", "\udcff\udc80.png", "\u202egnp.png", "{name}%s.png", "%2e%2e.png", "x.png.overlay.jpg",
         "results.jsonl.png", "n" * 251 + ".png", "\u00e4" * 125 + ".png", "*?[a].png", "\u732b.png", "nul.png",
         " .png"]  # fmt: skip


def bomb(path: Path) -> None:
    """A PNG of 30,000 x 30,000 pixels, in a few bytes."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def no_pictures(folder: Path) -> dict[str, str]:
    """Everything that is no picture, and what is said of it."""
    told = {
        "empty.jpg": "the file is empty",
        "text.jpg": "not a picture in a format that is read",
        "bomb.png": "30000 x 30000 pixels, more than the limit",
        "pipe.jpg": "no ordinary file",
        "broken.jpg": "there is no such file",
        "itself.jpg": "Too many levels of symbolic links",
        "folder.jpg": "a folder, not a picture",
        "cut.jpg": "it is cut off",
        "filled.jpg": "a part of its data is missing",
        "run.jpg": "it is cut off",
        "run.pgm": "its header is damaged",
    }
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("I am a picture.\n" * 100)
    bomb(folder / "bomb.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "folder.jpg").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (folder / "cut.jpg").write_bytes(whole[:3000])
    (folder / "filled.jpg").write_bytes(whole[:3000] + b"\xff\xd9")
    (folder / "run.jpg").write_bytes(whole[:2] + b"\xff" * 1_000_000 + b"\x00")
    (folder / "run.pgm").write_bytes(b"P5" + b" " * 1000 + b"x")
    return told


@pytest.fixture
def zoo_of_horrors(tmp_path) -> tuple[Path, dict[str, str]]:
    folder = tmp_path / "photos"
    for name in NAMES:
        png(folder / name, len(name))
        try:
            png(folder / "in" / name / "a.png", len(name))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
    told = no_pictures(folder)
    (folder / "loop").symlink_to(".")
    (folder / "in" / "loop.jpg").symlink_to("..")
    png(folder / "folder of pictures.png" / "a.png", 1)
    return folder, told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes and links as files here")
def test_each_is_explained_or_one_error(model, zoo_of_horrors, tmp_path):
    folder, told = zoo_of_horrors
    made = job(model, folder, tmp_path / "out", save="overlay,heatmap,json", batch=4)
    found = list(made)
    assert len({r["source"] for r in found}) == len(found)
    wanted = {os.path.join(folder, n) for n in NAMES} | {os.path.join(folder, "in", n, "a.png") for n in NAMES}
    wanted |= {str(folder / "folder of pictures.png" / "a.png")}
    assert {r["source"] for r in found if "error" not in r} == wanted
    errors = {Path(r["source"]).name: r["error"] for r in found if "error" in r}
    assert errors.keys() == told.keys()
    for name, text in told.items():
        assert text in errors[name]
        assert repr(str(folder / name)) in errors[name]
    explainer = Explainer(model, preprocess="unit")
    for row in (r for r in found if "error" not in r):
        assert row["score"] == pytest.approx(explainer.explain(row["source"]).score, abs=1e-6)
        assert all((tmp_path / "out" / f).is_file() for f in row["files"].values())
    files = [f for r in found for f in r.get("files", {}).values()]
    assert len(set(files)) == len(files) == 3 * len(wanted)
    assert list(job(model, folder, tmp_path / "out", save="overlay,heatmap,json", batch=4, resume=True)) == []


@pytest.mark.real
def test_odd_files_of_other_people(model, real_zoo, tmp_path):
    """Each is explained, as it is alone, or one error: the one that reading it raises."""
    made = job(model, real_zoo / "odd", tmp_path / "out", batch=4)
    found = list(made)
    assert [r["name"] for r in found] == sorted(os.listdir(real_zoo / "odd"))
    explainer = Explainer(model, preprocess="unit")
    for row in found:
        if "error" in row:
            with pytest.raises(ImageError, match=f"^{re.escape(row['error'])}$"):
                read_image(row["source"])
        else:
            assert row["score"] == pytest.approx(explainer.explain(row["source"]).score, abs=1e-5)
    assert made.counts["errors"] == 8
    assert "it is cut off" in next(r["error"] for r in found if r["name"] == "truncated_jpeg.jpg")


JOB = """
import sys, onnxcam.batch
options = dict(preprocess="unit", workers=2, batch=2, save="overlay,heatmap,box", resume=True)
onnxcam.batch.run(*sys.argv[1:], **options).finish()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_job_that_is_killed_again_and_again_ends_like_one_that_is_not(model, tmp_path):
    """By SIGKILL, in the middle of its work; benchmarks/batch_kill.py does it more often, and at other moments."""
    for k in range(90):
        png(tmp_path / "photos" / "abc"[k % 3] / f"{k:03}.png", k, 90, 120)
    (tmp_path / "photos" / "c" / "bad.png").write_bytes(b"")
    out, arguments = tmp_path / "out", [str(model), str(tmp_path / "photos")]
    job(*arguments, tmp_path / "whole", save="overlay,heatmap,box").finish()
    seen = []
    for least in (1, 21, 51):
        process = subprocess.Popen([sys.executable, "-c", JOB, *arguments, str(out)])
        while process.poll() is None and _lines(out) < least:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        seen.append(_lines(out))
    assert 0 < seen[0] < seen[1] < seen[2] < 91
    subprocess.run([sys.executable, "-c", JOB, *arguments, str(out)], check=True)
    assert [r["index"] for r in rows(out)] == list(range(91))
    assert left(out) == left(tmp_path / "whole")


def _lines(out: Path) -> int:
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
