"""Jobs in Python: what they give, what they keep, and that it is what `Explainer.explain` says."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from builders import classifier, png, write
from running import rows as saved

import onnxcam.batch
from onnxcam import Explainer
from onnxcam.batch.job import Job
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.programs import Programs

pytestmark = pytest.mark.anyruntime
LABELS = ["ant", "bee", "cat", "dog"]
OPTIONS = {"labels": LABELS, "preprocess": "unit"}


@pytest.fixture
def photos(tmp_path) -> Path:
    """11 pictures in folders per class, and one that is none."""
    for k in range(11):
        png(tmp_path / "photos" / LABELS[k % 3] / f"{k:02}.png", k, 20 + k % 4, 16 + 3 * (k % 2))
    (tmp_path / "photos" / "dog").mkdir()
    (tmp_path / "photos" / "dog" / "bad.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def job(model: Path, source, out: Path, **options) -> Job:
    return onnxcam.batch.run(model, source, out, **{**OPTIONS, "workers": 2, **options})


def test_each_picture_is_one_row_in_the_order_of_the_plan(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out")
    rows = list(work)
    assert rows == saved(tmp_path / "out")
    assert [r["name"] for r in rows] == sorted(p.relative_to(photos).as_posix() for p in photos.glob("*/*"))
    assert [r["index"] for r in rows] == list(range(12))
    assert work.counts == {"explained": 11, "errors": 1, "flagged": 0}
    assert work.complete
    (bad,) = [r for r in rows if "error" in r]
    assert (bad["source"], bad["kind"], bad["truth"]) == (str(photos / "dog" / "bad.jpg"), "ImageError", "dog")
    assert bad["sha256"] == hashlib.sha256(b"no picture").hexdigest()
    assert "not a picture" in bad["error"]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("axis", ["n", 1, 2])
def test_rows_say_what_explain_says(photos, tmp_path, axis, batch):
    """With a free batch axis and a fixed one, alone and in groups."""
    model = write(tmp_path / "model.onnx", classifier(batch=axis))
    explainer = Explainer(model, **OPTIONS)
    work = job(model, photos, tmp_path / "out", save="heatmap,box,raw", heatmap_format="npy", batch=batch)
    for row in (r for r in work if "error" not in r):
        e = explainer.explain(row["source"])
        assert (row["class_index"], row["label"], row["method"], row["layer"]) == (
            *(e.class_index, e.label, e.method),
            e.layer,
        )
        assert row["score"] == pytest.approx(e.score, abs=1e-6)
        assert [t["class_index"] for t in row["top"]] == [index for index, _, _ in e.top]
        assert row["size"] == list(e.image.shape[:2])
        whole = np.load(tmp_path / "out" / row["files"]["heatmap"])
        np.testing.assert_allclose(whole, e.heatmap_on_image(), atol=1e-6)
        with np.load(tmp_path / "out" / row["files"]["raw"]) as arrays:
            np.testing.assert_allclose(arrays["cam_0"], e.maps[0].cam, atol=1e-6)
        assert [b[:4] for b in row["boxes"]] == [[b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0] for b in e.boxes(0.15)]
        assert [b[4] for b in row["boxes"]] == pytest.approx([b.score for b in e.boxes(0.15)], abs=2e-6)
        assert row["bytes"] == {k: (tmp_path / "out" / f).stat().st_size for k, f in row["files"].items()}


def test_the_small_map_is_the_mean_of_the_heatmap(model, tmp_path):
    png(tmp_path / "photos" / "a.png", 3, 48, 32)
    (row,) = job(model, tmp_path / "photos", tmp_path / "out", save="heatmap", heatmap_format="npy")
    whole = np.load(tmp_path / "out" / "a.png.heatmap.npy")
    means = [[whole[3 * r : 3 * r + 3, 2 * c : 2 * c + 2].mean() for c in range(16)] for r in range(16)]
    small = np.frombuffer(base64.b64decode(row["map"]), np.uint8).reshape(16, 16)
    np.testing.assert_allclose(small, 255 * np.array(means), atol=0.51)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_overlays_and_panels_are_pictures_of_the_format(model, photos, tmp_path, suffix):
    explainer = Explainer(model, **OPTIONS)
    magic = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG", "webp": b"RIFF"}[suffix]
    look = {"colormap": "turbo", "blend": 0.3}
    for row in job(model, photos, tmp_path / "out", save=["overlay", "panel"], image_format=suffix, **look):
        if "error" in row:
            continue
        assert row["files"] == {kind: f"{row['name']}.{kind}.{suffix}" for kind in ("overlay", "panel")}
        data = (tmp_path / "out" / row["files"]["overlay"]).read_bytes()
        assert data.startswith(magic)
        wanted = explainer.explain(row["source"]).overlay(**look)
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        quality = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], "png": [], "webp": [cv2.IMWRITE_WEBP_QUALITY, 95]}[suffix]
        likewise = cv2.imdecode(cv2.imencode(f".{suffix}", wanted[..., ::-1], quality)[1], cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(shown.astype(int) - likewise).mean() < 0.1
        sheet = cv2.imread(str(tmp_path / "out" / row["files"]["panel"]))
        assert sheet.shape[1] >= 3 * row["size"][1]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("kind", "levels"), [("png", 255), ("png16", 65535)])
def test_heatmaps_are_grey_levels(model, photos, tmp_path, kind, levels, signed):
    options = {**OPTIONS, **({"normalize": "none"} if signed else {})}
    explainer = Explainer(model, **options)
    for row in job(model, photos, tmp_path / "out", save="heatmap", heatmap_format=kind, **options):
        if "error" in row:
            continue
        e = explainer.explain(row["source"])
        grey = cv2.imread(str(tmp_path / "out" / row["files"]["heatmap"]), cv2.IMREAD_UNCHANGED)
        assert grey.dtype == (np.uint8 if levels == 255 else np.uint16)
        whole = e.heatmap_on_image()
        wanted = (whole / np.abs(whole).max() + 1) / 2 if signed else whole
        np.testing.assert_allclose(grey, levels * wanted, atol=0.51 + levels * 1e-6)


def test_records_and_compressed_heatmaps_can_be_read(model, photos, tmp_path):
    explainer = Explainer(model, **OPTIONS)
    for row in job(model, photos, tmp_path / "out", save="json,heatmap", heatmap_format="npz"):
        if "error" not in row:
            e = explainer.explain(row["source"])
            told = json.loads((tmp_path / "out" / f"{row['name']}.explanation.json").read_text())
            assert (told["label"], told["layers"]) == (e.label, e.to_dict()["layers"])
            with np.load(tmp_path / "out" / row["files"]["heatmap"]) as arrays:
                np.testing.assert_allclose(arrays["heatmap"], e.heatmap_on_image(), atol=1e-6)


def test_several_layers_have_an_overlay_each(model, photos, tmp_path):
    layers = ["relu1", "relu2"]
    explainer = Explainer(model, target_layer=layers, **OPTIONS)
    for row in job(model, photos, tmp_path / "out", target_layer=layers, image_format="png"):
        if "error" not in row:
            assert row["layer"] == "relu1 + relu2"
            for kind, one in zip(("overlay", "overlay.2"), explainer.explain(row["source"]).per_layer(), strict=True):
                shown = cv2.imread(str(tmp_path / "out" / row["files"][kind]))[..., ::-1]
                assert np.abs(shown.astype(int) - one.overlay()).max() <= 1


def test_boxes_are_kept_as_coco(model, photos, tmp_path):
    rows = [r for r in job(model, photos, tmp_path / "out", save="box", threshold=0.5) if "error" not in r]
    told = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert {i["id"]: (i["file_name"], i["height"], i["width"]) for i in told["images"]} == {
        r["index"]: (r["source"], *r["size"]) for r in rows
    }
    assert {c["id"]: c["name"] for c in told["categories"]} == {r["class_index"]: r["label"] for r in rows}
    explainer = Explainer(model, **OPTIONS)
    wanted = [(r["index"], r["class_index"], b) for r in rows for b in explainer.explain(r["source"]).boxes(0.5)]
    assert len(wanted) >= len(rows)
    assert [(a["image_id"], a["category_id"], *a["bbox"]) for a in told["annotations"]] == [
        (index, found, b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0) for index, found, b in wanted
    ]
    assert [a["id"] for a in told["annotations"]] == list(range(len(wanted)))
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in told["annotations"])


def test_boxes_are_kept_as_pascal_voc(model, photos, tmp_path):
    rows = [r for r in job(model, photos, tmp_path / "out", save="voc", threshold=0.5) if "error" not in r]
    explainer = Explainer(model, **OPTIONS)
    for row in rows:
        assert row["files"] == {"voc": f"{row['name']}.xml"}
        root = ElementTree.parse(tmp_path / "out" / row["files"]["voc"]).getroot()
        assert root.findtext("filename") == Path(row["source"]).name
        assert [int(root.findtext(f"size/{side}")) for side in ("height", "width")] == row["size"]
        box = explainer.explain(row["source"]).boxes(0.5)[0]
        sides = [int(root.findtext(f"object/bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        assert (root.findtext("object/name"), sides) == (row["label"], [box.x0 + 1, box.y0 + 1, box.x1, box.y1])
    assert len(rows) > 3


def test_each_target_that_is_no_class_is_a_category_of_its_own(model, photos, tmp_path):
    first, *_, last = (str(p) for p in sorted(photos.glob("*/*.png")))
    asked = [
        (first, "element:1"),
        (last, "element:2"),
        (first, "element:2"),
        (first, "bee"),
        (last, "element:1"),
    ]
    (tmp_path / "t.csv").write_text("path,target\n" + "".join(f'{path},"{target}"\n' for path, target in asked))
    rows = list(job(model, tmp_path / "t.csv", tmp_path / "out", save="box"))
    told = json.loads((tmp_path / "out" / "boxes.json").read_text())
    names = {c["id"]: c["name"] for c in told["categories"]}
    assert len(names) == len(told["categories"]) == 3
    assert names[1] == "bee"
    assert sorted(number for number in names if number < 0) == [-2, -1]
    first_of = {r["source"]: r["index"] for r in reversed(rows)}
    assert {i["id"]: i["file_name"] for i in told["images"]} == {0: first, 3: last}  # each once
    assert len(told["images"]) == 2
    wanted = [(first_of[r["source"]], r["label"] or r["target"]) for r in rows for _ in r["boxes"]]
    assert [(a["image_id"], names[a["category_id"]]) for a in told["annotations"]] == wanted
    assert len(set(wanted)) == 5


def test_the_table_has_a_line_for_each_row_and_starts_no_formula(model, tmp_path):
    for name in ("=cmd.png", "-a.png", "b\nc.png", "d,e.png", "\udcff.png"):
        png(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"")
    names = sorted(p.name for p in tmp_path.glob("*.png"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        rows = list(job(model, names, tmp_path / "out"))
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        assert file.read(1) == "\ufeff"  # by which Excel knows the encoding
        table = list(csv.DictReader(file))
    shown = ["-a.png", "=cmd.png", "b\nc.png", "bad.png", "d,e.png", "\\udcff.png"]
    assert [t["source"] for t in table] == [f"{tmp_path}/{name}" for name in shown]
    quote = ["'", "'", "", "", ""]
    made = [f"{q}{n}.overlay.jpg" for q, n in zip(quote, (s for s in shown if s != "bad.png"), strict=True)]
    assert [t["files"] for t in table if t["files"]] == made
    for told, row in zip(table, rows, strict=True):
        assert told["index"] == str(row["index"])
        assert told["label"] == (row.get("label") or "")
        assert (told["error"], told["kind"]) == (row.get("error", ""), row.get("kind", ""))
        assert told["files"].strip("'") == row.get("files", {}).get("overlay", "").replace("\udcff", "\\udcff")


def test_truth_is_that_of_the_folder_or_the_table_and_is_held_against_the_top_class(model, photos, tmp_path):
    explainer = Explainer(model, **OPTIONS)
    for row in job(model, photos, tmp_path / "out"):
        assert row["truth"] == Path(row["source"]).parent.name
        if "error" not in row:
            assert row["correct"] == (explainer.explain(row["source"]).top[0][1] == row["truth"])
    one = str(next(photos.glob("ant/*")))
    best = explainer.explain(one).top[0][0]
    table = tmp_path / "table.csv"
    truths = [str(best), LABELS[best].upper(), str((best + 1) % 4), "no such class", ""]
    for truth, correct in zip(truths, [True, True, False, None, None], strict=True):
        table.write_text(f"path,label\n{one},{truth}\n")
        (row,) = job(model, table, tmp_path / f"out {truth}", target="dog")
        assert (row["truth"], row["correct"], row["label"]) == (truth or None, correct, "dog")


def test_a_table_may_ask_for_targets(model, photos, tmp_path):
    first, second = sorted(map(str, photos.glob("ant/*")))[:2]
    table = tmp_path / "table.csv"
    table.write_text(f'path,target\n{first},cat\n{first},"margin:cat,dog"\n{second},\n{second},nonsense\n{first},3\n')
    rows = list(job(model, table, tmp_path / "out", target="bee"))
    told = {(r["source"], r.get("target")): r for r in rows}
    explainer = Explainer(model, **OPTIONS)
    for source, target in ((first, "cat"), (first, "margin:cat,dog"), (first, 3), (second, "bee")):
        e = explainer.explain(source, target)
        assert told[source, e.target]["score"] == pytest.approx(e.score, abs=1e-6)
    (bad,) = [r for r in rows if "error" in r]
    assert (bad["source"], bad["kind"]) == (second, "UnknownNameError")
    assert len({f for r in rows for f in r.get("files", {}).values()}) == 4


def test_only_what_is_about_a_picture_is_a_warning(tmp_path):
    """That the preprocessing is assumed, or the Softmax stepped over, holds for all; a blank map does not."""
    import onnx

    proto = classifier()
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    proto.graph.output[0].name = "p"
    png(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "black.png").write_bytes(cv2.imencode(".png", np.zeros((20, 16, 3), np.uint8))[1].tobytes())
    dead = classifier()
    for tensor in dead.graph.initializer:
        if tensor.name.startswith("b"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    fine = job(write(tmp_path / "p.onnx", proto), tmp_path / "photos", tmp_path / "one", preprocess="auto")
    assert [r["warnings"] for r in fine] == [[], []]
    assert fine.counts["flagged"] == 0
    black = list(job(write(tmp_path / "dead.onnx", dead), tmp_path / "photos", tmp_path / "two"))[1]
    assert black["blank"]
    tie, blank = black["warnings"]
    assert tie.startswith("the top class is a tie of 4 classes")
    assert blank.startswith("the map is blank")


def test_what_a_run_was_is_kept(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out", method="layercam")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is False
    work.finish()
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["complete"] is True
    assert told["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert told["configuration"]["method"] == "layercam"
    assert told["configuration_hash"] == work.plan.hash
    assert told["source"] == str(photos)
    assert told["counts"] == {"planned": 12, "explained": 11, "errors": 1, "flagged": 0}
    (session,) = told["sessions"]
    assert (session["explained"], session["errors"]) == (11, 1)
    assert 0 < session["seconds"] < 60


def test_threads_build_one_program_and_agree(model, photos, tmp_path):
    """Four at once on one session, from the second group on, with targets of several kinds."""
    paths = [str(p) for p in sorted(photos.glob("[abc]*/*"))]
    table = tmp_path / "table.csv"
    targets = ["cat", '"margin:cat,dog"', "probability:bee", "2"]
    table.write_text("path,target\n" + "".join(f"{p},{t}\n" for p in paths for t in targets))
    alone = list(job(model, table, tmp_path / "one", workers=1, batch=3))
    seen: set[int] = set()
    for k in range(3):
        work = job(model, table, tmp_path / f"four{k}", workers=4, batch=3)
        group = work._work.group
        work._work.group = lambda items, group=group: (seen.add(threading.get_ident()), group(items))[1]
        together = list(work)
        assert [{**r, "timings": 0} for r in together] == [{**r, "timings": 0} for r in alone]
    assert len(seen) > 2


def test_threads_that_ask_at_once_build_a_program_once(model, photos, tmp_path, monkeypatch):
    built, real = [], Programs._build

    def build(self, target, plan, feeds):
        built.append((target.key, plan))
        time.sleep(0.05)
        return real(self, target, plan, feeds)

    monkeypatch.setattr(Programs, "_build", build)
    table = tmp_path / "table.csv"
    first, *paths = [str(p) for p in sorted(photos.glob("[abc]*/*"))]
    table.write_text(f"path,target\n{first},cat\n" + "".join(f'{p},"margin:cat,dog"\n' for p in paths))
    assert job(model, table, tmp_path / "out", workers=4, batch=1).finish()["explained"] == 11
    assert len(built) == len(set(built)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"save": "overlays"}, "unknown result to save 'overlays'; did you mean 'overlay'"),
        ({"image_format": "gif"}, "unknown image format 'gif'"),
        ({"heatmap_format": "tiff"}, "unknown heatmap format 'tiff'"),
        ({"method": "gradcm"}, "did you mean 'gradcam'"),
        ({"target": "lion"}, "unknown"),
        ({"runner": "rai"}, "did you mean 'ray'"),
        ({"colormap": "jets"}, "did you mean 'jet'"),
        ({"threshold": 0}, "threshold=0"),
        ({"blend": 2}, "blend"),
        ({"batch": 0}, "batch=0"),
        ({"batch": 2.5}, "batch=2.5: give a whole number above 0"),
        ({"workers": "a"}, "workers='a': give a whole number"),
        ({"save": ""}, "save='': give one or more of overlay, heatmap"),
        ({"save": []}, r"save=\[\]: give one or more"),
        ({"workers": 0}, "workers=0"),
        ({"max_pixels": 0}, "max_pixels=0"),
        ({"ray_address": "auto"}, "belongs to the runner 'ray'"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(model, photos, tmp_path, options, words):
    with pytest.raises((OptionError, UnknownNameError), match=words):
        job(model, photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["s3://bucket/out", Path("s3://bucket/out"), "memory://out", "file:///out", "", " "])
def test_results_stay_on_this_machine(model, photos, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OptionError, match=r"results cannot go to the address|give a folder for the results"):
        job(model, photos, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_several_files_of_a_picture_are_in_one_cell(model, photos, tmp_path):
    job(model, photos, tmp_path / "out", save=["json", "overlay,heatmap"]).finish()
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        told = next(csv.DictReader(file))
    name = next(row["name"] for row in saved(tmp_path / "out") if "error" not in row)
    kinds = ("overlay.jpg", "heatmap.png", "explanation.json")
    assert told["files"] == "; ".join(f"{name}.{kind}" for kind in kinds)
