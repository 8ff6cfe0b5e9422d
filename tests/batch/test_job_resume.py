"""Jobs that go on: elsewhere, with other weights or options, without their pictures; and who owns the folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import classifier
from running import job, left, rows

from onnxcam.batch import job as jobs
from onnxcam.batch import lock as locks
from onnxcam.batch.lock import Lock
from onnxcam.batch.plan import Plan
from onnxcam.batch.report.cards import Painter
from onnxcam.batch.settings import Saving, Settings
from onnxcam.errors import ImageError, OptionError, OutputError
from onnxcam.model import load_model

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def beside(tmp_path) -> Path:
    """A model whose weights lie in a file beside it."""
    path = tmp_path / "beside.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="beside.data", size_threshold=0)
    return path


def untold(found: dict[str, object]) -> list[dict]:
    """The rows, without what only some sources tell."""
    return [{**row, "truth": None} for row in found["results.jsonl"]]


# ---- The same job, or another ----


def test_weights_beside_the_model_are_part_of_it(beside, photos, tmp_path):
    out = tmp_path / "out"
    next(iter(job(beside, photos, out)))
    told = json.loads((out / "run.json").read_text())["configuration"]
    data = tmp_path / "beside.data"
    good = data.read_bytes()
    assert len(told["weights_sha256"]) == 1
    (np.frombuffer(good, np.float32) * 0.5).astype(np.float32).tofile(data)
    with pytest.raises(
        OptionError, match=rf"\(weights_sha256: .*{told['weights_sha256'][0][:40]}.*, now [^;]*\): resume"
    ):
        job(beside, photos, out, resume=True)
    data.write_bytes(good)
    assert job(beside, photos, out, resume=True).finish()["explained"] == 11


def test_a_hash_of_weights_is_that_of_each_file_of_each_model(beside, model):
    data = beside.with_name("beside.data").resolve()
    assert load_model(beside).weights == (data,)
    plain = Settings(str(model), {"preprocess": "unit"})
    assert plain.configuration(plain.explainer())["weights_sha256"] == []


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"save": "overlay"}, {"heatmap_format": "npy", "threshold": 0.3}),
        ({"save": "box"}, {"colormap": "turbo", "blend": 0.1, "style": "add", "title": True, "image_format": "png"}),
        ({"save": "overlay,box"}, {"save": ["box", "overlay", "box"]}),
        ({"save": "panel"}, {"title": True}),
        ({}, {"target": "top1"}),
    ],
)
def test_what_changes_nothing_is_no_other_job(model, photos, tmp_path, first, then):
    next(iter(job(model, photos, tmp_path / "out", **first)))
    job(model, photos, tmp_path / "out", resume=True, **{**first, **then}).finish()
    job(model, photos, tmp_path / "one", **first).finish()
    mine, other = left(tmp_path / "out"), left(tmp_path / "one")
    assert mine.pop("run.json")["configuration"] == other.pop("run.json")["configuration"]
    assert mine == other


def test_what_matters_is_what_the_kept_files_depend_on():
    every = {"image": "png", "heatmap": "npy", "colormap": "turbo", "blend": 0.1, "style": "add", "title": True}
    every |= {"threshold": 0.5}
    for kind, names in (
        ("overlay", {"image", "colormap", "blend", "style", "title"}),
        ("panel", {"image", "colormap", "blend", "style"}),
        ("heatmap", {"heatmap"}),
        ("box", {"threshold"}),
        ("raw", set()),
        ("json", set()),
    ):
        told = Saving((kind,), **every).effective
        assert told == {"kinds": (kind,), **{name: every[name] if name in names else None for name in every}}


def test_a_report_paints_as_the_job_was_asked_to_even_where_no_file_does(model, photos, tmp_path):
    job(model, photos, tmp_path / "out", save="json", colormap="turbo").finish()
    assert Painter.of(tmp_path, json.loads((tmp_path / "out" / "run.json").read_text())).colormap == "turbo"


def test_a_job_goes_on_from_another_folder(model, photos, tmp_path, whole, monkeypatch):
    """Neither what is left of it nor the source is looked for where it is not."""
    for source in ("photos", "./photos/", "photos/**/*.png", "list.txt"):
        monkeypatch.chdir(tmp_path)
        Path("list.txt").write_text("".join(f"{p.relative_to(tmp_path)}\n" for p in photos.glob("*/*")))
        next(iter(job(model, source, Path("out"))))
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        job(model, tmp_path / source, Path("../out"), resume=True).finish()
        assert untold(left(tmp_path / "out")) == untold(whole)
        assert {r["source"] for r in rows(tmp_path / "out")} == {str(p) for p in photos.glob("*/*")}
        shutil.rmtree(tmp_path / "out")


def test_paths_are_known_again_in_whatever_order_they_come(model, photos, tmp_path):
    """And however they come: in a list, or one by one."""
    paths = sorted(photos.glob("*/*"))
    next(iter(job(model, (p for p in paths), tmp_path / "out")))
    with pytest.raises(OptionError, match=r"is about '11 paths \((\w{12})\)', not '11 paths \((?!\1)\w{12}\)'"):
        job(model, (p for p in [*paths[:-1], photos / "none.png"]), tmp_path / "out", resume=True)
    with pytest.raises(OptionError, match=r"not '10 paths"):
        job(model, iter(paths[1:]), tmp_path / "out", resume=True)
    assert job(model, paths[::-1], tmp_path / "out", resume=True).finish()["explained"] == 11
    assert list(job(model, map(str, paths), tmp_path / "out", resume=True)) == []


def test_long_values_are_shown_from_where_they_part(tmp_path):
    before = {"a": {"b": ["x" * 100, "one"], "c": 1}, "d": {}, "e": "same"}
    now = {"a": {"b": ["x" * 100, "two"], "c": 1}, "d": {"f": None, "g": 2}, "e": "same"}
    with pytest.raises(OptionError) as caught:
        Plan(tmp_path, "p", before, 1, 1).check(now, "p")
    told = re.search(r"started otherwise \((.*)\): resume", str(caught.value))[1]
    assert told == f'a.b: ...{"x" * 16}", "one"], now ...{"x" * 16}", "two"]; d.g: null, now 2'


def test_other_versions_are_told_where_something_is_left(model, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    next(iter(job(model, photos, out)))
    assert job(model, photos, out, resume=True).notices == []
    real = jobs.provenance

    def newer(*given):
        told = real(*given)
        return {**told, "versions": {**told["versions"], "onnxruntime": "99.0"}}

    monkeypatch.setattr(jobs, "provenance", newer)
    going = job(model, photos, out, resume=True)
    (notice,) = going.notices
    assert re.search(
        r"begun with onnxcam \S+ and ONNX Runtime 1\.\S+, and goes on with .*Runtime 99\.0: .*last digits", notice
    )
    going.finish()
    assert job(model, photos, out, resume=True).notices == []  # nothing is left to do


# ---- Pictures that are gone ----


@pytest.mark.parametrize("source", ["photos/**/*.png", "list.txt", "paths"])
def test_all_pictures_gone_stop_a_job_whatever_named_them(model, photos, tmp_path, whole, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    paths = sorted(photos.glob("*/*"))
    Path("list.txt").write_text("".join(f"{p}\n" for p in paths))
    given = paths if source == "paths" else source
    work = job(model, given, tmp_path / "out", workers=1)
    steps = iter(work)
    next(steps)
    photos.rename(tmp_path / "away")
    with pytest.raises(ImageError, match=rf"pictures in '{photos}' are gone.*2 of 11 pictures are done: bring it back"):
        list(steps)
    (tmp_path / "away").rename(photos)
    job(model, given, tmp_path / "out", resume=True).finish()
    assert untold(left(tmp_path / "out")) == untold(whole)


def test_a_disk_among_several_that_is_taken_out_stops_a_job(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    shutil.rmtree(photos / "b")
    (photos / "b").mkdir()  # where it was mounted
    with pytest.raises(ImageError, match=rf"pictures in '{photos}/b' are gone.*6 of 11 pictures are done"):
        work.finish()


def test_a_folder_that_is_deleted_and_lines_that_never_were_do_not_stop_a_job(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    shutil.rmtree(photos / "b")
    assert work.finish() == {"explained": 6, "errors": 5, "flagged": 0}
    lines = [tmp_path / "nowhere" / f"{k}.png" for k in range(5)]
    assert job(model, lines, tmp_path / "none").finish() == {"explained": 0, "errors": 5, "flagged": 0}


# ---- The folder ----


@pytest.mark.parametrize("mine", [True, False])
def test_what_others_put_into_the_folder_stays(model, photos, tmp_path, monkeypatch, mine):
    """Also where the job made the folder itself, and then cannot start."""
    out = tmp_path / "out"
    if not mine:
        out.mkdir()
    real = jobs.read_plan

    def meanwhile(folder):
        (out / "notes.txt").write_text("mine")
        (out / ".onnxcam" / "notes.txt").write_text("mine, too")
        return real(folder)

    monkeypatch.setattr(jobs, "read_plan", meanwhile)
    with pytest.raises(ImageError, match="no pictures"):
        job(model, photos.parent / "nothing*.png", out)
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {"notes.txt", ".onnxcam/notes.txt"}


def test_a_job_that_cannot_start_takes_nothing_from_one_that_did(model, photos, tmp_path, monkeypatch):
    """Both find no folder; the other one has its plan once this one holds the lock."""
    out, real = tmp_path / "out", jobs.Lock

    def late(path):
        monkeypatch.setattr(jobs, "Lock", real)
        next(iter(job(model, photos, out)))
        return real(path)

    monkeypatch.setattr(jobs, "Lock", late)
    with pytest.raises(OptionError, match="holds a job already"):
        job(model, photos, out)
    assert job(model, photos, out, resume=True).finish()["explained"] == 11


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path, monkeypatch):
    """Whoever held it has removed the folder, and another may have made its own between opening and locking."""
    path, real = tmp_path / "lock", locks._take

    def late(file):
        path.unlink()
        path.write_bytes(b"process 7")
        real(file)

    monkeypatch.setattr(locks, "_take", late)
    with pytest.raises(OutputError, match="another job works in"):
        Lock(path)
    assert path.read_bytes() == b"process 7"
    monkeypatch.setattr(locks, "_take", real)
    Lock(path).release()


def test_leaving_a_with_statement_lets_the_folder_go(model, photos, tmp_path, whole):
    with job(model, photos, tmp_path / "out") as work:
        steps = iter(work)  # which somebody keeps, as a traceback does
        next(steps)
    job(model, photos, tmp_path / "out", resume=True).finish()
    assert left(tmp_path / "out") == whole
    assert list(steps) == []


@pytest.mark.parametrize(
    ("option", "close"),
    [({"metod": "layercam"}, "'method'"), ({"colourmap": "jet"}, "'colormap'"), ({"resum": True}, "'resume'")],
)
def test_an_option_that_is_none_is_told_with_those_close_to_it(model, photos, tmp_path, option, close):
    with pytest.raises(OptionError, match=f"unknown option '{next(iter(option))}'; did you mean .*{close}"):
        job(model, photos, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()
