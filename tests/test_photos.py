"""Lists of pictures: folders, tables, labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcam.errors import ImageError, OptionError
from onnxcam.image import read_image
from onnxcam.photos import Photo, find_photos, strays

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dog/b.jpg", "dog/deep/a.PNG", "cat/a.png", "cat/a.mask.png", ".hid/a.png", "dog/note.txt", "z.bmp"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "data"


def test_a_folder_tells_its_classes(folder):
    assert find_photos(folder) == [
        Photo(folder / "cat/a.png", "cat"),
        Photo(folder / "dog/b.jpg", "dog"),
        Photo(folder / "dog/deep/a.PNG", "dog"),
        Photo(folder / "z.bmp"),
    ]


@pytest.mark.parametrize("header", ["", "label,path\n", "\ufeffimage,x,class\n"])
def test_a_table_tells_paths_and_labels(tmp_path, header):
    line = {"": "dog/b.jpg, 3", "label,path\n": "3,dog/b.jpg", "\ufeffimage,x,class\n": "dog/b.jpg,9,3"}[header]
    table = tmp_path / "t.csv"
    table.write_text(f"{header}{line}\n\n", encoding="utf-8")
    assert find_photos(table) == [Photo(tmp_path / "dog/b.jpg", "3")]


def test_a_header_without_labels_gives_none(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,size\na.png,7\n")
    assert find_photos(table) == [Photo(tmp_path / "a.png")]


def test_labels_of_a_table_go_to_the_pictures_by_path_else_by_name(folder):
    (folder / "t.csv").write_text("cat/a.png,0\nelsewhere/b.jpg,1\nx/z.bmp,2\ny/z.bmp,3\n")
    assert [p.label for p in find_photos(folder, folder / "t.csv")] == ["0", "1", None, None]


def test_a_path_that_leads_to_another_picture_labels_no_picture_of_its_name(folder):
    (folder / "cat/b.jpg").touch()
    (folder / "t.csv").write_text("cat/b.jpg,cat\n")
    both = find_photos([folder / "cat/b.jpg", folder / "dog/b.jpg"], folder / "t.csv")
    assert [p.label for p in both] == ["cat", None]
    with pytest.raises(OptionError, match="names none"):
        find_photos([folder / "dog/b.jpg"], folder / "t.csv")
    (folder / "t.csv").write_text("b.jpg,any\n")
    assert [p.label for p in find_photos([folder / "dog/b.jpg"], folder / "t.csv")] == ["any"]
    assert strays(find_photos([folder / "dog/b.jpg"]), folder / "t.csv") == []


def test_several_sources_are_one_list(folder):
    found = find_photos([folder / "dog", folder / "z.bmp"])
    assert [p.path.name for p in found] == ["b.jpg", "a.PNG", "z.bmp"]
    assert [p.label for p in found] == [None, "deep", None]


def test_what_holds_no_picture_says_so(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"no pictures in .*empty'.*\.jpg"):
        find_photos(tmp_path / "empty")
    with pytest.raises(ImageError, match="no such file or folder"):
        find_photos(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="an empty list"):
        find_photos([])
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(OptionError, match=r"t\.csv has no lines"):
        find_photos(tmp_path / "t.csv")
    with pytest.raises(ImageError, match=r"a folder, not a picture; name the pictures in it, such as .*empty/\*\.jpg"):
        read_image(tmp_path / "empty")


def test_a_table_of_other_pictures_or_of_none_is_refused(tmp_path, folder):
    (tmp_path / "t.csv").write_text("other.png,1\n")
    with pytest.raises(OptionError, match=r"names none of the 4 pictures.*reads as path 'other\.png' and label '1'"):
        find_photos(folder, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a.png;1\nb.jpg;2\n")
    with pytest.raises(OptionError, match=r"reads as path 'a\.png;1' and no label; .* with a comma between"):
        find_photos(folder, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("\n")
    with pytest.raises(OptionError, match=r"t\.csv has no lines"):
        find_photos(folder, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(OptionError, match="cannot read the table"):
        find_photos(folder, tmp_path / "t.csv")


def test_a_missing_picture_is_left_for_whoever_reads_it(folder):
    assert find_photos([folder / "z.bmp", folder / "gone.JPG"]) == [Photo(folder / "z.bmp"), Photo(folder / "gone.JPG")]


@pytest.mark.parametrize("name", ["a\0b.png", "round.png", "x" * 5000])
def test_a_name_that_leads_nowhere_is_left_for_whoever_reads_it(folder, name):
    (folder / "round.png").symlink_to("round.png")
    (table := folder / "t.csv").write_text(f"{name},1\nz.bmp,2\n")
    assert find_photos(table) == [Photo(folder / name, "1"), Photo(folder / "z.bmp", "2")]
    assert find_photos(folder / "z.bmp", table) == [Photo(folder / "z.bmp", "2")]
    with pytest.raises(ImageError, match="cannot read"):
        read_image(folder / name)


def test_two_labels_of_one_picture_are_refused(folder):
    table = folder / "t.csv"
    table.write_text("cat/a.png,0\nz.bmp,1\ncat/../cat/a.png,0\n")  # twice the same is no contradiction
    assert find_photos(folder, table)[0].label == "0"
    table.write_text("cat/a.png,0\nz.bmp,1\ncat/../cat/a.png,2\n")
    for photos, labels in ((folder, table), (table, None)):
        with pytest.raises(OptionError, match=r"t\.csv says both '0' and '2' of a\.png; keep one line"):
            find_photos(photos, labels)


def test_labels_of_no_picture_are_found(folder):
    table = folder / "t.csv"
    table.write_text("cat/a.png,0\nold/b.jpg,1\nblank.png,\ngone.png,2\n")
    assert strays(find_photos(folder), table) == ["gone.png"]
