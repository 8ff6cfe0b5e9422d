"""Pictures at an address: the memory, archives, the web; what is missing is said."""

from __future__ import annotations

import builtins
import io
import os
import re
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from served import beside

from onnxcam.batch import remote
from onnxcam.batch.sources import Entry, entries, read, stamp_of
from onnxcam.errors import ImageError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


def told(source, **options) -> list[tuple[str, str | None]]:
    return sorted((e.source, e.truth) for e in entries(source, **options))


@pytest.fixture
def bucket(monkeypatch) -> str:
    """The address of a folder in the memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    files = fsspec.filesystem("memory")
    for name in ("a.jpg", "dog/b.png", "dog/deep/c.PNG", "cat/d e.jpg", "note.txt", ".h/x.jpg", "cat/m.mask.png"):
        files.pipe(f"/bucket/{name}", name.encode())
    return "memory://bucket"


def test_what_is_an_address():
    for text in ("s3://b/a.jpg", "zip://*.jpg::a.zip", "simplecache::gs://b", "https://h/a", "git+x.1://r"):
        assert remote.is_address(text)
    for text in (
        "C:\\photos\\a.jpg",
        "C:/a.jpg",
        "c://a.jpg",
        "a.jpg",
        "a::b.jpg",
        "x/s3://b",
        "data:image/png",
        "1s://x",
    ):
        assert not remote.is_address(text)


def test_a_folder_is_searched_by_the_same_rules(bucket):
    wanted = [("a.jpg", None), ("cat/d e.jpg", "cat"), ("dog/b.png", "dog"), ("dog/deep/c.PNG", "dog")]
    for given in (bucket, f"{bucket}/"):
        assert told(given) == [(f"memory://bucket/{name}", truth) for name, truth in wanted]
    assert all(read(e.source) == e.source.removeprefix("memory://bucket/").encode() for e in entries(bucket))


@pytest.mark.parametrize(("pattern", "wanted"), [
    ("*.jpg", ["a.jpg"]),
    ("**/*.jpg", ["a.jpg", "cat/d e.jpg"]),
    ("*/[bd]*", ["cat/d e.jpg", "dog/b.png", "dog/deep/c.PNG"]),
    ("d?g/*.png", ["dog/b.png"]),
    ("**/deep/*", ["dog/deep/c.PNG"]),
])  # fmt: skip
def test_a_pattern_is_read_by_the_same_rules(bucket, pattern, wanted):
    assert [s for s, _ in told(f"{bucket}/{pattern}")] == [f"{bucket}/{name}" for name in wanted]


def test_a_name_with_the_letters_of_a_pattern_is_a_name_where_it_exists(bucket):
    fsspec.filesystem("memory").pipe({"/bucket/[1].jpg": b"x", "/bucket/1.jpg": b"y", "/bucket/[d]/q.jpg": b"z"})
    assert [s for s, _ in told(f"{bucket}/[1].jpg")] == [f"{bucket}/[1].jpg"]
    assert [s for s, _ in told(f"{bucket}/[d]/*.jpg")] == [f"{bucket}/[d]/q.jpg"]


def test_lists_and_tables_lie_anywhere_and_name_anything(bucket, tmp_path, monkeypatch):
    (tmp_path / "here.jpg").write_bytes(b"here")
    files = fsspec.filesystem("memory")
    files.pipe(
        "/bucket/list.txt",
        b"a.jpg\ncat/d e.jpg\nmemory://bucket/dog/",
    )
    assert told(f"{bucket}/list.txt") == [
        (f"{bucket}/a.jpg", None), (f"{bucket}/cat/d e.jpg", None), (f"{bucket}/dog/b.png", None),
        (f"{bucket}/dog/deep/c.PNG", "deep"),
    ]  # fmt: skip
    files.pipe("/bucket/sub/t.csv", b"path,label,target\nx.jpg,dog,3\n")
    assert list(entries(f"{bucket}/sub/t.csv")) == [Entry(f"{bucket}/sub/x.jpg", "dog", "3")]
    (tmp_path / "t.csv").write_text(f"here.jpg,1\n{bucket}/a.jpg,2\nfile://{tmp_path}/here.jpg,3")
    assert told(tmp_path / "t.csv") == [
        (f"{tmp_path}/here.jpg", "1"), (f"{tmp_path}/here.jpg", "3"), (f"{bucket}/a.jpg", "2"),
    ]  # fmt: skip
    assert told([f"{bucket}/gone.jpg", f"{bucket}/nothing/"]) == [
        (f"{bucket}/gone.jpg", None),
        (f"{bucket}/nothing/", None),
    ]


@pytest.mark.parametrize("named", [
    *("{here}", "file://{here}", "FILE://{here}", "local://{here}", "zip://a.jpg::{here}", "zip://a.jpg::file://{here}"),
    *("simplecache::file://{here}", "zip://a.jpg::zip://b.zip::{here}", "simplecache::zip://a.jpg::here.zip"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["l.txt", "t.csv"])
def test_a_list_from_elsewhere_names_no_file_of_this_machine(bucket, tmp_path, named, name):
    (tmp_path / "here.jpg").write_bytes(b"private")
    line = named.format(here=tmp_path / "here.jpg")
    fsspec.filesystem("memory").pipe(f"/bucket/{name}", f"a.jpg\n{line}\n".encode())
    with pytest.raises(OptionError, match=rf"'{bucket}/{name}' names a file of this machine, '{re.escape(line)}'"):
        told(f"{bucket}/{name}")


def test_an_archive_is_a_folder(tmp_path, bucket):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("top.jpg", "dog/a.jpg", "dog/.b.jpg", "note.txt", "dog/b [1].png"):
            archive.writestr(name, name)
    after = f"::{tmp_path}/a.zip"
    assert told(f"zip://{after}") == [(f"zip://dog/a.jpg{after}", "dog"), (f"zip://dog/b [1].png{after}", "dog"), (f"zip://top.jpg{after}", None)]  # fmt: skip # noqa: E501
    assert told(f"zip://*.jpg{after}") == [(f"zip://top.jpg{after}", None)]
    assert told(f"zip://dog{after}") == [(f"zip://dog/a.jpg{after}", None), (f"zip://dog/b [1].png{after}", None)]
    assert read(f"zip://dog/b [1].png{after}") == b"dog/b [1].png"
    fsspec.filesystem("memory").pipe("/bucket/a.zip", (tmp_path / "a.zip").read_bytes())
    assert [read(s) for s, _ in told("zip://**/a.jpg::memory://bucket/a.zip")] == [b"dog/a.jpg"]
    with pytest.raises(ImageError, match=r"gone\.jpg.*(no such file|no item)"):
        read(f"zip://gone.jpg{after}")


def test_an_archive_is_opened_once_a_thread(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n in range(5):
            archive.writestr(f"{n}.jpg", str(n))
    opened = []
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a, _of=zipfile.ZipFile, **k: opened.append(1) or _of(*a, **k))

    def all_of_them():
        assert [read(f"zip://{n}.jpg::{tmp_path}/a.zip") for n in range(5)] == [str(n).encode() for n in range(5)]

    remote.forget()
    all_of_them()
    assert len(opened) == 1
    for already in (1, 2):  # a new thread may get the number of one that is gone
        thread = threading.Thread(target=all_of_them)
        thread.start()
        thread.join()
        assert len(opened) == already + 1


def test_an_archive_that_has_changed_is_opened_anew_and_none_stays_open(tmp_path, monkeypatch, bucket):
    def archive(*names):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for name in names:
                file.writestr(name, name)
        return {s: read(s) for s, _ in told(f"zip://::{tmp_path}/a.zip")}

    def descriptors():
        return sum(os.path.samefile(f"/proc/self/fd/{n}", tmp_path / "a.zip") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}"))  # fmt: skip

    after = f"::{tmp_path}/a.zip"
    assert archive("a.jpg", "b.jpg") == {f"zip://a.jpg{after}": b"a.jpg", f"zip://b.jpg{after}": b"b.jpg"}
    assert archive("c.jpg", "long name.jpg") == {
        f"zip://c.jpg{after}": b"c.jpg", f"zip://long name.jpg{after}": b"long name.jpg",
    }  # fmt: skip
    if os.path.isdir("/proc/self/fd"):
        assert descriptors() == 1
        remote.forget()
        assert descriptors() == 0
    monkeypatch.chdir(tmp_path)
    assert [s for s, _ in told("zip://::a.zip")] == ["zip://c.jpg::a.zip", "zip://long name.jpg::a.zip"]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ImageError, match="no such file"):
        told("zip://::a.zip")
    files = fsspec.filesystem("memory")
    for name in ("one.jpg", "two.jpg"):
        archive(name)
        files.pipe("/bucket/a.zip", (tmp_path / "a.zip").read_bytes())
        remote.forget()  # as each job does
        assert told("zip://::memory://bucket/a.zip") == [(f"zip://{name}::memory://bucket/a.zip", None)]


def test_whatever_an_archive_calls_its_pictures_they_are_found_and_read(tmp_path, bucket):
    names = [
        "a::b.png",
        "/abs.png",
        "/d/abs.png",
        "x::memory://q/y.png",
        "a//b.png",
        "50%3A%3A.png",
        "q?.png",
        "[a].png",
    ]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in (*names, "../up.png", ".git//h.png", "h//.i.png"):
            archive.writestr(name, name)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a::b.png", "d/e.png"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    found = list(entries(f"zip://::{tmp_path}/a.zip"))
    assert sorted(read(e.source).decode() for e in found) == sorted(names)
    assert all(stamp_of(e.source) == e.stamp != "" for e in found)
    assert f"zip://a%3A%3Ab.png::{tmp_path}/a.zip" in {e.source for e in found}
    assert sorted(read(s) for s, _ in told(f"tar://::{tmp_path}/a.tar")) == [b"a::b.png", b"d/e.png"]
    with pytest.raises(ImageError, match="more than the limit of 7 bytes"):
        read(f"zip://abs.png::{tmp_path}/a.zip", 7)
    fsspec.filesystem("memory").pipe("/bucket/odd/a::b.jpg", b"odd")
    assert [read(s) for s, _ in told(f"{bucket}/odd")] == [b"odd"]


def test_results_of_an_earlier_job_are_no_pictures(bucket, tmp_path):
    files = fsspec.filesystem("memory")
    for name in ("a.jpg.overlay.jpg", "sub/b.jpg.overlay.jpg", ".onnxcam/plan.json"):
        files.pipe(f"/bucket/out/{name}", b"made")
    assert all("out" not in s for s, _ in told(bucket))
    assert [s for s, _ in told(f"{bucket}/out/*.jpg")] == [f"{bucket}/out/a.jpg.overlay.jpg"]  # as it is asked for


def test_what_is_kept_at_hand_goes_by_the_same_address(bucket):
    source = "simplecache::memory://bucket/*.jpg"
    assert told(source) == [("simplecache::memory://bucket/a.jpg", None)]
    assert read("simplecache::memory://bucket/a.jpg") == b"a.jpg"


def test_a_stamp_changes_with_the_file(bucket):
    (entry,) = entries(f"{bucket}/a.jpg")
    assert entry.stamp == stamp_of(entry.source) != ""
    assert [e.stamp for e in entries(f"{bucket}/*.jpg")] == [entry.stamp]
    fsspec.filesystem("memory").pipe("/bucket/a.jpg", b"other")
    assert stamp_of(entry.source) != entry.stamp
    assert stamp_of(f"{bucket}/gone.jpg") == ""


def test_what_is_not_there_says_so(bucket):
    with pytest.raises(ImageError, match=r"'memory://bucket/gone\.jpg': there is no such file"):
        read(f"{bucket}/gone.jpg")
    with pytest.raises(ImageError, match="no such file or folder"):
        told("memory://nowhere")
    with pytest.raises(ImageError, match="no pictures in"):
        told(f"{bucket}/*.gif")
    assert read(f"{bucket}/a.jpg", 5) == b"a.jpg"
    with pytest.raises(ImageError, match="more than the limit of 4 bytes"):
        read(f"{bucket}/a.jpg", 4)


def test_a_folder_that_fails_is_one_row(bucket, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    listed = MemoryFileSystem.ls

    def ls(self, path, **options):
        if path.endswith("dog"):
            raise ValueError("no answer")
        return [{"name": f"{path}/", "type": "directory"}, *listed(self, path, **options)]  # as some stores do

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    assert [s for s, _ in told(bucket)] == [f"{bucket}/a.jpg", f"{bucket}/cat/d e.jpg", f"{bucket}/dog"]
    with pytest.raises(ImageError, match="ValueError: no answer"):
        told(f"{bucket}/dog/")


def test_without_fsspec_the_command_that_installs_it_is_named(monkeypatch, tmp_path):
    imported = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == "fsspec":
            raise ModuleNotFoundError("No module named 'fsspec'", name="fsspec")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    remote.check.cache_clear()
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert [e.source for e in entries(tmp_path)] == [f"{tmp_path}/a.jpg"]
    for source in ("s3://bucket/x", ["https://host/a.jpg"]):
        with pytest.raises(OptionError, match=r"is an address: to open it, pip install 'onnxcam\[remote\]'"):
            list(entries(source))


def test_a_missing_package_and_an_unknown_scheme_are_named(monkeypatch):
    remote.check.cache_clear()
    with pytest.raises(UnknownNameError, match="unknown scheme of an address 's33'; did you mean 's3"):
        list(entries("s33://bucket"))
    registry = sys.modules["fsspec.registry"]  # the package calls a table of it the same
    monkeypatch.setitem(registry._registry, "s3", None)
    monkeypatch.delitem(registry._registry, "s3")
    monkeypatch.setitem(registry.known_implementations, "s3", {"class": "no_such_s3fs.S3", "err": "Install s3fs"})
    for source in ("s3://bucket/x.jpg", ["here.jpg", "s3://bucket/x.jpg"], "zip://::s3://bucket/x.zip"):
        with pytest.raises(OptionError, match=r"s3:// needs a package .*\(Install s3fs\): pip install no_such_s3fs"):
            list(entries(source))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[str]:
    """A web server of a folder, whose pages list what it holds."""
    pytest.importorskip("aiohttp", reason="fsspec opens https with aiohttp")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("a.jpg", "dog/b c.png", "dog/deep/d.jpg", "note.txt"):
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    with beside(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site")))) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


def test_the_web_is_searched_by_its_pages(site):
    wanted = [(f"{site}/a.jpg", None), (f"{site}/dog/b%20c.png", "dog"), (f"{site}/dog/deep/d.jpg", "dog")]
    assert told(f"{site}/") == wanted
    assert {e.stamp for e in entries(f"{site}/")} == {""}  # a page tells no sizes
    assert told(f"{site}/**/*.jpg") == [wanted[0], wanted[2]]
    assert told(f"{site}/dog") == [(f"{site}/dog/b%20c.png", None), (f"{site}/dog/deep/d.jpg", "deep")]
    assert [read(s) for s, _ in wanted] == [b"a.jpg", b"dog/b c.png", b"dog/deep/d.jpg"]


def test_a_page_of_the_web_is_read_or_says_why(site, tmp_path):
    assert told(f"{site}/a.jpg") == [(f"{site}/a.jpg", None)]
    assert read(f"{site}/a.jpg?size=[9]*") == b"a.jpg"
    for address, why in ((f"{site}/gone.jpg", "no such file"), ("http://127.0.0.1:9/a.jpg", "127.0.0.1")):
        with pytest.raises(ImageError, match=why):
            read(address)
    with pytest.raises(ImageError, match="no such file or folder"):
        told(f"{site}/gone?id=[3]")
    with pytest.raises(ImageError, match="more than the limit"):
        read(f"{site}/a.jpg", 3)
    assert stamp_of(f"{site}/a.jpg").startswith("5-")
    Path(tmp_path / "l.txt").write_text(f"{site}/a.jpg\n{site}/b?id=3\n")
    assert told(tmp_path / "l.txt") == [(f"{site}/a.jpg", None), (f"{site}/b?id=3", None)]
