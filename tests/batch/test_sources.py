"""Where pictures come from: folders and patterns on this machine, lists, tables, standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from onnxcam.batch import lists
from onnxcam.batch.sources import Entry, entries, read, stamp_of
from onnxcam.errors import ImageError, OptionError

pytestmark = pytest.mark.anyruntime


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def found(source, **options) -> list[str]:
    return sorted(entry.source for entry in entries(source, **options))


def inside(root: Path, source=None, **options) -> list[str]:
    return sorted(os.path.relpath(path, root) for path in found(source or root, **options))


HOSTILE = [
    *("a b.jpg", 'it\'s "so".png', "two\nlines.jpg", "\udcff\udcfe.jpg", "<b onload=alert(1)>.gif", "'.bmp", "#1.webp"),
    *(" led.jpg", "100%.tiff", "C:\\x.jpg", "-.png", "ünï.PGM", "tab\t.jpeg", "\x1b[31m.ppm", "[1].jpg", "a::b.png"),
]


# Folders


def test_a_folder_gives_its_pictures_whatever_they_are_called(tmp_path):
    odd = [f"x/{name}" for name in HOSTILE]
    make(tmp_path, *odd, "note.txt", "x/a.mask.png", ".hidden.png", ".git/a.png", "x/.deep/b/a.png", "x/y/z/last.JPG")
    assert inside(tmp_path) == sorted([*odd, "x/y/z/last.JPG"])
    for path in found(tmp_path):
        assert read(path) == os.path.relpath(path, tmp_path).encode("utf-8", "surrogateescape")


def test_the_folder_below_the_source_tells_the_class(tmp_path):
    make(tmp_path, "top.png", "dog/a.png", "dog/deep/b.png", "cat/c.png")
    told = {os.path.basename(e.source): e.truth for e in entries(tmp_path)}
    assert told == {"top.png": None, "a.png": "dog", "b.png": "dog", "c.png": "cat"}
    assert {e.truth for e in entries(str(tmp_path / "*" / "*.png"))} == {"dog", "cat"}
    assert [e.truth for e in entries(tmp_path / "dog" / "*.png")] == [None]


def test_a_stamp_tells_size_and_time(tmp_path):
    picture = make(tmp_path, "abc.png") / "abc.png"
    os.utime(picture, ns=(5, 123_456_789))
    assert list(entries(tmp_path)) == [Entry(str(picture), None, None, "7-123456789")]
    assert stamp_of(str(picture)) == "7-123456789"
    assert stamp_of(str(tmp_path / "gone")) == stamp_of("a\0b") == ""


def test_the_folder_of_results_is_not_entered_by_any_way(tmp_path):
    make(tmp_path, "a.png", "out/b.png", "sub/c.png")
    (tmp_path / "sub" / "way").symlink_to(tmp_path / "out")
    assert inside(tmp_path, skip=tmp_path / "out") == ["a.png", "sub/c.png"]
    assert inside(tmp_path, skip=tmp_path / "not yet there") == ["a.png", "out/b.png", "sub/c.png"]
    for source in (tmp_path, str(tmp_path / "*.png"), [tmp_path]):
        with pytest.raises(OptionError, match="results would lie among the pictures"):
            found(source, skip=tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "data/sub/a.png", "other/b.png")
    data = tmp_path / "data"
    (data / "sub" / "up").symlink_to(data)
    (data / "sub" / "self.png").symlink_to(data / "sub" / "self.png")
    (data / "one").symlink_to(tmp_path / "other")
    (data / "two").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(data)
    (data / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert inside(data) == ["gone.jpg", "one/b.png", "sub/a.png", "sub/self.png"]
    with pytest.raises(ImageError, match="no such file"):
        read(str(data / "gone.jpg"))
    with pytest.raises(ImageError, match=r"self\.png"):
        read(str(data / "sub" / "self.png"))


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.jpg", "/*/**/p.jpg"])
def test_folders_that_link_to_each_other_are_entered_once_and_by_their_own_path(tmp_path, pattern):
    """By every way that visits no folder twice, 6 of them would give 1,956 entries."""
    for k in range(6):
        make(tmp_path, f"d{k}/p.jpg")
        for other in range(6):
            (tmp_path / f"d{k}" / f"a{other}").symlink_to(f"../d{other}")
    assert inside(tmp_path, f"{tmp_path}{pattern}") == [f"d{k}/p.jpg" for k in range(6)]


def test_what_only_links_lead_to_goes_by_the_shortest(tmp_path):
    make(tmp_path, "store/deep/p.jpg", "store/q.jpg", "in/sub/x.jpg")
    for link, to in (("in/sub/a", "store"), ("in/z", "store"), ("in/y", "store"), ("in/a", "store/deep")):
        (tmp_path / link).symlink_to(tmp_path / to)
    assert inside(tmp_path / "in") == ["a/p.jpg", "sub/x.jpg", "y/q.jpg"]


def test_a_pattern_finds_what_it_names_by_each_way(tmp_path):
    make(tmp_path, "in/a/b/x.jpg", "in/a/y.jpg", "in/b/z.jpg")
    (tmp_path / "in" / "c").symlink_to("a/b")
    assert inside(tmp_path / "in", f"{tmp_path}/in/*/*.jpg") == ["a/y.jpg", "b/z.jpg", "c/x.jpg"]
    assert inside(tmp_path / "in", f"{tmp_path}/in/**/c/*.jpg") == ["c/x.jpg"]


def test_where_folders_have_no_numbers_none_is_taken_for_another(tmp_path, monkeypatch):
    make(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    told = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kind: os.stat_result((told(path, **kind)[0], 0, *told(path)[2:])))
    assert inside(tmp_path) == ["a/x.jpg", "b/y.jpg"]


def test_results_of_an_earlier_job_are_no_pictures(tmp_path):
    make(tmp_path, "a.jpg", "out/a.jpg.overlay.jpg", "out/sub/b.jpg.overlay.jpg", "out/.onnxcam/plan.json")
    make(tmp_path, "mine/.onnxcam/notes.txt", "mine/c.jpg")
    assert inside(tmp_path) == inside(tmp_path, f"{tmp_path}/**/*.jpg") == ["a.jpg", "mine/c.jpg"]
    assert inside(tmp_path, f"{tmp_path}/*") == ["a.jpg", "mine/c.jpg"]
    assert len(found(tmp_path / "out")) == 2  # as it is asked for


def test_what_is_called_like_a_picture_is_one_row_or_is_entered(tmp_path):
    make(tmp_path, "full.jpg/a.png", "nested.jpg/deep/a.png")
    (tmp_path / "bare.jpg").mkdir()
    (tmp_path / "bare").mkdir()
    make(tmp_path, "notes.png/readme.txt")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "full.jpg" / "no.png").mkdir()
    told = {os.path.relpath(entry.source, tmp_path): entry.truth for entry in entries(tmp_path)}
    assert told == {
        "bare.jpg": None, "full.jpg/a.png": "full.jpg", "full.jpg/no.png": "full.jpg",
        "nested.jpg/deep/a.png": "nested.jpg", "notes.png": None, "pipe.jpg": None,
    }  # fmt: skip
    with pytest.raises(ImageError, match=r"bare\.jpg': a folder, not a picture"):
        read(str(tmp_path / "bare.jpg"))
    with pytest.raises(ImageError, match="no ordinary file"):  # nobody writes to it: it must not wait
        read(str(tmp_path / "pipe.jpg"))


def test_a_folder_that_cannot_be_listed_is_one_row(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "locked/b.png", "locked/sub/c.png")
    listed = os.scandir

    def scandir(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert inside(tmp_path) == ["a.png", "locked"]
    with pytest.raises(ImageError, match=r"locked': a folder that cannot be listed: Permission denied"):
        read(str(tmp_path / "locked"))
    with pytest.raises(ImageError, match=r"cannot list .*locked': Permission denied"):
        found(tmp_path / "locked")
    assert inside(tmp_path, [tmp_path / "locked", tmp_path / "a.png"]) == ["a.png", "locked"]
    assert inside(tmp_path, f"{tmp_path}/*.png") == ["a.png"]  # nobody asked for what lies in folders


def test_a_listing_that_breaks_off_is_one_row_beside_what_it_gave(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "torn/b.png", "torn/c.png")
    listed = os.scandir

    @contextmanager
    def scandir(path):
        with listed(path) as entries:
            yield torn(entries) if os.path.basename(path) == "torn" else entries

    def torn(entries):
        yield next(entries)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", scandir)
    for source in (tmp_path, [tmp_path]):
        rows = inside(tmp_path, source)
        assert [*rows[:1], *rows[2:]] == (["a.png", "torn/b.png"] if "torn/b.png" in rows else ["a.png", "torn/c.png"])
        assert rows[1] == "torn"
    assert len(inside(tmp_path, [tmp_path / "torn"])) == 2
    assert "torn" in inside(tmp_path, [tmp_path / "torn"])
    with pytest.raises(ImageError, match=r"cannot list .*torn': Input/output error"):
        found(tmp_path / "torn")


def test_folders_deeper_than_a_path_may_be_long_are_one_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(22):  # 22 x 200 > 4096; each step by a path that is short
        Path("d" * 200).mkdir()
        Path("d" * 200, "a.png").touch()
        os.chdir("d" * 200)
    monkeypatch.chdir(tmp_path)
    deep = found(tmp_path)
    assert 15 < sum(path.endswith("a.png") for path in deep) < 22
    (cut,) = [path for path in deep if not path.endswith("a.png")]
    with pytest.raises(ImageError, match="File name too long"):
        read(cut)


def test_a_source_without_pictures_says_so(tmp_path):
    with pytest.raises(ImageError, match=r"no pictures in .*\.jpg"):
        found(tmp_path)
    with pytest.raises(ImageError, match=r"no pictures in .*/\*\*': give a folder, a pattern such as"):
        found(f"{tmp_path}/**")
    with pytest.raises(ImageError, match=r"cannot list .*x/': No such file or directory"):
        found(f"{tmp_path}/x/**")
    with pytest.raises(ImageError, match="no pictures in an empty list"):
        found([])
    for missing in (tmp_path / "gone", tmp_path / "gone.jpg", tmp_path / "gone.csv", "", "a\0b"):
        with pytest.raises(ImageError, match=r"no such file or folder|null"):
            found(missing)
    with pytest.raises(OptionError, match="not int"):
        found([3])


def test_the_memory_of_a_long_folder_is_that_of_its_largest_part(monkeypatch):
    """20 folders of 1,000 files that exist only here: kept, their entries would take more than 5 MB."""

    def entry(name, is_folder):
        return SimpleNamespace(name=name, is_dir=lambda: is_folder, is_symlink=lambda: False)

    class Scan:
        def __init__(self, path):
            self.entries = (entry(f"{n:04}.jpg", False) for n in range(1000))
            if path == "/all":
                self.entries = (entry(f"class {n}", True) for n in range(20))

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    def status(path):
        if path.endswith("plan.json"):
            raise FileNotFoundError
        return SimpleNamespace(st_dev=1, st_ino=hash(path), st_size=9, st_mtime_ns=hash(path))

    monkeypatch.setattr(os, "scandir", Scan)
    monkeypatch.setattr(os, "stat", status)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    tracemalloc.start()
    count = sum(entry.stamp != "" for entry in entries(["/all"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 300_000


# One picture, patterns


def test_one_picture_is_a_source_of_one_whatever_its_suffix(tmp_path):
    make(tmp_path, "a.img", ".b.png")
    assert inside(tmp_path, tmp_path / "a.img") == ["a.img"]
    assert inside(tmp_path, f"file://{tmp_path}/.b.png") == [".b.png"]
    assert read(f"file://{tmp_path}/.b.png") == b".b.png"


TREE = [
    *("a.jpg", "b.png", "c.txt", "x/a.jpg", "x/ab.jpg", "x/y/a.jpg", "x/y/z/a.png", "yy/a.JPG"),
    *(".h/a.jpg", "x/.i.jpg"),
]
PATTERNS = [
    *("*.jpg", "**/*.jpg", "*/*.jpg", "x/**/a.*", "**/y/*.jpg", "**/**/a.jpg", "x/[a]*.jpg", "x/?.jpg", "[!x]*/*"),
    *(
        ".h/*.jpg",
        "x/**/z/*",
        "**/x/**/*.jpg",
        "./x/*.jpg",
        "x//*.jpg",
        ".*/*.jpg",
        "?y/*.JPG",
        "*.jpeg",
        "*//a.jpg",
        "*/./a.jpg",
    ),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_what_the_standard_library_says(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(make(tmp_path, *TREE))
    wanted = sorted({os.path.normpath(p) for p in glob.glob(pattern, recursive=True) if os.path.isfile(p)} - {"c.txt"})
    for given in (pattern, f"{tmp_path}/{pattern}"):
        if wanted:
            assert inside(tmp_path, given) == wanted
        else:
            with pytest.raises(ImageError, match="no pictures"):
                found(given)


def test_a_pattern_takes_the_folders_that_it_names_and_the_suffix_that_it_spells(tmp_path):
    make(tmp_path, *TREE, "d.img", "x/d.img", "a.mask.png")
    assert inside(tmp_path, f"{tmp_path}/**") == sorted(set(TREE) - {"c.txt", ".h/a.jpg", "x/.i.jpg"})
    assert inside(tmp_path, f"{tmp_path}/[xy]") == ["x/a.jpg", "x/ab.jpg", "x/y/a.jpg", "x/y/z/a.png"]
    assert inside(tmp_path, f"{tmp_path}/**/*.img") == ["d.img", "x/d.img"]
    assert inside(tmp_path, f"{tmp_path}/*.png") == ["b.png"]


def test_a_name_with_the_letters_of_a_pattern_is_a_name_where_it_exists(tmp_path):
    make(tmp_path, "set [1]/a.jpg", "set [1]/b.png", "set 1/c.jpg", "*.jpg", "d.jpg")
    assert inside(tmp_path, f"{tmp_path}/set [1]") == ["set [1]/a.jpg", "set [1]/b.png"]
    assert inside(tmp_path, f"{tmp_path}/set [1]/*.jpg") == ["set [1]/a.jpg"]
    assert inside(tmp_path, f"{tmp_path}/set [12]/*.jpg") == ["set 1/c.jpg"]
    assert inside(tmp_path, f"{tmp_path}/*.jpg") == ["*.jpg"]
    make(tmp_path, "x/[e].jpg", "x/e.jpg")
    assert inside(tmp_path, f"{tmp_path}/*/[e].jpg") == ["x/[e].jpg", "x/e.jpg"]


# Lists


@pytest.fixture
def at_home(tmp_path, monkeypatch) -> Path:
    """A folder that is the working one, with a folder of lists in it."""
    monkeypatch.chdir(
        make(tmp_path, "lists/a b.jpg", "here.png", "lists/here.png", "dogs/1.jpg", "dogs/2.jpg", "#.jpg")
    )
    return tmp_path


def test_a_list_has_a_path_a_line(at_home):
    text = f"a b.jpg\r\n\n  \n#.jpg\nhere.png\r\n{at_home}/dogs\ngone/[1].jpg\n here.png "
    for name in ("l.txt", "l.LST"):
        (at_home / "lists" / name).write_bytes(text.encode())
        told = list(entries(f"lists/{name}"))
        assert [e.source for e in told[:3]] == ["lists/a b.jpg", "#.jpg", "lists/here.png"]  # first beside the list
        assert sorted(e.source for e in told[3:5]) == [f"{at_home}/dogs/1.jpg", f"{at_home}/dogs/2.jpg"]
        assert [(e.source, e.stamp) for e in told[5:6]] == [("lists/gone/[1].jpg", "")]
        assert [e.source for e in told[6:]] == ["lists/here.png"]
        assert told[0].stamp == stamp_of("lists/a b.jpg") != ""


@pytest.mark.parametrize("data", [
    "\ufeffdogs/ä.jpg\r\n".encode(),
    "dogs/ä.jpg\r\ndogs/ä.jpg".encode("utf-16-le"),
    "\ufeffdogs/ä.jpg\n".encode("utf-16-be"),
    "dogs/ä.jpg\0".encode(),
])  # fmt: skip
def test_a_list_may_come_from_anywhere(at_home, data):
    data = b"\xff\xfe" + data if data[1:2] == b"\0" else data
    (at_home / "l.txt").write_bytes(data)
    assert set(found("l.txt")) == {"dogs/ä.jpg"}


def test_bytes_that_are_no_text_stay_in_the_name(at_home):
    make(at_home, "\udcff.jpg")
    (at_home / "l.txt").write_bytes(b"\xff.jpg\n")
    assert [read(path) for path in found("l.txt")] == [b"\xff.jpg"]


def test_a_list_of_nothing_and_what_is_no_list_say_so(at_home):
    Path("l.txt").write_text("\n \n")
    with pytest.raises(ImageError, match=r"no pictures in 'l\.txt': .*a list with a path a line"):
        found("l.txt")
    Path("l.txt").write_bytes(b"a.jpg\n" + b"x" * 300_000)
    with pytest.raises(OptionError, match=r"'l\.txt' is no list of paths: it has a line of more than 65,536 bytes"):
        found("l.txt")
    Path("l.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(OptionError, match="no list of paths"):
        found("l.txt")
    os.mkdir("out.txt")
    assert inside(at_home, make(at_home, "out.txt/a.png") / "out.txt") == ["out.txt/a.png"]


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 16])
def test_lines_are_the_same_however_they_are_cut_into_blocks(monkeypatch, size):
    monkeypatch.setattr(lists, "_BLOCK", max(size, 1))
    given = ["a", "bb", "ccc", "d"] if size < 3 else ["a.jpg", "bb.jp", "é.jpg"]
    if size > 3:
        assert [x.path for x in lists.lines(io.BytesIO("\n".join(given).encode()), "it")] == given
        assert [x.path for x in lists.lines(io.BytesIO("\r\n".join([*given, ""]).encode()), "it")] == given
    else:
        with pytest.raises(OptionError, match="a line of more than"):
            list(lists.lines(io.BytesIO(b"a line"), "it"))


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_standard_input_has_lines_or_nuls(at_home, monkeypatch, separator):
    names = [n for n in HOSTILE if separator == "\0" or "\n" not in n]
    make(at_home / "in", *names)
    given = [f"in/{name}" for name in names]
    data = separator.join([*given, ""]).encode("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(data))))
    assert [e.source for e in entries("-")] == given
    assert all(stamp_of(path) for path in given)


def test_a_pipe_is_a_list(at_home):
    reader, writer = os.pipe()
    os.write(writer, b"dogs/1.jpg\nhere.png\n")
    os.close(writer)
    assert found(f"/dev/fd/{reader}") == ["dogs/1.jpg", "here.png"]
    os.close(reader)


def test_an_iterable_is_taken_as_it_comes(at_home):
    given = (path for path in ["here.png", Path("dogs"), "[1].jpg", "here.png"])
    assert found(given) == ["[1].jpg", "dogs/1.jpg", "dogs/2.jpg", "here.png", "here.png"]


# Tables


def rows(text: str | bytes, name: str = "t.csv") -> list[tuple[str, str | None, str | None]]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(e.source, e.truth, e.target) for e in entries(name)]


@pytest.mark.parametrize(("text", "wanted"), [
    ("a.jpg\nb.jpg", [("a.jpg", None, None), ("b.jpg", None, None)]),
    ("a.jpg, dog \n\n,,\nb.jpg,,cat", [("a.jpg", "dog", None), ("b.jpg", None, "cat")]),
    ("a.jpg,dog,281", [("a.jpg", "dog", "281")]),
    ("\ufeffTarget, Path ,x,label\r\n281,a.jpg,9,dog\r\n,b.jpg", [("a.jpg", "dog", "281"), ("b.jpg", None, None)]),
    ("path,target\na.jpg,281", [("a.jpg", None, "281")]),
    ("seen,truth,source\nlabel,dog,a.jpg", [("a.jpg", "dog", None)]),
    ("filename;class\na,b.jpg;dog", [("a,b.jpg", "dog", None)]),
    ("file\tclass\na b.jpg\tdog", [("a b.jpg", "dog", None)]),
    ('image,label\n"a\n""b"",.jpg","<b>,"\nc.jpg', [('a\n"b",.jpg', "<b>,", None), ("c.jpg", None, None)]),
    (",PATH,label\n0,a.jpg,dog", [("a.jpg", "dog", None)]),
    ("dogs,dog\na,cat", [("dogs/1.jpg", "dog", None), ("dogs/2.jpg", "dog", None), ("a", "cat", None)]),
    ("s3/a,dog", [("s3/a", "dog", None)]),
    ("path,label\nä.jpg,ö".encode("utf-16"), [("ä.jpg", "ö", None)]),
])  # fmt: skip
def test_a_table_tells_paths_truths_and_targets(at_home, text, wanted):
    assert sorted(rows(text)) == sorted(wanted)


@pytest.mark.parametrize(("text", "words"), [
    ("img,cls\na.jpg,dog", r"no header that is known, and 'img' is no file: .* path, file, filename, image or source; "
     "truth, label or class; target"),
    ("label,target\ndog,1", "'label' is no file"),
    ("0,here.png,dog", "'0' is no file"),
    ("name;class", "'name' is no file"),
    ("path,tagret\nhere.png,1", r"header of 't\.csv' has 'tagret': is that target\?"),
    ("labels,image\ndog,here.png", r"'labels': is that truth, label or class\?"),
    ("path,path\nhere.png,a.jpg", "'path' and 'path', which say the same"),
    ("path,label,class\nhere.png,1,2", "'label' and 'class', which say the same"),
    ("path,label\nhere.png,Labrador, black", r"line 2 of 't\.csv' has 3 cells for 2 columns: .* quotes"),
    ("here.png,dog,1,,x", "line 1 of 't.csv' has 5 cells for 3 columns"),
    ("path,label\nhere.png,K\xe4fer".encode("latin-1"), r"line 2 of 't\.csv' is not in UTF-8: save"),
    ("path\nK\xe4fer.jpg".encode("latin-1"), r"line 2 of 't\.csv' is not in UTF-8"),
])  # fmt: skip
def test_a_table_that_is_not_understood_says_why(at_home, text, words):
    with pytest.raises(OptionError, match=words):
        rows(text)


def test_names_that_are_no_text_are_names_where_they_are_there(at_home):
    make(at_home, "\udcff.jpg")
    assert rows(b"path,label\n\xff.jpg,dog") == [("\udcff.jpg", "dog", None)]
    Path("l.txt").write_bytes(b"\xfe.jpg\n\xff.jpg")
    assert found("l.txt") == ["\udcfe.jpg", "\udcff.jpg"]
    with pytest.raises(ImageError, match=r"no such file: its name is not in UTF-8; if a list named it, save that in"):
        read("\udcfe.jpg")


def test_tabs_separate_what_may_hold_commas(at_home):
    assert rows("a,b.jpg\tdog, grey\t3", "t.TSV") == [("a,b.jpg", "dog, grey", "3")]


def test_a_table_may_name_folders_and_one_picture_twice(at_home):
    told = rows("path,label,target\ndogs,dog,1\nhere.png,x,1\nhere.png,x,2\nlists/,,", "t.csv")
    assert sorted(told[:2]) == [("dogs/1.jpg", "dog", "1"), ("dogs/2.jpg", "dog", "1")]
    assert told[2:4] == [("here.png", "x", "1"), ("here.png", "x", "2")]
    assert sorted(told[4:]) == [("lists/a b.jpg", None, None), ("lists/here.png", None, None)]


def test_blanks_around_a_path_count_where_it_is_called_so(at_home):
    make(at_home, " both.jpg", "both.jpg")
    assert rows("here.png ,x\n both.jpg,y\n gone.jpg,z") == [
        ("here.png", "x", None), (" both.jpg", "y", None), (" gone.jpg", "z", None),
    ]  # fmt: skip


def test_what_is_no_table_says_so(at_home):
    with pytest.raises(OptionError, match=r"line 3 of 't\.csv' has no path"):
        rows("path,label\na.jpg,dog\n ,cat")
    with pytest.raises(OptionError, match=r"cannot read the table 't\.csv': .*field"):
        rows('a.jpg\n"b' + "x" * 200_000)
    with pytest.raises(OptionError, match="cannot read the table"):
        rows(b"\xff\xfe\x00\xd8\x00\xd8")
    for nothing in ("", "\n", "path,label\n"):
        with pytest.raises(ImageError, match=r"no pictures in 't\.csv'"):
            rows(nothing)


# Reading


def test_files_beyond_the_limit_are_not_read(tmp_path):
    path = str(make(tmp_path, "12345.png") / "12345.png")
    assert read(path, 9) == b"12345.png"
    with pytest.raises(ImageError, match=r"12345\.png': 9 bytes, more than the limit of 8"):
        read(path, 8)
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole; nothing is written
    with pytest.raises(ImageError, match=r"1,073,741,825 bytes, more than the limit"):
        read(str(huge))


@pytest.mark.parametrize(
    ("path", "why"),
    [("gone.jpg", "no such file"), ("a\0b.jpg", r"no such|null"), ("x.jpg/a", "no such"), ("a" * 300, "too long")],
)
def test_what_cannot_be_read_says_why(tmp_path, path, why):
    make(tmp_path, "x.jpg")
    with pytest.raises(ImageError, match=why):
        read(f"{tmp_path}/{path}")
