from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from jobs import explained, failed

from onnxcam.batch.manifest import Manifest, in_order, read_rows, recover
from onnxcam.batch.plan import make_plan
from onnxcam.batch.sources import Entry
from onnxcam.errors import OutputError

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def plan(tmp_path):
    """Of 8 pictures in groups of 3, 3 and 2."""
    inner = tmp_path / ".onnxcam"
    inner.mkdir()
    return make_plan(inner, [Entry(f"p/{k}.jpg") for k in range(8)], "p", {"batch": 3})


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "results.jsonl"


def row(index: int, folder: Path, size: int = 5, **changes):
    """A picture's row, with its file."""
    name = f"{index}.overlay.jpg"
    (folder / name).write_bytes(b"x" * size)
    return explained(index, files={"overlay": name}, bytes={"overlay": size}, **changes)


def lines(*rows) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def test_what_is_written_is_read(path):
    rows = [explained(0, name="<b>\n\udcff\ud800"), failed(1, "\x1b[0m")]
    with Manifest(path) as manifest:
        manifest.append(rows[:1])
        assert list(read_rows(path)) == rows[:1]  # at once, not at the end
        manifest.append(rows[1:])
    assert list(read_rows(path)) == rows
    assert path.read_bytes().count(b"\n") == 2


def test_without_a_manifest_nothing_is_done(path, plan):
    assert recover(path, plan) == (bytearray(8), {"explained": 0, "errors": 0, "flagged": 0})
    assert not path.exists()


def test_finished_groups_are_kept_and_counted(path, plan, tmp_path):
    rows = [row(0, tmp_path), row(1, tmp_path, blank=True), failed(2), row(6, tmp_path, warnings=["w"]), failed(7)]
    path.write_bytes(lines(*rows))
    before = os.stat(path)
    assert recover(path, plan) == (b"\1\1\1\0\0\0\1\1", {"explained": 3, "errors": 2, "flagged": 2})
    assert list(read_rows(path)) == rows
    assert os.stat(path).st_ino == before.st_ino  # not written again: it may be long


@pytest.mark.parametrize("cut", range(1, 400, 19))
def test_a_torn_end_is_cut_off_wherever_it_is_torn(path, plan, tmp_path, cut):
    rows = [row(k, tmp_path) for k in range(6)]
    path.write_bytes(lines(*rows)[:-cut])
    whole = next(k for k in range(7) if len(lines(*rows)) - cut < len(lines(*rows[: k + 1])))
    assert recover(path, plan) == (
        bytearray(k < whole for k in range(8)),
        {"explained": whole, "errors": 0, "flagged": 0},
    )
    assert path.read_bytes() == lines(*rows[:whole])
    with Manifest(path) as manifest:
        manifest.append(rows[whole:])
    assert path.read_bytes() == lines(*rows)


def test_of_part_of_a_group_the_rest_is_to_do(path, plan, tmp_path):
    rows = [row(k, tmp_path) for k in (0, 1, 3, 4, 5, 6)]
    path.write_bytes(lines(*rows))
    assert recover(path, plan)[0] == b"\1\1\0\1\1\1\1\0"
    assert list(read_rows(path)) == rows
    assert os.listdir(plan.scratch) == []


def test_of_several_lines_the_last_one_counts(path, plan, tmp_path):
    """As those of pictures that are tried again; unless its files are gone."""
    old, new = [failed(k) for k in range(8)], [row(k, tmp_path) for k in range(6)]
    path.write_bytes(lines(*old, *new[:3], new[1], *new[3:]))
    (tmp_path / "3.overlay.jpg").unlink()
    kept = [*old[6:], new[0], new[2], new[1], *new[3:]]
    assert list(read_rows(path)) == kept
    assert recover(path, plan) == (b"\1" * 8, {"explained": 5, "errors": 3, "flagged": 0})
    assert path.read_bytes() == lines(old[3], *old[6:], new[0], new[2], new[1], *new[4:])
    path.write_bytes(lines(*old, new[0]))
    in_order(path, plan)
    assert path.read_bytes() == lines(new[0], *old[1:])
    path.write_bytes(lines(*old, new_last := row(7, tmp_path)))  # whose last lines come in order as they are
    in_order(path, plan)
    assert path.read_bytes() == lines(*old[:7], new_last)


NO_ROWS = [b"\0" * 600 + b"\n", b"\0" * 600, b"[]\n", b'{"index": "0"}\n', b"\xff\xfe\n", b"{}\n", b'{"index": 99}\n',
           b'{"index": -1}\n', b"[" * 200_000 + b"\n"]  # fmt: skip


@pytest.mark.parametrize("damage", NO_ROWS, ids=range(len(NO_ROWS)))
def test_lines_that_are_none_are_taken_out(path, plan, tmp_path, damage):
    one, two = [row(k, tmp_path) for k in range(3)], [row(k, tmp_path) for k in range(3, 6)]
    path.write_bytes(lines(*one) + damage + lines(*two))
    done, counts = recover(path, plan)
    next_to_it = damage.endswith(b"\n")  # what has no end takes the next line with it
    assert done == bytearray([1, 1, 1, next_to_it, 1, 1, 0, 0])
    assert path.read_bytes() == lines(*one, *two[not next_to_it :])
    assert counts["explained"] == len(list(read_rows(path)))


def test_a_picture_with_a_missing_or_short_file_is_not_done(path, plan, tmp_path):
    rows = [row(k, tmp_path) for k in range(8)]
    path.write_bytes(lines(*rows))
    (tmp_path / "1.overlay.jpg").unlink()
    (tmp_path / "7.overlay.jpg").write_bytes(b"xxxx")
    assert recover(path, plan)[0] == b"\1\0\1\1\1\1\1\0"
    assert [r["index"] for r in read_rows(path)] == [0, 2, 3, 4, 5, 6]


def test_pictures_that_failed_are_tried_again_where_asked(path, plan, tmp_path):
    rows = [row(0, tmp_path), failed(1), row(2, tmp_path), *(row(k, tmp_path) for k in (3, 4, 5)), failed(6), failed(7)]
    path.write_bytes(lines(*rows))
    assert recover(path, plan)[0] == b"\1" * 8
    told = {"explained": 5, "errors": 0, "flagged": 0}
    assert recover(path, plan, retry_errors=True) == (b"\1\0\1\1\1\1\0\0", told)
    assert list(read_rows(path)) == rows  # until there are new ones


def test_lines_are_brought_into_order(path, plan):
    rows = {k: explained(k, label="x" * k) for k in range(8)}
    path.write_bytes(lines(*(rows[k] for k in (3, 4, 5, 0, 1, 2, 6, 7))))
    in_order(path, plan)
    assert path.read_bytes() == lines(*(rows[k] for k in range(8)))
    inode = os.stat(path).st_ino
    in_order(path, plan)
    assert os.stat(path).st_ino == inode
    assert os.listdir(plan.scratch) == []


def test_a_full_disk_takes_back_what_was_written_of_a_group(path, monkeypatch):
    with Manifest(path) as manifest:
        manifest.append([explained(0)])
        good, real = path.read_bytes(), manifest._file

        class Full:
            """Takes 100 bytes more."""

            left = 100

            def write(self, data):
                if not self.left:
                    raise OSError(errno.ENOSPC, "No space left on device")
                taken, self.left = data[: self.left], 0
                return real.write(taken)

            def __getattr__(self, name):
                return getattr(real, name)

        manifest._file = Full()
        with pytest.raises(OutputError, match=r"cannot write .*results\.jsonl': No space left on device"):
            manifest.append([explained(1), explained(2)])
        assert path.read_bytes() == good
        manifest._file = real
        manifest.append([explained(1)])
    assert [r["index"] for r in read_rows(path)] == [0, 1]


def test_a_manifest_that_was_deleted_is_not_written_to(path):
    with Manifest(path) as manifest:
        manifest.append([explained(0)])
        path.unlink()
        with pytest.raises(OutputError, match="deleted while the job runs"):
            manifest.append([explained(1)])


def test_rows_are_brought_to_the_disk_every_few_seconds(path, monkeypatch):
    seconds, synced = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((seconds[0], os.fstat(number).st_size)))
    with Manifest(path) as manifest:
        sizes = []
        for now in (101.0, 104.9, 105.1, 110.0, 110.2):
            seconds[0] = now
            manifest.append([explained(0)])
            sizes.append(path.stat().st_size)
    assert synced == [(105.1, sizes[2]), (110.2, sizes[4]), (110.2, sizes[4])]  # with the row; and in the end


def test_what_the_disk_refuses_in_the_end_is_told(path, monkeypatch):
    """Network disks may take what is written, and say at the end that they are full."""

    def fsync(number):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="Disk quota exceeded"), Manifest(path) as manifest:
        manifest.append([explained(0)])
    with pytest.raises(KeyError), Manifest(path):
        raise KeyError  # what went wrong first is what is told


def test_a_manifest_in_a_place_that_is_none_is_an_output_error(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        Manifest(tmp_path / "results.jsonl")
