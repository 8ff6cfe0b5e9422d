"""Class names from files of every kind, and from a model's metadata."""

from __future__ import annotations

import pytest

from onnxcam.errors import OptionError
from onnxcam.labels import find_labels

pytestmark = pytest.mark.anyruntime
NAMES = ("cat", "dog, hound", "zébra")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog, hound\nzébra\n"),
        ("a.names", "  cat\r\n\r\ndog, hound\r\nzébra"),
        ("bom.txt", "\ufeffcat\ndog, hound\nzébra"),
        ("a.csv", 'cat\n"dog, hound"\nzébra\n'),
        ("a.csv", '0,cat\n1,"dog, hound"\n2,zébra\n'),
        ("a.CSV", 'index,name\n2,zébra\n0,cat\n1,"dog, hound"\n'),
        ("a.csv", 'name,index\ncat,0\nzébra,2\n"dog, hound",1\n'),
        ("a.json", '["cat", "dog, hound", "zébra"]'),
        ("a.JSON", '{"0": "cat", "2": "zébra", "1": "dog, hound"}'),
    ],
)
def test_files_of_every_kind(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert find_labels(path, {}) == find_labels(str(path), {}) == NAMES


def test_gaps_are_filled_with_the_index(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"0": "cat", "2": "dog"}')
    assert find_labels(path, {}) == ("cat", "1", "dog")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.json", b"{}", "is empty"),
        ("a.csv", b"\n", "is empty"),
        ("a.txt", b"\xff\xfe\x00cat", "cannot read"),
        ("a.json", b"", "not understood"),
        ("a.json", b"{'0': ", "not understood"),
        ("a.json", b"7", "neither a list"),
        ("a.json", b'"cat"', "neither a list"),
        ("a.json", b'{"cat": 0}', "not understood"),
        ("a.json", b'{"999999999999": "cat"}', "no class index"),
        ("a.json", b'{"-1": "cat"}', "no class index"),
        ("a.json", b"[" * 100_000, "not understood"),
    ],
)
def test_files_that_hold_no_names_are_refused(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(OptionError, match=said) as caught:
        find_labels(path, {})
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path, why in ((tmp_path / "none.txt", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(OptionError) as caught:
            find_labels(path, {})
        assert str(caught.value) == f"cannot read the label file {path}: {why}; give a text, CSV or JSON file"


def test_a_list_is_taken_as_it_is():
    assert find_labels(["a", "b"], {"names": "['c']"}) == ("a", "b")


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, None),
        ({"names": "{0: 'person', 1: \"driver's seat\"}"}, ("person", "driver's seat")),
        ({"names": "['a', 'b']"}, ("a", "b")),
        ({"onnxcam/labels": '["x", "y"]', "names": "['a']"}, ("x", "y")),
        ({"names": "cat,dog"}, None),
        ({"names": "7"}, None),
        ({"names": ""}, None),
        ({"names": "[]"}, None),
    ],
)
def test_metadata_is_read_where_it_is_understood(meta, expected):
    assert find_labels(None, meta) == expected
