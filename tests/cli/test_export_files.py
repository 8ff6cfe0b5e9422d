"""`onnxcam export` as a command, and what the other commands say of its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import classifier, png, write

from onnxcam import Explainer
from onnxcam.export.provenance import MARK, provenance

pytestmark = pytest.mark.anyruntime
LABELS = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def exported(tmp_path, run) -> Path:
    write(tmp_path / "net.onnx", classifier())
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    given = (
        "--labels",
        tmp_path / "names.txt",
        "--preprocess",
        "caffe",
        "--method",
        "layercam",
        "--method",
        "saliency",
    )
    done = run("export", tmp_path / "net.onnx", "-o", tmp_path / "xai.onnx", *given)
    assert done.code == 0, done.err
    return tmp_path / "xai.onnx"


def record_of(path: Path) -> str:
    return next(p.value for p in onnx.load(path).metadata_props if p.key == MARK)


def with_record(path: Path, text: str) -> Path:
    proto = onnx.load(path)
    for prop in proto.metadata_props:
        prop.value = text if prop.key == MARK else prop.value
    return write(path.with_name("other.onnx"), proto)


def test_all_files_that_were_written_are_named(tmp_path, run):
    write(tmp_path / "net.onnx", classifier(21))
    options = ("--ort", "--external-data", "--opset", 18, "--top1", "--json")
    done = run("export", tmp_path / "net.onnx", "-o", tmp_path / "xai.onnx", *options)
    assert done.code == 0, done.err
    (told,) = done.json
    written = sorted(str(p) for p in tmp_path.iterdir() if p.name != "net.onnx")
    assert sorted(told["files"]) == written
    assert [Path(w).name for w in written] == ["xai.onnx", "xai.onnx.data", "xai.ort", "xai.required_operators.config"]
    assert all(w in done.err for w in written)
    assert onnx.load(tmp_path / "xai.onnx").opset_import[0].version == 18
    refused = run("export", tmp_path / "net.onnx", "-o", tmp_path / "xai.onnx", "--fp16", "--force")
    assert (refused.code, refused.out) == (2, "")
    assert "no large float32 weights" in refused.err


def test_what_an_earlier_export_left_is_told(tmp_path, run):
    source, out = write(tmp_path / "net.onnx", classifier()), tmp_path / "xai.onnx"
    assert run("export", source, "-o", out, "--external-data").code == 0
    done = run("export", source, "-o", out, "--force", "--json")
    assert (done.code, done.json[0]["removed"]) == (0, [f"{out}.data"])
    assert f"removed {out}.data, of an earlier export" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "xai.onnx"]
    assert run("export", source, "-o", out, "--force", "--json").json[0]["removed"] == []


def test_inspect_shows_where_an_exported_model_comes_from(exported, run):
    sha = Explainer(exported.with_name("net.onnx")).model.sha256
    (facts,) = run("inspect", exported, "--json").json
    told = facts["export"]
    assert told["source"] == {"name": "net.onnx", "sha256": sha}
    assert told["maps"] == {
        "heatmap_layercam": {"method": "layercam", "layer": "relu2", "normalize": "max"},
        "heatmap_saliency": {"method": "saliency", "layer": "", "normalize": "max"},
    }
    assert (told["target"], told["classes"], told["preprocess"]["name"]) == ("logit of the class", None, "caffe")
    shown = " ".join(run("inspect", exported).out.split())
    assert f"from net.onnx (sha256 {sha})" in shown
    assert "heatmap_layercam layercam at relu2; normalize max heatmap_saliency saliency; normalize max" in shown
    assert run("inspect", exported.with_name("net.onnx"), "--json").json[0]["export"] is None


def test_settled_classes_are_shown(exported, run):
    given = ("--fixed-class", "1", "--force")
    assert run("export", exported.with_name("net.onnx"), "-o", exported, *given).code == 0
    assert "settled: onnxcam/class is 1" in run("inspect", exported).out
    assert run("inspect", exported, "--json").json[0]["export"]["classes"] == {"onnxcam/class": 1}


@pytest.mark.parametrize("output", ["heatmap_layercam", "class_index"])
def test_what_explains_is_not_what_is_explained(exported, fails, output):
    for command in (["inspect", exported], ["explain", exported, "none.png", "-o", exported.parent / "out"]):
        told = fails(*command, "--output", output)
        assert f"output '{output}' holds no scores (it explains others); those that may: logits" in told


def test_boxes_of_evidence_are_no_scores_of_four_classes(tmp_path, run):
    out = tmp_path / "xai.onnx"
    assert run("export", "zoo:shapes-unet", "-o", out, "--boxes", "--raw").code == 0
    (logits,) = (facts["logits"] for facts in run("inspect", out, "--json").json)
    assert (logits["name"], logits["kind"], logits["classes"]) == ("logits", "dense", 8)


DAMAGED = {
    "no JSON": "{not json",
    "a list": "[1, 2]",
    "empty": "",
    "a number": "7",
    "no source": '{"maps": {}, "onnxcam": "1"}',
    "maps of numbers": '{"onnxcam": "1", "source": {"name": "a", "sha256": "b"}, "maps": {"heatmap": 3}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_record_is_shown_as_such(exported, run, kind):
    other = with_record(exported, DAMAGED[kind])
    (facts,) = run("inspect", other, "--json").json
    assert list(facts["export"]) == ["damaged"]
    assert 0 < len(facts["export"]["damaged"]) <= 200
    done = run("inspect", other)
    assert done.code == 0
    assert "whose record is damaged" in done.out
    refused = run("export", other, "-o", exported.with_name("again.onnx"))
    assert (refused.code, refused.out) == (2, "")
    assert "an exported explainable model already (its metadata say so)" in refused.err


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("onnxcam",), 3),
        (("source", "name"), None),
        (("source",), "net.onnx"),
        (("maps", "heatmap_layercam", "layer"), ["relu2"]),
        (("target",), {"a": 1}),
        (("classes",), {"onnxcam/class": "three"}),
        (("preprocess",), {"fit": "sideways"}),
        (("preprocess",), "caffe"),
        (("preprocess",), {"fit": "s" * 5000}),
        (("unread",), "x" * 2_000_000),
        (("picture",), "any"),
        (("picture",), {"size": ["wide", 3], "preprocess": {}}),
        (("picture",), {"size": "any", "preprocess": {"fit": "sideways"}}),
    ],
)
def test_every_part_of_a_record_is_checked(exported, path, wrong):
    told = json.loads(record_of(exported))
    assert "damaged" not in (provenance({MARK: json.dumps(told)}) or {})
    place = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    found = provenance({MARK: json.dumps(told)}) or {}
    assert list(found) == ["damaged"]
    assert len(found["damaged"]) <= 200


def test_a_record_steers_no_terminal_and_is_no_page_long(exported, run):
    told = json.loads(record_of(exported))
    told["source"]["name"] = "\x1b]0;owned\x07<script>alert(1)</script>[bold red]"
    told["target"] = "y" * 5000
    told["maps"] |= {f"heatmap{k}": told["maps"]["heatmap_saliency"] for k in range(500)}
    done = run("inspect", with_record(exported, json.dumps(told)))
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert "\\x1b]0;owned\\x07<script>alert(1)</script>[bold red]" in done.out
    assert "y" * 190 in done.out
    assert "y" * 201 not in done.out
    assert "... 502 in all; --json lists them" in done.out
    assert "heatmap99 " not in done.out


@pytest.mark.parametrize(("asked", "shown"), [("any", "any size"), ("9x7", "9x7")])
def test_inspect_tells_that_it_takes_a_picture(tmp_path, run, asked, shown):
    write(tmp_path / "net.onnx", classifier())
    given = ("--picture", asked, "--preprocess", "caffe")
    assert run("export", tmp_path / "net.onnx", "-o", tmp_path / "x.onnx", *given).code == 0
    assert f"an RGB picture, {shown}; inside: caffe" in run("inspect", tmp_path / "x.onnx").out


@pytest.mark.parametrize("options", [(), ("--top1",), ("--picture", "any", "--overlay")])
def test_an_exported_model_is_explained_by_its_logits(tmp_path, run, options):
    """Its own maps may be of any class, and nobody is asked of which."""
    write(tmp_path / "net.onnx", classifier())
    source, other, photo = tmp_path / "net.onnx", tmp_path / "xai.onnx", png(tmp_path / "p.png", height=12, width=12)
    assert run("export", source, "-o", other, "--preprocess", "unit", *options).code == 0
    want, found = Explainer(source, preprocess="unit").explain(photo), Explainer(other).explain(photo)
    np.testing.assert_allclose(found.heatmap, want.heatmap, atol=1e-5)
    assert (found.class_index, found.score) == (want.class_index, pytest.approx(want.score, rel=1e-4))
    done = run("explain", other, photo, "-o", tmp_path / "out", "--method", "rise", "--json")
    assert done.code == 0, done.err
    assert run("batch", other, photo, "-o", tmp_path / "batch").code == 0
