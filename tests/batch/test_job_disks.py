"""Disks that are full, read-only or gone, and pictures that are not what they were when the job was planned."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import png
from running import job, left, rows

from onnxcam import files
from onnxcam.batch import manifest as manifests
from onnxcam.errors import ImageError, OutputError

pytestmark = pytest.mark.anyruntime


def parts(out: Path) -> list[str]:
    """What is left of files that were not finished."""
    return [str(p.relative_to(out)) for p in out.rglob("*.part")]


@pytest.mark.parametrize("name", ["a/06.png.overlay.jpg", "a/00.png.overlay.jpg", "results.csv", "boxes.json"])
def test_a_disk_that_is_full_stops_the_job_which_goes_on_later(model, photos, tmp_path, whole, full_disk, name):
    out, work = tmp_path / "out", job(model, photos, tmp_path / "out")
    full_disk(name)
    with pytest.raises(OutputError, match=r"No space left on device\. \d+ of 11 pictures are done: make room or mend"):
        work.finish()
    full_disk("")
    assert parts(out) == []
    assert not (out / ".onnxcam" / "tmp").exists()
    done = [r["index"] for r in rows(out)]
    assert done == list(range(len(done)))
    assert (len(done) == 11) == (name in ("results.csv", "boxes.json"))
    job(model, photos, out, resume=True).finish()
    assert left(out) == whole


@pytest.mark.parametrize("taken", [0, 1, 300])
@pytest.mark.parametrize("name", ["a/06.png.overlay.jpg", "a/00.png.overlay.jpg"])
def test_a_disk_that_is_full_in_the_middle_of_a_picture_takes_none_of_it(
    model, photos, tmp_path, whole, monkeypatch, name, taken
):
    """A part of it is written before the disk is full."""
    out, real = tmp_path / "out", files.whole

    class Short:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:taken])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def short(path, *rest, **options):
        with real(path, *rest, **options) as file:
            yield Short(file) if path == out / name else file

    monkeypatch.setattr("onnxcam.batch.work.whole", short)
    with pytest.raises(
        OutputError, match=rf"{name}': No space left on device\. \d+ of 11 pictures are done: make room"
    ):
        job(model, photos, out).finish()
    monkeypatch.undo()
    assert parts(out) == []
    assert not (out / name).exists()
    assert not any(name in r["files"].values() for r in rows(out))
    job(model, photos, out, resume=True).finish()
    assert left(out) == whole


@pytest.mark.parametrize("taken", [0, 1, 700])
def test_a_disk_that_is_full_for_rows_takes_none_of_a_group(model, photos, tmp_path, whole, monkeypatch, taken):
    """A part of a line is written before the disk is full."""
    out, real, calls = tmp_path / "out", manifests.Manifest._write, []

    def write(self, data):
        calls.append(data)
        if len(calls) == 3:
            self._file.write(data[:taken])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    monkeypatch.setattr(manifests.Manifest, "_write", write)
    with pytest.raises(OutputError, match=r"results\.jsonl': No space left on device\. 4 of 11 pictures are done"):
        job(model, photos, out).finish()
    assert (out / "results.jsonl").read_bytes() == b"".join(calls[:2])
    job(model, photos, out, resume=True).finish()
    assert left(out) == whole


@pytest.mark.parametrize("name", ["plan.jsonl", "plan.json", "run.json"])
def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(model, photos, tmp_path, full_disk, name):
    full_disk(name)
    with pytest.raises(OutputError, match="No space left on device"):
        job(model, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="No space left on device"):
        job(model, photos, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").rglob("*")] == ["notes.txt"]


@pytest.fixture
def mounted(tmp_path) -> Iterator[Path]:
    """A file system of 200 kB."""
    place = tmp_path / "mounted"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here: no small disk")
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_small_disk_fills_up(model, photos, tmp_path, whole, mounted):
    """A real one, filled to different degrees: wherever it is full, the job goes on once there is room."""
    told: list[str] = []
    for free in range(8, 120, 12):
        out = mounted / "out"
        ballast = mounted / "ballast"
        ballast.write_bytes(b"x" * ((200 - free) << 10))
        try:
            job(model, photos, out).finish()
        except OutputError as error:
            told.append(str(error))
        assert parts(mounted) == []
        ballast.unlink()
        job(model, photos, out, resume=True).finish()
        assert left(out) == whole
        shutil.rmtree(out)
    assert len(told) > 3
    assert all("No space left on device" in text for text in told)


def test_a_disk_that_cannot_be_written(model, photos, tmp_path, whole, mounted):
    next(iter(job(model, photos, mounted / "out")))
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    for place, resume in ((mounted / "out", True), (mounted / "other", False), (mounted / "deep" / "er", False)):
        with pytest.raises(OutputError, match="cannot write"):
            job(model, photos, place, resume=resume)
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    job(model, photos, mounted / "out", resume=True).finish()
    assert left(mounted / "out") == whole


def test_a_file_in_the_place_of_the_folder(model, photos, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write to the folder .*out: File exists; choose another"):
        job(model, photos, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_below_links_that_go_round(model, photos, tmp_path):
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OutputError, match=r"cannot write to the folder .*: Too many levels of symbolic links"):
        job(model, photos, tmp_path / "round" / "out")


def test_a_file_in_the_place_of_a_folder_of_pictures_fails_these(model, photos, tmp_path, whole):
    """As does a name that the disk does not take; the others are explained, and these once there is room."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "b").write_text("mine")
    assert job(model, photos, out).finish() == {"explained": 6, "errors": 5, "flagged": 0}
    told = {r["error"] for r in rows(out) if "error" in r}
    assert all(re.fullmatch(r"cannot write '.*/out/b/.*': (File exists|Not a directory)", text) for text in told)
    assert (out / "b").read_text() == "mine"
    (out / "b").unlink()
    job(model, photos, out, resume=True, retry_errors=True).finish()
    assert left(out) == whole


def test_paths_that_become_too_long_are_errors_of_their_pictures(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Short enough from here, but not from the root, as the plan keeps it.
    deep = Path("photos", *["d" * 190] * 20, "d" * 250)
    png(Path("photos", "a.png"))
    png(deep / "b.png")
    made = job(model, "photos", tmp_path / "out")
    made.finish()
    (bad,) = [r for r in rows(tmp_path / "out") if "error" in r]
    assert bad["source"] == str(tmp_path / deep / "b.png")
    assert "File name too long" in bad["error"]
    assert made.counts == {"explained": 1, "errors": 1, "flagged": 0}


# ---- Pictures ----


def test_a_picture_that_is_gone_is_an_error_that_says_so(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    (photos / "b" / "07.png").unlink()
    (bad,) = [r for r in work if "error" in r]
    assert (bad["name"], bad["kind"], bad["sha256"]) == ("b/07.png", "ImageError", None)
    assert bad["error"].endswith("there is no such file; it was there when the job was planned")


def test_a_picture_that_has_changed_is_explained_as_it_is_with_a_warning(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    png(photos / "b" / "07.png", 99, 30, 30)
    (told,) = [r for r in work if r["warnings"]]
    assert (told["name"], told["size"]) == ("b/07.png", [30, 30])
    assert told["warnings"] == ["the file has changed since the job was planned"]
    assert work.counts["flagged"] == 1


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_pictures_that_are_all_gone_stop_the_job_which_goes_on_once_they_are_back(model, photos, tmp_path, whole, how):
    """As where a disk is not mounted: that is no million errors."""
    out = tmp_path / "out"
    next(iter(job(model, photos, out)))
    done = len(rows(out))
    shutil.move(photos, tmp_path / "away")
    if how == "emptied":
        photos.mkdir()
    with pytest.raises(
        ImageError, match=rf"pictures in '.*photos' are gone.* {done} of 11 pictures are done: bring it"
    ):
        job(model, photos, out, resume=True).finish()
    assert len(rows(out)) == done
    shutil.rmtree(photos, ignore_errors=True)
    shutil.move(tmp_path / "away", photos)
    job(model, photos, out, resume=True).finish()
    assert left(out) == whole


def test_a_list_is_not_needed_once_the_job_is_planned(model, photos, tmp_path):
    table = tmp_path / "list.txt"
    table.write_text("".join(f"{p}\n" for p in sorted(photos.glob("*/*"))))
    next(iter(job(model, table, tmp_path / "out")))
    table.unlink()
    assert job(model, table, tmp_path / "out", resume=True).finish()["explained"] == 11


# ---- The job's own folder ----


@pytest.mark.parametrize("save", ["overlay", "box"])
def test_a_folder_that_is_deleted_while_it_is_worked_in_does_not_come_back(model, photos, tmp_path, save):
    steps = iter(job(model, photos, tmp_path / "out", save=save, workers=1))
    next(steps)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(OutputError, match="job's folder was removed while it ran: start it again"):
        list(steps)
    assert not (tmp_path / "out").exists()
    assert job(model, photos, tmp_path / "out", save=save).finish()["explained"] == 11


def test_results_may_lie_in_a_folder_among_the_pictures(model, photos, tmp_path, whole):
    """They are not taken for pictures, neither now nor when the job is made again elsewhere."""
    job(model, photos, photos / "results", save="overlay,heatmap").finish()
    assert len(rows(photos / "results")) == 11
    job(model, photos, photos / "results", save="overlay,heatmap", resume=True).finish()
    assert len(list((photos / "results").rglob("*.png.*"))) == 22
