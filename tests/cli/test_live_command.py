"""`onnxcam live`: a video in, an annotated video, a page or lines of JSON out."""

from __future__ import annotations

import _thread
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from videos import FPS, decoded, facts, scenes, video

from onnxcam import Explainer
from onnxcam.video import Frame

pytestmark = pytest.mark.anyruntime

MODEL = "zoo:shapes-cnn"


@pytest.fixture
def clip(tmp_path):
    return video(tmp_path / "scenes.avi", scenes(13))


def test_an_annotated_video(run, clip, tmp_path):
    out = tmp_path / "out.mp4"
    done = run("live", MODEL, clip, "-o", out, "--threads", "1")
    assert done.code == 0
    height = facts(out)[2][0]
    assert facts(out) == (13, FPS, (height, 112))
    assert done.out.splitlines() == [
        f"{clip}: 13 frames, 13 explained", f"{out}: 13 frames of 112 x {height}, 12.5 a second",
    ]  # fmt: skip
    explainer = Explainer(MODEL, threads=1)
    for found, frame in zip(decoded(out), scenes(13), strict=True):
        want = explainer.explain(frame).overlay().astype(int)
        assert np.abs(found[-112:] - want).mean() < 9  # MPEG-4, where sharp colours meet
        assert np.abs(frame - want).mean() > 25
        assert found[: height - 112].max() > 150
    assert "1 of 13" not in done.err  # quick work shows no progress


def test_a_line_of_json_for_each_explained_frame(run, clip):
    done = run("live", MODEL, clip, "--json", "--every", "5", "--target", "heart", "--threads", "1")
    assert done.code == 0
    explainer = Explainer(MODEL, threads=1)
    want = {k: explainer.explain(scenes(13)[k], "heart") for k in (0, 5, 10)}
    assert done.json == [
        {
            "frame": k, "time": pytest.approx(k / FPS), "class_index": 5, "label": "heart", "score": e.score,
            "probability": None, "blank": False,
        }
        for k, e in want.items()
    ]  # fmt: skip


def test_a_part_of_it_at_another_rate(run, clip, tmp_path):
    done = run("live", MODEL, clip, "-o", tmp_path / "out.webm", "--max-frames", "4", "--fps", "5")
    assert done.code == 0
    assert facts(tmp_path / "out.webm")[:2] == (4, 5.0)


def test_one_frame_is_one(run, clip, tmp_path):
    out = tmp_path / "out.avi"
    done = run("live", MODEL, clip, "-o", out, "--max-frames", "1")
    assert [line.partition(": ")[2].partition(" ")[0::2] for line in done.out.splitlines()] == [
        ("1", "frame, 1 explained"), ("1", f"frame of 112 x {facts(out)[2][0]}, 12.5 a second"),
    ]  # fmt: skip


def test_a_question_goes_with_every_frame(run, clip):
    done = run(
        "live", "zoo:shapes-vqa", clip, "--json", "--max-frames", "1", "--input", "question=is there a red circle"
    )
    want = Explainer("zoo:shapes-vqa", inputs={"question": "is there a red circle"}).explain(scenes(13)[0])
    assert (done.code, done.json[0]["label"]) == (0, want.label)
    assert done.json[0]["score"] == pytest.approx(want.score, rel=1e-4)


def test_options_reach_explainer_and_drawing(run, clip, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefg"))
    explainer = Explainer(MODEL, threads=1)
    layer = explainer.layers[0].name
    done = run(
        "live", MODEL, clip, "--json", "-o", tmp_path / "o.avi", "--method", "layercam", "--layer", layer,
        "--preprocess", "imagenet", "--labels", labels, "--colormap", "bone", "--blend", "1", "--max-frames", "2",
        "--engine", "portable", "--provider", "CPUExecutionProvider",
    )  # fmt: skip
    assert done.code == 0, done.err
    want = Explainer(MODEL, "imagenet", layer, "layercam", labels=labels).explain(scenes(1)[0])
    assert done.json[0]["score"] == pytest.approx(want.score, rel=1e-5)
    assert done.json[0]["label"] in "abcdefg"
    frame = decoded(tmp_path / "o.avi")[0][-112:].astype(int)
    assert np.abs(frame - want.overlay(colormap="bone", blend=1.0)).mean() < 6


def test_a_damaged_file_is_explained_as_far_as_it_goes(run, clip, tmp_path):
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    done = run("live", MODEL, clip, "-o", tmp_path / "out.mp4")
    count = facts(tmp_path / "out.mp4")[0]
    assert (done.code, 4 < count < 10) == (1, True)
    assert f"{clip} is damaged or cut off: {count} of 13 frames could be decoded" in done.err
    assert run("live", MODEL, clip, "--json", "--max-frames", "3").code == 0  # the end was not asked for


def test_what_cannot_start_is_told_before_the_model_is_opened(fails, clip, tmp_path):
    (tmp_path / "empty.avi").touch()
    for arguments, text in [
        ((clip,), "nothing to do: give -o VIDEO"),
        ((clip, "-o", tmp_path / "out.gif"), "must end in .mp4"),
        ((clip, "-o", tmp_path / "gone" / "out.mp4"), "there is no folder"),
        ((clip, "-o", clip), "is the source itself"),
        (("99", "--serve"), "camera 99 cannot be opened"),
        ((tmp_path / "none.mp4", "--serve"), "there is no such file"),
        ((tmp_path / "empty.avi", "--serve"), "cannot be decoded"),
        ((clip, "--serve", "--every", "0"), "--every 0"),
        ((clip, "--serve", "--max-frames", "-1"), "--max-frames -1"),
        ((clip, "--serve", "--fps", "9"), "--fps is the rate of the video written"),
        ((clip, "-o", tmp_path / "out.mp4", "--colormap", "jett"), "did you mean 'jet'"),
    ]:
        assert text in fails("live", tmp_path / "no-model.onnx", *arguments)
    assert "unknown class 'dog'" in fails("live", MODEL, clip, "-o", tmp_path / "out.mp4", "--target", "dog")
    for rate in ("2000", "0"):
        assert "a video has more than 0" in fails("live", MODEL, clip, "-o", tmp_path / "out.mp4", "--fps", rate)
    assert sorted(os.listdir(tmp_path)) == ["empty.avi", "scenes.avi"]


def test_a_video_without_frames(fails, tmp_path):
    empty = video(tmp_path / "zero.avi", [])
    assert "zero.avi holds no frames that can be decoded" in fails("live", MODEL, empty, "-o", tmp_path / "out.mp4")
    assert os.listdir(tmp_path) == ["zero.avi"]


def test_the_commands_of_the_document_run(run, clip, tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "live.md").read_text()
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("onnxcam live zoo:")]
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    clip.rename("scenes.mp4")
    for command in commands:
        assert run(*command, "--max-frames", "3", *(("--port", "0") if "--serve" in command else ())).code == 0
    assert facts(Path("explained.mp4"))[0] == 3


class Camera:
    """Three frames, the second one late; as `open_source` gives them."""

    name, live, fps, count, decoded, trouble = "camera 0", True, 10.0, None, 3, ""

    def __iter__(self):
        return iter(
            [Frame(k, t, pixels) for (k, t), pixels in zip([(0, 0.0), (7, 0.75), (8, 0.78)], scenes(3), strict=True)]
        )

    def close(self):
        pass


def test_a_cameras_video_runs_at_true_speed(run, tmp_path, monkeypatch):
    """Ten frames a second: after 0.75 s the eighth is due; the frame of 0.78 s comes too early for the ninth."""
    monkeypatch.setattr("onnxcam.video.open_source", lambda given: Camera())
    monkeypatch.setattr("onnxcam.cli.progress._BETWEEN", 0)
    done = run("live", MODEL, "0", "-o", tmp_path / "out.avi", "--json")
    assert (done.code, [row["frame"] for row in done.json]) == (0, [0, 7, 8])
    assert re.search(r"^onnxcam: 3, \S+ a second$", done.err, re.M)  # no end is known
    explainer = Explainer(MODEL)
    first, late = (explainer.explain(pixels).overlay().astype(int) for pixels in scenes(2))
    found = [f[-112:] for f in decoded(tmp_path / "out.avi")]
    assert len(found) == 8
    assert np.abs(found[0] - first).mean() < 6
    assert all(np.abs(f - late).mean() < 6 for f in found[1:])


def page(url: str, path: str, body: str | None = None) -> str:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=5)
    connection.request("GET" if body is None else "POST", path, body)
    return connection.getresponse().read().decode()


def test_on_a_page_a_file_goes_round_and_a_class_can_be_chosen(run, clip, monkeypatch):
    told, failures, seen, ended = [], [], [], threading.Event()
    monkeypatch.setattr("onnxcam.cli.live.say", told.append)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def until(wanted) -> dict:
        for _ in range(200):
            time.sleep(0.02)
            url = next((t.split()[1] for t in told if t.startswith("open http")), None)
            state = json.loads(page(url, "/state")) if url else {}
            if state and wanted(state):
                return state
        raise AssertionError("it never came")

    def watch() -> None:
        try:
            first = until(lambda s: s["frame"] > 3)
            url = told[-1].split()[1]
            assert first["target"] == "logit:star"
            choices = json.loads(page(url, "/choices"))
            assert choices[:2] == [["logit:star", "logit:star"], ["0", "circle"]]  # what is explained can be shown
            assert ["5", "heart"] in choices
            page(url, "/target", '{"target": "5"}')
            seen.append(until(lambda s: s["target"] == "5"))
            seen.append(until(lambda s: s["frame"] < seen[0]["frame"]))
            page(url, "/target", '{"target": "logit:star"}')
            until(lambda s: s["target"] == "logit:star")
        except BaseException as error:
            failures.append(error)
        while not ended.is_set():  # Ctrl-C; one that comes at a bad moment may be lost
            _thread.interrupt_main()
            ended.wait(5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run("live", MODEL, clip, "--serve", "--port", "0", "--threads", "1", "--target", "logit:star")
    finally:
        ended.set()
        watcher.join()
    assert not failures, failures
    assert [s["label"] for s in seen] == ["heart", "heart"]
    assert (done.code, told[-1]) == (0, "ended by Ctrl-C")  # as a page is ended
    count = int(re.fullmatch(rf"{clip}: (\d+) frames, \d+ explained\n", done.out)[1])
    assert count > 13  # more than it has


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as Unix has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_frames_so_far(tmp_path, number):
    clip, out = video(tmp_path / "long.avi", scenes(48) * 10), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "onnxcam", "live", MODEL, clip, "-o", out, "--json", "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(5):
            process.stdout.readline()
        assert not out.exists()
        process.send_signal(number)
        lines, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    count = facts(out)[0]
    assert 5 <= count <= 5 + lines.count("\n") + 1 < 100
    assert f"ended by Ctrl-C: {out} holds {count} frames" in errors
    assert sorted(os.listdir(tmp_path)) == ["long.avi", "out.mp4"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as Unix has them")
def test_who_reads_no_more_lines_keeps_the_video_so_far(tmp_path):
    """As `onnxcam live ... --json | head -3`."""
    clip, out = video(tmp_path / "long.avi", scenes(48) * 10), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "onnxcam", "live", MODEL, clip, "-o", out, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    count = facts(out)[0]
    assert (process.returncode, 3 < count < 100) == (1, True)
    assert errors.splitlines()[-1] == f"onnxcam: {out} holds the {count} frames until then"
    assert sorted(os.listdir(tmp_path)) == ["long.avi", "out.mp4"]
