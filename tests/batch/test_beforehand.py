"""What is wrong with a whole job is told once, before it starts; what holds for all pictures, once."""

from __future__ import annotations

import json
import sys

import pytest
from builders import classifier, png, write
from running import job, rows

from onnxcam import Explainer
from onnxcam.errors import ImageError, MissingPackageError, OnnxcamError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("", {"threads": 0}, OptionError, "threads=0: give 1 to"),
        ("", {"providers": ["Foo"]}, OptionError, "execution provider 'Foo' is not in this ONNX Runtime; it has"),
        ("zoo:shapes-vqa", {"preprocess": "auto"}, OptionError, "takes more than a picture: question .*Give question"),
        ("zoo:shapes-detector", {"target": "box:dog"}, UnknownNameError, "unknown class 'dog'"),
        ("zoo:shapes-detector", {"target": "box:99"}, OptionError, "class 99 does not exist"),
        ("zoo:shapes-detector", {"target": "dog@3,4"}, UnknownNameError, "unknown class 'dog'"),
        ("", {"target": "box:1"}, OptionError, "no boxes; take a class as target"),
        ("", {"target": "1@3,4"}, OptionError, "no class per pixel"),
        ("", {"target": "similar:nofile.png"}, ImageError, "nofile.png"),
        ("", {"method": "lime"}, MissingPackageError, r"scikit-image .*pip install 'onnxcam\[methods\]'"),
    ],
)  # fmt: skip
def test_what_no_picture_can_mend_stops_a_job_at_the_start(
    model, photos, tmp_path, monkeypatch, name, options, kind, words
):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(OnnxcamError, match=words) as caught:
        job(name or model, photos, tmp_path / "out", **options).finish()
    assert type(caught.value) is kind
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_stops_a_job_where_a_table_asks_for_targets(model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    table = tmp_path / "table.csv"
    table.write_text("path,target\n" + "".join(f"{path},1\n" for path in photos.glob("*/*")))
    with pytest.raises(MissingPackageError):
        job(model, table, tmp_path / "out", method="lime").finish()
    assert not (tmp_path / "out").exists()


def test_what_is_about_one_picture_stops_no_job(tmp_path, photos, model):
    """A reference that is there, a point that lies in some pictures, a box that some have."""
    reference = next(photos.glob("*/*"))
    job(model, photos, tmp_path / "one", target=f"similar:{reference}").finish()
    assert max(r["score"] for r in rows(tmp_path / "one")) == pytest.approx(1, abs=1e-5)
    png(photos / "b" / "large.png", 1, 90, 90)
    told = job("zoo:shapes-detector", photos, tmp_path / "two", target="box:@60,60", preprocess="auto")
    assert [r["name"] for r in told if "error" not in r] == ["b/large.png"]
    assert "lies outside the picture" in rows(tmp_path / "two")[0]["error"]


def test_a_run_tells_the_providers_that_a_session_has(model, photos, tmp_path, monkeypatch):
    class Other:
        def __init__(self, model, providers, threads, worker):
            assert worker is None
            self.providers = [*(providers or ["None"]), f"with {threads}"]

    monkeypatch.setattr("onnxcam.batch.beforehand.Session", Other)
    job(model, photos, tmp_path / "out", providers=["CPUExecutionProvider"], threads=3)
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["providers"] == ["CPUExecutionProvider", "with 3"]


def test_a_job_whose_pictures_failed_names_the_way_to_try_them_again(model, photos, tmp_path):
    for number, path in enumerate(sorted(photos.glob("*/*"))):
        if number:
            path.write_bytes(b"")
    job(model, photos, tmp_path / "some").finish()
    with pytest.raises(
        OptionError, match=r"already, 10 of 11 pictures failed: try them again .*\(--retry-errors\), or"
    ):
        job(model, photos, tmp_path / "some")
    (photos / "a" / "00.png").write_bytes(b"")
    job(model, photos, tmp_path / "all").finish()
    with pytest.raises(
        OptionError, match=r"already, all of 11 pictures failed: try them again .*\(--retry-errors\), or"
    ):
        job(model, photos, tmp_path / "all")


# ---- What holds for all pictures, and what for one ----


def test_a_guessed_preprocessing_is_told_by_notices_run_and_report(model, photos, tmp_path):
    work = job(model, photos, tmp_path / "out", preprocess="auto", report=True)
    reason = Explainer(model).preprocess_reason
    assert "imagenet is assumed: nothing in the model tells" in reason
    assert work.notices == [reason]
    work.finish()
    assert work.notices.count(reason) == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["preprocess_reason"] == reason
    assert "preprocessing imagenet is assumed" in (tmp_path / "out" / "report.html").read_text()
    assert job(model, photos, tmp_path / "told").notices == []


def test_what_holds_for_all_pictures_is_told_once(photos, tmp_path):
    import onnx

    proto = classifier()
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    proto.graph.output[0].name = "p"
    model = write(tmp_path / "p.onnx", proto)
    work = job(model, photos, tmp_path / "out", workers=3)
    work.finish()
    (note,) = Explainer(model, preprocess="unit").explain(next(photos.glob("*/*"))).notes
    assert note.startswith("explained at logits")
    assert work.notices == [note]
    assert all(r["warnings"] == [] for r in rows(tmp_path / "out"))


def test_a_doubt_about_a_picture_is_among_its_warnings(photos, tmp_path):
    explainer = Explainer("zoo:shapes-detector")
    work = job("zoo:shapes-detector", photos, tmp_path / "out", preprocess="auto", target="star")
    found = 0
    for row in work:
        doubts = [
            note for note in explainer.explain(row["source"], "star").notes if note.startswith("the box scores only")
        ]
        assert [w for w in row["warnings"] if "box" in w] == doubts
        found += len(doubts)
    assert found > 0
    assert work.counts["flagged"] >= found
