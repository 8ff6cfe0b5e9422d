"""Jobs that are stopped, resumed, refused, or lose what they work on."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from builders import classifier, write
from running import job, left, rows

import onnxcam.batch
from onnxcam.batch.manifest import Manifest, read_rows
from onnxcam.errors import GradientError, ImageError, ModelError, OptionError, OutputError

pytestmark = pytest.mark.anyruntime

# ---- Stopped and resumed ----


@pytest.mark.parametrize("left_by", ["break", "full disk"])
def test_the_folder_is_let_go_only_once_nobody_writes_there(model, photos, tmp_path, monkeypatch, left_by):
    out, work, ended = tmp_path / "out", job(model, photos, tmp_path / "out"), []
    group = work._work.group
    if left_by == "full disk":
        refusals = iter([None, OSError(28, "No space left on device")])
        real = Manifest._write

        def write(self, data):
            if why := next(refusals, None):
                raise why
            real(self, data)

        monkeypatch.setattr(Manifest, "_write", write)

    def slow(items):
        time.sleep(0.1 if items[0].index else 0)
        ended.append((work._lock.held, (out / ".onnxcam" / "tmp").is_dir()))
        return group(items)

    work._work.group = slow
    with pytest.raises(OutputError) if left_by == "full disk" else nullcontext():
        for row in work:
            if row["index"] == 2:
                break
    time.sleep(0.3)  # for those who would end later
    assert len(ended) > 2
    assert set(ended) == {(True, True)}
    assert not work._lock.held


@pytest.mark.parametrize("after", [1, 2, 5, 10])
def test_a_loop_that_is_left_early_goes_on_later(model, photos, tmp_path, whole, after):
    out = tmp_path / "out"
    for k, _ in enumerate(job(model, photos, out), 1):
        if k == after:
            break
    done = rows(out)
    assert after <= len(done) < 11
    assert not (out / ".onnxcam" / "tmp").exists()
    again = job(model, photos, out, resume=True)
    assert again.done == len(done)
    new = list(again)
    assert [r["index"] for r in [*done, *new]] == list(range(11))  # nothing twice, nothing lost
    assert left(out) == whole
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert [s["explained"] for s in sessions] == [len(done), len(new)]


def test_a_job_that_is_told_to_stop_finishes_what_is_begun(model, photos, tmp_path, whole):
    out, begun, work = tmp_path / "out", [], job(model, photos, tmp_path / "out")
    group = work._work.group
    work._work.group = lambda items: (begun.extend(i.index for i in items), group(items))[1]
    told = []
    for row in work:
        told.append(row["index"])
        if row["index"] == 3:
            work.stop()
    assert told == sorted(begun) == [r["index"] for r in rows(out)]
    assert 4 <= len(told) < 11
    assert not work.complete
    job(model, photos, out, resume=True).finish()
    assert left(out) == whole


def test_a_job_that_was_stopped_before_it_began_does_nothing(model, photos, tmp_path, whole):
    work = job(model, photos, tmp_path / "out")
    work.stop()
    assert list(work) == []
    assert job(model, photos, tmp_path / "out", resume=True).finish()["explained"] == 11
    assert left(tmp_path / "out") == whole


def test_resuming_what_is_not_begun_begins_it_and_what_is_done_does_nothing(model, photos, tmp_path, whole):
    out = tmp_path / "out"
    assert len(list(job(model, photos, out, resume=True))) == 11
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*.overlay.jpg")}
    assert list(job(model, photos, out, resume=True)) == []
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.overlay.jpg")} == kept
    assert left(out) == whole


def test_what_was_lost_is_made_again(model, photos, tmp_path, whole):
    """Files deleted or cut short, a torn manifest, tables gone, temporary files left by a kill."""
    out = tmp_path / "out"
    job(model, photos, out).finish()
    (out / "a" / "00.png.overlay.jpg").unlink()
    (out / "b" / "05.png.overlay.jpg").write_bytes(b"short")
    (out / "results.jsonl").write_bytes((out / "results.jsonl").read_bytes()[:-100])
    (out / "results.csv").unlink()
    (out / "boxes.json").write_bytes(b"{")
    (out / ".onnxcam" / "tmp").mkdir()
    (out / ".onnxcam" / "tmp" / ".0123.part").write_bytes(b"x" * 1000)
    again = {r["index"] for r in job(model, photos, out, resume=True)}
    assert again == {0, 8, 10}
    assert left(out) == whole


def test_a_job_is_run_once(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    work.finish()
    with pytest.raises(OptionError, match="run already: make another one with resume"):
        work.finish()
    assert len(rows(tmp_path / "out")) == 11


def test_a_loop_that_fails_keeps_the_folder_until_it_is_closed(model, photos, tmp_path, whole):
    """As where a notebook shows the traceback: the loop is never left."""
    work = job(model, photos, tmp_path / "out")
    steps = iter(work)
    next(steps)
    with pytest.raises(OutputError, match="another job works"):
        job(model, photos, tmp_path / "out", resume=True)
    work.close()
    job(model, photos, tmp_path / "out", resume=True).finish()
    assert left(tmp_path / "out") == whole


# ---- Refused ----


def test_a_folder_with_a_job_is_not_begun_again(model, photos, tmp_path):
    job(model, photos, tmp_path / "out").finish()
    before = left(tmp_path / "out")
    with pytest.raises(OptionError, match=r"holds a job already, 11 of 11 pictures done: go on with resume"):
        job(model, photos, tmp_path / "out")
    assert left(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "layercam"}, r'method: "gradcam", now "layercam"'),
        ({"target": "2"}, r'target: null, now "2"'),
        ({"batch": 3}, "batch: 2, now 3"),
        ({"preprocess": "raw"}, r'preprocess.name: "unit", now "raw"; preprocess.scale: 0.0039\d+, now 1.0'),
        ({"target_layer": "relu1"}, r'layers: \["relu2"\], now \["relu1"\]'),
        ({"labels": ["a", "b", "c", "d"]}, "labels_sha256: null, now"),
        ({"colormap": "turbo"}, r'saving.colormap: null, now "turbo"'),
        ({"save": "box"}, r'saving.kinds: \["overlay", "box"\], now \["box"\]; saving.image: "jpg", now null'),
        ({"max_pixels": 1000}, "max_pixels: 178956970, now 1000"),
        ({"normalize": "none"}, r'normalize: "max", now "none"'),
    ],
)
def test_another_configuration_is_refused_with_what_differs(model, photos, tmp_path, options, told):
    next(iter(job(model, photos, tmp_path / "out")))
    before = left(tmp_path / "out")
    with pytest.raises(OptionError, match=f"was started otherwise .*{told}.*resume it as it was started"):
        job(model, photos, tmp_path / "out", resume=True, **options)
    assert left(tmp_path / "out") == before


def test_another_model_and_another_source_are_refused_but_not_other_threads(model, photos, tmp_path):
    next(iter(job(model, photos, tmp_path / "out")))
    other = write(tmp_path / "other.onnx", classifier(seed=1))
    with pytest.raises(OptionError, match="model_sha256"):
        job(other, photos, tmp_path / "out", resume=True)
    with pytest.raises(OptionError, match=r"is about '.*photos', not '.*photos/a'"):
        job(model, photos / "a", tmp_path / "out", resume=True)
    assert job(model, photos, tmp_path / "out", resume=True, workers=1, threads=2).finish()["explained"] == 11
    first, *others = sorted(photos.glob("*/*"))
    job(model, [first, *others], tmp_path / "list").finish()
    with pytest.raises(OptionError, match=r"is about '11 paths \(.*\)', not '10 paths \("):
        job(model, others, tmp_path / "list", resume=True)
    assert list(job(model, [first, *others], tmp_path / "list", resume=True)) == []


def test_errors_are_tried_again_where_asked(model, photos, tmp_path, whole):
    good = (photos / "a" / "04.png").read_bytes()
    (photos / "a" / "04.png").write_bytes(b"")
    out = tmp_path / "out"
    assert job(model, photos, out).finish() == {"explained": 10, "errors": 1, "flagged": 0}
    assert job(model, photos, out, resume=True).finish()["errors"] == 1
    (photos / "a" / "04.png").write_bytes(good)
    again = job(model, photos, out, resume=True, retry_errors=True)
    assert [r["index"] for r in again] == [2]
    assert again.counts["errors"] == 0
    mended = left(out)
    assert [{**r, "warnings": []} for r in mended["results.jsonl"]] == whole["results.jsonl"]
    assert rows(out)[2]["warnings"] == ["the file has changed since the job was planned"]


@pytest.mark.parametrize("how", ["gone", "unreadable", "killed", "stopped"])
def test_trying_again_takes_nothing_away(model, photos, tmp_path, whole, how):
    """Whatever happens to it: good rows and files stay, and failed ones stay failed until they have new rows."""
    out, bad = tmp_path / "out", [photos / "a" / "04.png", photos / "b" / "07.png"]
    good = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"")
    job(model, photos, out).finish()
    before = left(out)
    if how == "gone":
        photos.rename(tmp_path / "away")
        with pytest.raises(ImageError, match=r"are gone.*9 of 11 pictures are done"):
            job(model, photos, out, resume=True, retry_errors=True).finish()
        (tmp_path / "away").rename(photos)
    elif how == "unreadable":
        for path in sorted(photos.glob("*/*")):
            path.write_bytes(b"")
        assert job(model, photos, out, resume=True, retry_errors=True).finish()["errors"] == 2
    else:
        for path, data in zip(bad, good, strict=True):
            path.write_bytes(data)
        work = job(model, photos, out, resume=True, retry_errors=True, workers=1)
        assert work.done == 9
        steps = iter(work)
        assert next(steps)["index"] == 2
        work.stop() if how == "stopped" else steps.close()
        assert list(steps) == []
        assert not json.loads((out / "run.json").read_text())["complete"]
        assert len(rows(out)) == 12
        assert len(list(read_rows(out / "results.jsonl"))) == 11
    assert {name: data for name, data in left(out).items() if name.startswith(("a/", "b/"))}.items() >= {
        name: data for name, data in before.items() if name.startswith(("a/", "b/"))
    }.items()
    again = job(model, photos, out, resume=True)
    assert again.finish() == {
        "explained": 9 + (how in ("killed", "stopped")),
        "errors": 2 - (how in ("killed", "stopped")),
        "flagged": again.counts["flagged"],
    }
    assert [r["index"] for r in rows(out)] == list(range(11))
    mended = {r["index"]: r for r in left(out)["results.jsonl"]}
    for row in before["results.jsonl"]:
        assert "error" in row or mended[row["index"]] == row


def test_what_fails_now_leaves_no_file_of_a_run_that_was_killed(model, photos, tmp_path):
    out = tmp_path / "out"
    job(model, photos, out, save="overlay,heatmap").finish()
    (out / "results.jsonl").unlink()  # killed before the rows were written
    (photos / "a" / "04.png").unlink()
    job(model, photos, out, save="overlay,heatmap", resume=True).finish()
    assert [p.name for p in (out / "a").glob("04*")] == []
    assert len(list(out.rglob("*.png.*"))) == 20


def test_one_job_at_a_time(model, photos, tmp_path):
    """In this process and in another one, which says who holds the folder; the first is not harmed."""
    out = tmp_path / "out"
    steps = iter(job(model, photos, out))
    next(steps)
    options = "preprocess='unit', batch=2, save='overlay,box', resume=True"
    code = f"import sys, onnxcam.batch; onnxcam.batch.run(*sys.argv[1:], {options})"
    arguments = [str(model), str(photos), str(out)]
    other = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert f"another job works in {str(out)!r} (process {os.getpid()} on" in other.stderr
    assert len(list(steps)) == 10
    assert len(rows(out)) == 11
    assert subprocess.run([sys.executable, "-c", code, *arguments], timeout=60).returncode == 0


def test_what_cannot_start_leaves_nothing_behind(model, photos, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.onnx").write_bytes(b"no model")
    for arguments, kind in (
        ((model, tmp_path / "empty", out), ImageError),
        ((model, tmp_path / "nowhere", out), ImageError),
        ((tmp_path / "no.onnx", photos, out), ModelError),
        ((model, photos, photos), OptionError),
        ((model, photos, tmp_path), OptionError),
    ):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with pytest.raises(kind):
            job(*arguments)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert not out.exists()
        assert not (tmp_path / ".onnxcam").exists()


@pytest.mark.parametrize("name", ["results.jsonl", "results.csv", "run.json", "boxes.json", "report.html"])
def test_what_lies_in_the_folder_is_not_written_over(model, photos, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    (out / "notes.txt").write_text("mine, too")
    with pytest.raises(OptionError, match=f"{name}' is there already.*choose another folder"):
        job(model, photos, out, resume=True)
    assert {p.name: p.read_text() for p in out.iterdir()} == {name: "mine", "notes.txt": "mine, too"}


def test_a_model_that_cannot_be_explained_leaves_nothing_behind(model, photos, tmp_path, monkeypatch):
    def fails(self, pictures, target=None, inputs=None):
        raise GradientError("no gradient")

    monkeypatch.setattr("onnxcam.Explainer.explain_prepared", fails)
    with pytest.raises(GradientError, match="no gradient"):
        job(model, photos, tmp_path / "out").finish()
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_be_explained_is_an_error_of_its_line(model, photos, tmp_path, monkeypatch):
    real = onnxcam.Explainer.explain_prepared

    def fails(self, pictures, target=None, inputs=None):
        if target == "2":
            raise GradientError("no gradient")
        return real(self, pictures, target, inputs)

    monkeypatch.setattr("onnxcam.Explainer.explain_prepared", fails)
    table = tmp_path / "table.csv"
    table.write_text("path,target\n" + "".join(f"{p},{k % 4}\n" for k, p in enumerate(sorted(photos.glob("*/*")))))
    assert job(model, table, tmp_path / "out").finish() == {"explained": 8, "errors": 3, "flagged": 0}


def test_whatever_goes_wrong_with_a_picture_is_about_that_picture(model, photos, tmp_path, monkeypatch):
    """Even what nobody foresaw; in a group, the others are explained."""
    real = onnxcam.Explainer.explain_prepared
    odd: set[bytes] = set()

    def fails(self, pictures, target=None, inputs=None):
        if any(p.tensor.tobytes() in odd for p in pictures):
            raise ZeroDivisionError("division by zero")
        return real(self, pictures, target, inputs)

    explainer = onnxcam.Explainer(model, preprocess="unit")
    odd.add(explainer.prepare(photos / "a" / "02.png").tensor.tobytes())
    monkeypatch.setattr("onnxcam.Explainer.explain_prepared", fails)
    made = job(model, photos, tmp_path / "out")
    made.finish()
    (bad,) = [r for r in rows(tmp_path / "out") if "error" in r]
    assert (bad["name"], bad["error"]) == ("a/02.png", "unexpected ZeroDivisionError: division by zero")
    assert made.counts["explained"] == 10


@pytest.mark.parametrize("broken", ["onnxcam.explanation.Explanation.boxes", "onnxcam.batch.work._grid",
                                    "onnxcam.explanation.Explanation.to_dict", "onnxcam.doctor.Watch.see"])  # fmt: skip
def test_what_goes_wrong_after_the_files_were_written_is_about_that_picture_too(
    model, photos, tmp_path, whole, monkeypatch, broken
):
    """One picture needs more memory than there is; it leaves no files, and the job goes on."""
    odd = onnxcam.Explainer(model, preprocess="unit").explain(photos / "a" / "02.png").image.tobytes()
    place, name = broken.rsplit(".", 1)
    owner = pkgutil.resolve_name(place)
    real = getattr(owner, name)

    def fails(*given, **options):
        if any(e.image.tobytes() == odd for e in given if isinstance(e, onnxcam.Explanation)):
            raise MemoryError
        return real(*given, **options)

    monkeypatch.setattr(owner, name, fails)
    out = tmp_path / "out"
    assert job(model, photos, out).finish() == {"explained": 10, "errors": 1, "flagged": 0}
    (bad,) = [r for r in rows(out) if "error" in r]
    assert (bad["name"], bad["kind"]) == ("a/02.png", "MemoryError")
    assert bad["error"].startswith("out of memory")
    assert list(bad["timings"]) == ["read", "explain", "write"]
    assert len(bad["sha256"]) == 64
    assert list((out / "a").glob("02*")) == []
    monkeypatch.undo()
    job(model, photos, out, resume=True, retry_errors=True).finish()
    assert left(out) == whole


# ---- Several threads ----


def test_what_suspects_the_preprocessing_sees_one_explanation_at_a_time(model, photos, tmp_path, monkeypatch):
    inside, most = [], []

    def see(self, found):
        inside.append(found)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()

    monkeypatch.setattr("onnxcam.doctor.Watch.see", see)
    job(model, photos, tmp_path / "out", workers=5, batch=1).finish()
    assert most == [1] * 11


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ({"workers": 2}, 4),
        ({"workers": 3}, 2),
        ({"workers": 20}, 1),
        ({"workers": None}, 1),
        ({"workers": 2, "threads": 7}, 7),
    ],
)
def test_the_cores_are_shared_among_the_workers(model, photos, tmp_path, monkeypatch, options, threads):
    monkeypatch.setattr("onnxcam.batch.local.cores", lambda: 8)
    work = job(model, photos, tmp_path / "out", **options)
    assert work.settings.options["threads"] == threads
    assert work.workers == (options["workers"] or 8)
    work.close()
