"""Data sets as they lie on a disk, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import png

from onnxcam.errors import ImageError, OptionError
from onnxcam.evaluate.classes import class_map
from onnxcam.evaluate.data import Sample, find_samples
from onnxcam.evaluate.masks import inside, read_mask, run_lengths
from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def told(samples: list[Sample], root: Path) -> list[tuple]:
    return [(Path(s.source).relative_to(root).as_posix(), s.truth, s.boxes) for s in samples]


def mask_file(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.repeat(mask[..., None].astype(np.uint8) * 200, 3, axis=2))
    return path


# ---- Folders and tables ----


def test_a_folder_tells_classes_and_masks_lie_in_another(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "dog/2.jpg.png"):
        png(tmp_path / "data" / name)
    mask = np.zeros((20, 16), bool)
    mask[3, 4] = True
    mask_file(tmp_path / "masks" / "dog" / "1.png", mask)
    found = find_samples(tmp_path / "data", masks=tmp_path / "masks")
    assert told(found, tmp_path / "data") == [
        ("cat/1.png", "cat", ()),
        ("dog/1.png", "dog", ()),
        ("dog/2.jpg.png", "dog", ()),
    ]
    assert [s.mask and Path(s.mask).parent.name for s in found] == [None, "dog", None]
    assert np.array_equal(read_mask(found[1].mask, (20, 16)), mask)


def test_masks_may_lie_flat_and_none_that_fits_is_refused(tmp_path):
    png(tmp_path / "data" / "dog" / "7.png")
    mask_file(tmp_path / "masks" / "7.mask.png", np.ones((20, 16), bool))
    assert find_samples(tmp_path / "data", masks=tmp_path / "masks")[0].mask == str(tmp_path / "masks" / "7.mask.png")
    mask_file(tmp_path / "others" / "8.png", np.ones((20, 16), bool))
    with pytest.raises(OptionError, match=r"none of the 1 masks .* such as '7.png'"):
        find_samples(tmp_path / "data", masks=tmp_path / "others")
    with pytest.raises(OptionError, match="is no folder"):
        find_samples(tmp_path / "data", masks=tmp_path / "nowhere")
    beside = mask_file(tmp_path / "data" / "dog" / "7.mask.png", np.ones((20, 16), bool))
    assert [s.mask for s in find_samples(tmp_path / "data", masks=tmp_path / "data")] == [str(beside)]


def test_dots_in_names_are_no_suffixes(tmp_path):
    """Of folders and files: only the last one is cut off, and ``.mask`` before it."""
    for number in (1, 2, 3):
        png(tmp_path / "data" / "v1.2" / f"frame.000{number}.jpg.png", number)
    masks = tmp_path / "masks" / "v1.2"
    for name in ("frame.0001.jpg.png", "frame.0003.jpg.mask.png", "frame.png", "frame.0002.png"):
        mask_file(masks / name, np.ones((20, 16), bool))
    found = find_samples(tmp_path / "data", masks=tmp_path / "masks")
    names = ("frame.0001.jpg.png", None, "frame.0003.jpg.mask.png")
    assert [s.mask for s in found] == [name and str(masks / name) for name in names]


def test_masks_of_a_table_lie_in_folders_like_its_pictures(tmp_path):
    """One that lies flat may be of either."""
    for name in ("a", "b"):
        png(tmp_path / name / "1.png")
    table = put(tmp_path / "t.csv", "path,truth\na/1.png,cat\nb/1.png,cat\nb/1.png,dog\n")
    inner = mask_file(tmp_path / "masks" / "b" / "1.png", np.ones((20, 16), bool))
    found = find_samples(table, masks=tmp_path / "masks")
    assert [s.mask for s in found] == [None, str(inner), str(inner)]
    flat = mask_file(tmp_path / "masks" / "1.png", np.ones((20, 16), bool))
    assert [s.mask for s in find_samples(table, masks=tmp_path / "masks")] == [str(flat), str(inner), str(inner)]
    inner.unlink()
    with pytest.raises(OptionError, match=r"1 in '.*masks' may belong to '.*a.1\.png' or to '.*b.1\.png'"):
        find_samples(table, masks=tmp_path / "masks")


def test_a_table_joins_the_boxes_of_a_class(tmp_path):
    table = put(
        tmp_path / "t.csv",
        'Image,Class,Box,Mask\nb.png,dog,1 2 3 4,\na.png,cat,,m.png\nb.png,dog,"5,6,7.5,8",\nb.png,cat,0 0 1 1,\n',
    )
    found = find_samples(table)
    assert told(found, tmp_path) == [
        ("a.png", "cat", ()), ("b.png", "dog", ((1, 2, 3, 4), (5, 6, 7.5, 8))), ("b.png", "cat", ((0, 0, 1, 1),)),
    ]  # fmt: skip
    assert found[0].mask == str(tmp_path / "m.png")
    sides = put(tmp_path / "sides.csv", "path,truth,x0,y0,x1,y1\na.png,cat,1,2,3,4\nb.png,,,,,\n")
    assert told(find_samples(sides), tmp_path) == [("a.png", "cat", ((1, 2, 3, 4),)), ("b.png", None, ())]
    plain = put(tmp_path / "plain.csv", "a.png,cat\n")
    assert told(find_samples(plain), tmp_path) == [("a.png", "cat", ())]


@pytest.mark.parametrize("box", ["1 2 3", "3 2 1 4", "1 4 3 4", "1 2 x 4", "nan nan nan nan"])
def test_a_bad_box_is_told_with_its_line(tmp_path, box):
    table = put(tmp_path / "t.csv", f"path,truth,box\na.png,cat,0 0 1 1\nb.png,cat,{box}\nb.png,cat,0 0 2 2\n")
    good, bad = find_samples(table)
    assert (good.error, good.boxes) == (None, ((0, 0, 1, 1),))
    assert f"t.csv, line 3: the box '{box}' is not x0 y0 x1 y1" in bad.error
    put(table, f"path,truth,box\nb.png,cat,{box}\n")
    with pytest.raises(OptionError, match="line 2: the box"):  # nothing is left
        find_samples(table)


def test_two_masks_of_one_class_are_refused(tmp_path):
    table = put(tmp_path / "t.csv", "path,truth,mask\na.png,cat,1.png\na.png,cat,2.png\nb.png,cat,1.png\n")
    bad, good = find_samples(table)
    assert "line 3: a second mask of" in bad.error
    assert good.error is None


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_may_have_a_mark_and_is_utf8(tmp_path, mark):
    table = put(tmp_path / "t.csv", f"{mark}path,truth\nbücher.png,cat\n")
    assert told(find_samples(table), tmp_path) == [("bücher.png", "cat", ())]
    table.write_bytes("path,truth\nbücher.png,cat\n".encode("cp1252"))
    with pytest.raises(OptionError, match=r"t\.csv: .*UTF-8"):
        find_samples(table)


# ---- Pascal VOC ----

XML = """<annotation><filename>{file}</filename>{objects}</annotation>"""
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def xml(file: str, *objects: tuple) -> str:
    return XML.format(file=file, objects="".join(OBJECT.format(*o) for o in objects))


def test_voc_counts_from_one_and_leaves_difficult_objects_out(tmp_path):
    text = xml(
        "1.jpg", ("dog", 0, 1, 1, 1, 1), ("cat", 0, 11, 21, 30, 40), ("dog", 0, 5, 6, 7, 8), ("cow", 1, 1, 1, 9, 9)
    )
    png(tmp_path / "flat" / "1.jpg")
    put(tmp_path / "flat" / "1.xml", text)
    expected = [("1.jpg", "dog", ((0, 0, 1, 1), (4, 5, 7, 8))), ("1.jpg", "cat", ((10, 20, 30, 40),))]
    assert told(find_samples(tmp_path / "flat"), tmp_path / "flat") == expected
    png(tmp_path / "voc" / "JPEGImages" / "1.jpg")
    put(tmp_path / "voc" / "Annotations" / "1.xml", text)
    assert told(find_samples(tmp_path / "voc"), tmp_path / "voc" / "JPEGImages") == expected


def test_a_renamed_picture_is_the_one_called_like_the_xml(tmp_path):
    """Beside it, or in JPEGImages; what the XML names comes first."""
    one = ("dog", 0, 1, 1, 2, 2)
    for name in ("flat/a[1].xml", "voc/Annotations/b.xml", "both/c.xml"):
        put(tmp_path / name, xml("orig.png", one))
    for name in ("flat/a[1].png", "voc/JPEGImages/b.webp", "both/c.png", "both/orig.png"):
        put(tmp_path / name, "")
    found = [find_samples(tmp_path / folder)[0].source for folder in ("flat", "voc", "both")]
    wanted = ("flat/a[1].png", "voc/JPEGImages/b.webp", "both/orig.png")
    assert found == [str(tmp_path / name) for name in wanted]


def test_a_file_name_in_xml_leads_nowhere_else(tmp_path):
    png(tmp_path / "flat" / "1.jpg")
    png(tmp_path / "secret.jpg")
    put(tmp_path / "flat" / "1.xml", xml("../secret.jpg", ("dog", 0, 1, 1, 2, 2)))
    assert find_samples(tmp_path / "flat")[0].source == str(tmp_path / "flat" / "1.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        "<a><object><name>x</name></object></a>",
        xml("1.jpg", ("dog", 0, 1, 1, 2, 2), ("dog", 0, "x", 1, 2, 2)),
        xml("1.jpg", ("dog", 0, 9, 1, 2, 2)),
        '<?xml version="1.0" encoding="nonsense"?><annotation/>',
    ],
)
def test_xml_that_is_none_is_named(tmp_path, text):
    put(tmp_path / "1.xml", text)
    with pytest.raises(OptionError, match=r"1\.xml is no annotation of Pascal VOC"):
        find_samples(tmp_path)
    put(tmp_path / "2.xml", xml("2.jpg", ("dog", 0, 1, 1, 2, 2)))
    bad, good = find_samples(tmp_path)
    assert (bad.source, bad.truth) == (str(tmp_path / "1.xml"), None)
    assert "1.xml is no annotation of Pascal VOC" in bad.error
    assert (good.truth, good.error) == ("dog", None)


# ---- COCO ----


def coco(**changes) -> dict:
    first = {
        "image_id": 1,
        "category_id": 7,
        "bbox": [1, 2, 3, 4],
        "iscrowd": 0,
        "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]],
    }
    crowd = {
        "image_id": 1,
        "category_id": 7,
        "bbox": [0, 0, 9, 9],
        "iscrowd": 1,
        "segmentation": {"counts": [320], "size": [20, 16]},
    }
    other = {"image_id": 2, "category_id": 3, "bbox": [5, 5, 1, 1]}
    return {
        "images": [{"id": 2, "file_name": "b.png"}, {"id": 1, "file_name": "sub/a.png"}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [other, crowd, first],
        **changes,
    }


def test_coco_boxes_have_width_and_height(tmp_path):
    path = put(tmp_path / "notes" / "coco.json", json.dumps(coco()))
    png(tmp_path / "pictures" / "sub" / "a.png")
    found = find_samples(path, images=tmp_path / "pictures")
    assert told(found, tmp_path / "pictures") == [
        ("sub/a.png", "dog", ((1, 2, 4, 6),)),
        ("b.png", "cat", ((5, 5, 6, 6),)),
    ]
    mask = read_mask(found[0].mask, (20, 16))
    assert np.array_equal(np.argwhere(mask), [(r, c) for r in (1, 2) for c in (1, 2, 3)])
    assert found[1].mask is None


def test_coco_finds_pictures_beside_itself(tmp_path):
    path = put(tmp_path / "coco.json", json.dumps(coco()))
    png(tmp_path / "images" / "b.png")
    assert find_samples(path)[1].source == str(tmp_path / "images" / "b.png")


@pytest.mark.parametrize("changes", [{"images": 3}, {"annotations": [{"image_id": 1}]}, {"categories": []}])
def test_json_that_is_not_coco_is_named(tmp_path, changes):
    path = put(tmp_path / "coco.json", json.dumps(coco(**changes)))
    with pytest.raises(OptionError, match=r"coco\.json is not COCO's JSON"):
        find_samples(path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image_id": 9}, "image_id 9, category_id 3: no such id: 9"),
        ({"category_id": 9}, "image_id 2, category_id 9: no such id: 9"),
        ({"bbox": [5, 5, 0, 1]}, "image_id 2, category_id 3: the box 5 5 5 6"),
        ({"bbox": [5, 5, 1]}, "image_id 2, category_id 3: "),
        ({"segmentation": [[1, 2, 3]]}, "image_id 2, category_id 3: a polygon that is not x0 y0 x1 y1"),
        ({"segmentation": [[1, 2, 3, float("nan"), 1, 1]]}, "image_id 2, category_id 3: a polygon that is not"),
        ({"segmentation": [[1, 2, 3, 1e300, 1, 1]]}, "image_id 2, category_id 3: a polygon that is not"),
        ({"segmentation": {"counts": [1e999], "size": [3, 4]}}, "category_id 3: cannot convert float infinity"),
    ],
)
def test_a_bad_annotation_spoils_no_other(tmp_path, changes, why):
    told_of = coco()
    told_of["annotations"][0].update(changes)
    path = put(tmp_path / "coco.json", "\ufeff" + json.dumps(told_of))
    found = find_samples(path)
    assert [s.truth for s in found if not s.error] == ["dog"]
    assert [why in s.error for s in found if s.error] == [True]


def test_images_belong_to_coco(tmp_path):
    png(tmp_path / "a.png")
    with pytest.raises(OptionError, match="belongs to COCO"):
        find_samples(tmp_path, images=tmp_path)


def test_an_empty_folder_has_no_pictures(tmp_path):
    with pytest.raises(ImageError, match="no pictures"):
        find_samples(tmp_path)


# ---- Masks ----


def test_a_polygon_covers_the_pixels_whose_centres_lie_in_it():
    polygon = np.array([(1.2, 0.7), (7.9, 2.1), (4.4, 3.0), (6.1, 7.6), (0.4, 5.5)])  # with a dent
    mask = inside(polygon, (8, 9))
    for r in range(8):
        for c in range(9):
            assert mask[r, c] == _winds(polygon, c + 0.5, r + 0.5), (r, c)
    assert 15 < mask.sum() < 40


def _winds(polygon: np.ndarray, x: float, y: float) -> bool:
    """Whether the angles under which the corners are seen go all the way round."""
    way = np.arctan2(polygon[:, 1] - y, polygon[:, 0] - x)
    turns = (np.roll(way, -1) - way + np.pi) % (2 * np.pi) - np.pi
    return bool(abs(turns.sum()) > np.pi)


def test_run_lengths_go_down_the_columns():
    mask = np.array([(0, 1, 0), (1, 1, 0)], bool)  # 0 1 | 1 1 | 0 0
    assert np.array_equal(run_lengths([1, 3, 2], (2, 3), (2, 3)), mask)
    # 1, 3, 2 as letters: below 16 a number is one letter from "0" on
    assert np.array_equal(run_lengths("132", (2, 3), (2, 3)), mask)


def test_packed_run_lengths_have_long_numbers_and_differences():
    # 100 = 4 + 3 * 32: "T" (4, more follow), "3"; then 3, 5, and 98 as 98 - 3 = 95 = 31 + 2 * 32: "o", "2"
    # then 4 as 4 - 5 = -1: all five bits set, "O"
    mask = run_lengths("T335o2O", (10, 21), (10, 21)).T.ravel()
    assert np.array_equal(np.flatnonzero(np.diff(mask.astype(int))) + 1, np.cumsum([100, 3, 5, 98]))


@pytest.mark.parametrize(("counts", "of"), [([1, 3, 3], (2, 3)), ([1, 3, 2], (3, 2)), ([8, -2], (2, 3)), ("1", (2, 3)),
                                            ([2**63 - 1, 2**63 - 1, 8], (2, 3))])  # fmt: skip
def test_run_lengths_of_another_size_are_refused(counts, of):
    with pytest.raises(ImageError, match="do not fill a picture of 2 x 3"):
        run_lengths(counts, of, (2, 3))


def test_a_mask_of_another_size_or_without_pixels_is_refused(tmp_path):
    path = mask_file(tmp_path / "m.png", np.ones((4, 5), bool))
    with pytest.raises(ImageError, match="has 4 x 5 pixels; the picture has 5 x 4"):
        read_mask(str(path), (5, 4))
    with pytest.raises(ImageError, match="is empty"):
        read_mask(str(mask_file(tmp_path / "n.png", np.zeros((4, 5), bool))), (4, 5))


# ---- Classes ----

LABELS = ("tench, Tinca tinca", "Beagle", "Pug", "crane", "Crane")


def test_classes_are_known_by_name_or_index():
    assert class_map(["beagle", "TINCA TINCA", "2", "9", "person"], LABELS, 5) == {
        "beagle": (1,),
        "TINCA TINCA": (0,),
        "2": (2,),
    }
    with pytest.raises(OptionError, match="the name of the classes 3 and 4"):
        class_map(["crane"], LABELS, 5)
    with pytest.raises(OptionError, match=r"none of the data's classes \(person\).*--classes"):
        class_map(["person"], LABELS, 5)
    assert class_map([], None, 5) == {}


def test_a_table_maps_a_class_to_several(tmp_path):
    table = put(tmp_path / "map.csv", "Dog,1-2,pug\nfish, tench ,0\nbird\n")
    assert class_map(["dog", "fish", "bird", "Beagle"], LABELS, 5, table) == {"dog": (1, 2), "fish": (0,)}


@pytest.mark.parametrize(
    ("line", "why"),
    [("dog,1-5", "no range"), ("dog,wolf", "neither a name nor"), ("dog,2-1", "no range"), ("dog,9", "neither")],
)
def test_a_table_that_names_no_class_is_refused(tmp_path, line, why):
    table = put(tmp_path / "map.csv", line)
    with pytest.raises(OptionError, match=why):
        class_map(["dog"], LABELS, 5, table)


def test_the_mapping_of_voc_names_every_class_once():
    labels = (Path(__file__).parents[2] / "model_zoo" / "labels" / "imagenet.txt").read_text().splitlines()
    table = Path(__file__).parents[2] / "docs" / "voc_imagenet.csv"
    voc = [*(line.partition(",")[0] for line in table.read_text().splitlines()), "person"]
    found = class_map(voc, labels, 1000, table)
    indices = [k for own in found.values() for k in own]
    assert len(voc) == len(set(voc)) == 20
    assert set(voc) - set(found) == {"person"}
    assert len(indices) == len(set(indices)) == 240
    assert len(found["dog"]) == 118
    assert [labels[found[name][0]] for name in ("aeroplane", "horse", "sofa")] == ["airliner", "sorrel", "studio couch"]
