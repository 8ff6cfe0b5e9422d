from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from onnxcam.batch import plan as plans
from onnxcam.batch.plan import Plan, make_plan, read_plan
from onnxcam.batch.results import suffixes
from onnxcam.batch.settings import Saving
from onnxcam.batch.sources import Entry
from onnxcam.errors import ImageError, OptionError, OutputError

pytestmark = pytest.mark.anyruntime
CONFIGURATION = {"batch": 3, "method": "gradcam"}


def planned(folder: Path, entries, source: str = "photos") -> Plan:
    return make_plan(folder, [e if isinstance(e, Entry) else Entry(e) for e in entries], source, CONFIGURATION)


def names(folder: Path, entries, source: str = "photos") -> dict[str, str]:
    here = os.path.join(os.getcwd(), "")
    return {item.source.removeprefix(here): item.name for item in planned(folder, entries, source).items()}


@pytest.mark.parametrize(
    ("source", "entries", "mirrored"),
    [
        ("photos", ["photos/a.jpg", "photos/b/c.jpg"], ["a.jpg", "b/c.jpg"]),
        ("photos", ["photos/b/c.jpg", "photos/b/d.jpg"], ["b/c.jpg", "b/d.jpg"]),  # the source's own folders all stay
        ("photos/*/x.jpg", ["photos/b/x.jpg", "photos/c/x.jpg"], ["b/x.jpg", "c/x.jpg"]),
        ("list.txt", ["/data/one/a.jpg", "/data/two/a.jpg"], ["one/a.jpg", "two/a.jpg"]),
        ("list.txt", ["/data/a.jpg"], ["a.jpg"]),
        ("list.txt", ["/a.jpg", "/b/a.jpg"], ["a.jpg", "b/a.jpg"]),
        ("list.txt", ["/data/a", "/data/a/b.jpg"], ["a", "a/b.jpg"]),
        ("s3://bucket/p", ["s3://bucket/p/a.jpg", "s3://bucket/p/b/a.jpg"], ["a.jpg", "b/a.jpg"]),
        ("list.txt", ["s3://bucket/a.jpg", "gs://bucket/a.jpg"], ["s3/bucket/a.jpg", "gs/bucket/a.jpg"]),
        ("list.txt", ["/data/a.jpg", "s3://bucket/a.jpg"], ["data/a.jpg", "s3/bucket/a.jpg"]),
        ("zip://::/d/x.zip", ["zip://a.jpg::/d/x.zip", "zip://b/c.jpg::/d/x.zip"], ["a.jpg", "b/c.jpg"]),
        ("zip://b::/d/x.zip", ["zip://b/c.jpg::/d/x.zip"], ["c.jpg"]),
        ("l.txt", ["zip://a.jpg::/d/x.zip", "zip://a.jpg::/d/y.zip"], ["x.zip/a.jpg", "y.zip/a.jpg"]),
        ("l.txt", ["zip://a.jpg::s3://b/x.zip", "zip://b::zip://y::/x"], ["s3/b/x.zip/a.jpg", "zip/x/y/b"]),
        ("list.txt", ["s3://b/../a.jpg", "s3://b/./a.jpg"], ["%2E%2E/a.jpg", "%2E/a.jpg"]),
    ],
)
def test_names_mirror_the_folders_of_the_source(tmp_path, source, entries, mirrored):
    assert names(tmp_path, entries, source) == dict(zip(entries, mirrored, strict=True))


def files(name: str) -> set[str]:
    """What may be written for a picture of this name."""
    return {f"{name}.{s}" for s in suffixes(Saving(("overlay", "heatmap", "panel", "raw", "json")), 3)}


def test_no_two_items_share_a_file_nor_is_a_file_another_ones_folder(tmp_path):
    """All short paths over names that are made to clash with each other's results, and with the job's own files."""
    parts = ["x.jpg", "X.JPG", "x.jpg.overlay.jpg", "x.jpg.overlay.jpg%", "x.jpg@cat", "run.json", ".onnxcam",
             "x.jpg.overlay.2.jpg", "results.csv", "report-2.html", "%2E", "tmp", "e\u0301", "\u00e9"]  # fmt: skip
    paths = ["/".join(p) for n in (1, 2) for p in itertools.product(parts, repeat=n)]
    entries = [Entry(f"photos/{p}", None, t) for p in paths for t in (None, "cat", "Cat", "a cat", "a-cat")]
    found = [item.name for item in planned(tmp_path, entries).items()]
    assert len(found) == len(entries)
    written = [f.casefold().replace("e\u0301", "\u00e9") for name in found for f in files(name)]
    assert len(set(written)) == len(written)
    own = {"results.jsonl", "results.csv", "run.json", "boxes.json", "report.html", "report-2.html", ".onnxcam"}
    folders = {"/".join(f.split("/")[:k]) for f in written for k in range(1, f.count("/") + 1)}
    assert not folders & (set(written) | own)
    assert not set(written) & own


def test_one_picture_is_one_however_its_path_is_spelled(tmp_path, monkeypatch):
    """But what is before ".." may be a link, so that stays, under another name."""
    monkeypatch.chdir(tmp_path)
    here = ["a.jpg", "./a.jpg", f"{tmp_path}//a.jpg", f"{tmp_path}/./a.jpg", f"{tmp_path}/d/../a.jpg"]
    found = names(tmp_path, here)
    assert found.keys() == {"a.jpg", "d/../a.jpg"}
    assert sorted(found.values())[0] == "a.jpg"
    assert all(re.fullmatch(r"a\.jpg(~[0-9a-f]{8})?", name) for name in found.values())


def test_sources_hold_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["a.jpg", "./d/b.jpg", "/e.jpg", "https://c.org/./f.jpg", "zip://g.jpg::h.zip", "zip://g.jpg::s3://h.zip"]
    assert [item.source for item in planned(tmp_path, given).items()] == [
        "/e.jpg", f"{tmp_path}/a.jpg", f"{tmp_path}/d/b.jpg", "https://c.org/./f.jpg", f"zip://g.jpg::{tmp_path}/h.zip",
        "zip://g.jpg::s3://h.zip",
    ]  # fmt: skip


def test_two_truths_of_one_picture_are_refused_and_no_truth_is_none(tmp_path):
    lines = [Entry("/a.jpg", "cat"), Entry("/b.jpg", None), Entry("/b.jpg", "dog"), Entry("/a.jpg", "cat")]
    for one in (lines, lines[::-1]):
        folder = tmp_path / str(one is lines)
        folder.mkdir()
        assert [(i.source, i.truth) for i in planned(folder, one).items()] == [("/a.jpg", "cat"), ("/b.jpg", "dog")]
    with pytest.raises(OptionError, match=r"'/a\.jpg' is listed with two truths, 'cat' and 'dog': keep one"):
        planned(tmp_path, [*lines, Entry("/a.jpg", "dog")])
    other_target = planned(tmp_path, [*lines, Entry("/a.jpg", "dog", "dog")])
    assert [(i.truth, i.target) for i in other_target.items()] == [("cat", None), ("dog", "dog"), ("dog", None)]


def test_long_names_leave_room_for_what_follows_and_stay_apart(tmp_path):
    long = ["x" * 251 + ".jpg", "x" * 250 + "y.jpg", "\u00e4" * 125 + ".jpg", "\udcff" * 251 + ".jpg"]
    found = names(tmp_path, [f"photos/{n}/{n}" for n in long])
    assert len(set(found.values())) == 4
    for name in found.values():
        for suffix in ("overlay.10.jpg", "explanation.json"):
            path = tmp_path / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")


ODD = ["a b.jpg", "-rf.jpg", "a\nb.jpg", "a\rb.jpg", "\u202egpj.jpg", "<script>.jpg", "'\".jpg", "\udcff\udc80.jpg",
       "\ud800.jpg", "{}.jpg", "a\tb.jpg", "%00.jpg", "~.jpg", "\u732b.jpg", "*.jpg", "a\\b.jpg"]  # fmt: skip


def test_odd_names_come_back_as_they_were(tmp_path):
    assert names(tmp_path, [f"photos/{n}/{n}" for n in ODD]) == {f"photos/{n}/{n}": f"{n}/{n}" for n in ODD}
    text = (tmp_path / "plan.jsonl").read_bytes()
    assert text.isascii()
    assert text.count(b"\n") == len(ODD)


def test_a_zero_byte_is_no_part_of_a_name(tmp_path):
    assert names(tmp_path, ["photos/a\0b.jpg", "photos/c.jpg"])["photos/a\0b.jpg"] == "a%00b.jpg"


def test_windows_takes_fewer_letters(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_FORBIDDEN", r'[<>:"|?*\\\x00-\x1f]|[. ]$')
    found = names(tmp_path, ["photos/a?b:c*.jpg", "photos/d. /e.jpg"])
    assert list(found.values()) == ["a%3Fb%3Ac%2A.jpg", "d.%20/e.jpg"]


def test_targets_become_part_of_the_name(tmp_path):
    targets = (None, "3", "cat", "margin:cat,dog", "box:a@1,2", "c" * 300, "\udcff")
    entries = [
        Entry("p/a.jpg", None, t) for t in (None, "3", "cat", "margin:cat,dog", "box:a@1,2", "c" * 300, "\udcff")
    ]
    found = {item.target: item.name for item in planned(tmp_path, [*entries, "p/b.jpg"], "p").items()}
    assert found["3"] == "a.jpg@3"
    assert found["cat"] == "a.jpg@cat"
    assert re.fullmatch(r"a\.jpg@margin-cat-dog-[0-9a-f]{8}", found["margin:cat,dog"])
    assert re.fullmatch(r"a\.jpg@c{40}-[0-9a-f]{8}", found["c" * 300])
    assert set(found) == set(targets)


def test_the_plan_is_sorted_without_repeats_and_keeps_what_was_told(tmp_path):
    entries = [
        Entry("/p/c.jpg", "cat", None, "9-9"),
        Entry("/p/a.jpg", None, "dog", "\udcff"),
        Entry("/p/c.jpg", "cat", None, "9-9"),
        Entry("/p/B.jpg", "\ud800", None, ""),
        Entry("/p/a.jpg", None, None, "1-2"),
    ]
    items = [(i.index, i.source, i.truth, i.target, i.stamp) for i in planned(tmp_path, entries, "p").items()]
    assert items == [
        (0, "/p/B.jpg", "\ud800", None, ""),
        (1, "/p/a.jpg", None, None, "1-2"),
        (2, "/p/a.jpg", None, "dog", "\udcff"),
        (3, "/p/c.jpg", "cat", None, "9-9"),
    ]


def test_the_order_is_the_same_however_the_entries_come(tmp_path):
    entries = [Entry(f"p/{a}/{b}.jpg", None, t) for a in "xAb" for b in "12" for t in (None, "1")]
    texts = set()
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        planned(tmp_path / str(k), entries[k * 5 :] + entries[: k * 5], "p")
        texts.add((tmp_path / str(k) / "plan.jsonl").read_bytes())
    assert len(texts) == 1


def test_groups_are_neighbours_and_those_that_are_done_are_passed_over(tmp_path):
    plan = planned(tmp_path, [f"p/{k}.jpg" for k in range(8)], "p")
    assert plan.count == 8
    pending = [[(item.index, item.done) for item in group] for group in plan.pending(b"\0\0\0\1\1\1\0\1")]
    assert pending == [[(0, False), (1, False), (2, False)], [(6, False), (7, True)]]


def test_a_plan_that_was_kept_is_read_again(tmp_path):
    plan = planned(tmp_path, ODD, "p")
    again = read_plan(tmp_path)
    assert again == plan
    assert list(again.items()) == list(plan.items())
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "plan.jsonl", "tmp"]
    assert os.listdir(tmp_path / "tmp") == []


def test_the_hash_is_that_of_the_configuration(tmp_path):
    plan = planned(tmp_path, ["a.jpg"])
    swapped = Plan(tmp_path, "elsewhere", dict(reversed(CONFIGURATION.items())), 1, 1)
    assert plan.hash == swapped.hash
    assert Plan(tmp_path, "photos", {**CONFIGURATION, "batch": 4}, 1, 1).hash != plan.hash


def test_a_plan_that_was_not_finished_is_none(tmp_path):
    planned(tmp_path, ["a.jpg"])
    (tmp_path / "plan.json").unlink()
    assert read_plan(tmp_path) is None


@pytest.mark.parametrize("damage", ["short", "long", "gone", "no JSON", "a list", "empty", "version"])
def test_a_damaged_plan_is_told(tmp_path, damage):
    planned(tmp_path, ["a.jpg", "b.jpg"])
    lines, head = tmp_path / "plan.jsonl", tmp_path / "plan.json"
    if damage == "gone":
        lines.unlink()
    elif damage in ("short", "long"):
        data = lines.read_bytes()
        lines.write_bytes(data[:-30] if damage == "short" else data + data)
    else:
        told = json.dumps({**json.loads(head.read_text()), "version": 99})
        head.write_text({"no JSON": "{", "a list": "[]", "empty": "", "version": told}[damage])
    with pytest.raises(OptionError, match=r"plan\.json, cannot be read: .*another folder"):
        read_plan(tmp_path)


def test_no_pictures_are_no_plan(tmp_path):
    with pytest.raises(ImageError, match="no pictures in photos"):
        planned(tmp_path, [])
    assert read_plan(tmp_path) is None


def test_a_full_disk_leaves_no_plan(tmp_path, full_disk):
    full_disk("plan.jsonl")
    with pytest.raises(OutputError, match=r"the plan cannot be written to .*No space left on device"):
        planned(tmp_path, ["a.jpg"])
    assert [p.name for p in tmp_path.rglob("*")] == ["tmp"]
