"""`onnxcam export`: what it writes, and that nothing is written where it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from builders import answers, classifier, value, write
from builders import model as model_of
from onnx import helper

from onnxcam import Explainer
from onnxcam.core import localize

pytestmark = pytest.mark.anyruntime
PICTURES = np.random.default_rng(3).random((2, 3, 12, 12), dtype=np.float32)


def test_a_model_its_record_and_a_line_of_what_was_written(run, model, tmp_path):
    out, labels = tmp_path / "x.onnx", tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    done = run("export", model, "-o", out, "--raw", "--boxes", "--size", "24x20", "--labels", labels, "--json")
    ex = Explainer(model)
    assert done.code == 0
    assert f"wrote {out}: heatmap (gradcam at {ex.layers[0].name})" in done.err
    (told,) = done.json
    assert (told["file"], told["source"]["name"], told["target"]) == (str(out), "model.onnx", "logit of the class")
    found = answers(out, image=PICTURES, **{"onnxcam/class": np.asarray([-1, 2])})
    assert list(found) == ["logits", "heatmap", "cam", "boxes", "class_index"]
    want = [ex.explain_tensor(PICTURES[:1])[0], ex.explain_tensor(PICTURES[1:], 2)[0]]
    np.testing.assert_allclose(found["cam"], np.stack([e.maps[0].cam for e in want]), atol=1e-5)
    assert found["heatmap"].shape == (2, 24, 20)
    boxes = [localize.boxes(h)[0] for h in found["heatmap"]]
    assert found["boxes"].tolist() == [[b.x0, b.y0, b.x1, b.y1] for b in boxes]


def test_methods_layers_and_a_label_that_is_settled(run, model, tmp_path):
    out, labels = tmp_path / "x.onnx", tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    given = ["--method", "hirescam", "--method", "reciprocam", "--layer", "relu1", "--layer", "relu2"]
    done = run("export", model, "-o", out, *given, "--fixed-class", "cat", "--labels", labels)
    assert (done.code, done.out) == (0, "")
    found = answers(out, image=PICTURES)
    for method in ("hirescam", "reciprocam"):
        ex = Explainer(model, method=method, target_layer=["relu1", "relu2"])
        for k, e in enumerate(ex.explain_tensor(PICTURES, 2)):
            for m in e.maps:
                np.testing.assert_allclose(found[f"heatmap_{method}_{m.layer}"][k], m.heatmap, atol=1e-4)
    assert found["class_index"].tolist() == [2, 2]


@pytest.fixture
def refuses(fails, model, tmp_path):
    """Runs the command on the model, or another; nothing is written. The message."""

    def call(*options: object, source: object = model, out: str = "x.onnx") -> str:
        before = {p.name for p in tmp_path.rglob("*")}
        told = fails("export", source, "-o", tmp_path / out, *options)
        assert {p.name for p in tmp_path.rglob("*")} == before
        return str(told)

    return call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "gradcamm"], "unknown method 'gradcamm'; did you mean 'gradcam'"),
        (["--method", "rise"], "RISE needs many runs of the model for each image (2000), and an exported"),
        (["--method", "ablationcam"], "for each image (1, and 1 of the head per channel), and an exported"),
        (["--method", "randomcam"], "RandomCAM is not written as nodes: take a method of one run"),
        (["--method", "gradcam", "--method", "grad_cam"], "gradcam is given twice: give each method once"),
        (["--layer", "nope"], "unknown layer 'nope'; known: conv1"),
        (["--layer", "gap"], "a CAM needs a float map"),
        (["--layer", "relu2", "--layer", "second_relu"], "layer 'relu2' and 'second_relu' is given twice"),
        (["--layer", "auto", "--layer", "relu2"], "give each layer once"),
        (["--fixed-class", "4"], "class 4 does not exist; this model has classes 0 to 3"),
        (["--fixed-class", "zebra"], "unknown class 'zebra'"),
        (["--target", "margin:1"], "a margin needs two classes"),
        (["--target", "margin:1,9"], "class 9 does not exist"),
        (["--target", "nonsense:1"], "unknown class 'nonsense:1'"),
        (["--target", "value"], "output logits holds (4) numbers per picture: say which, as in element:3"),
        (["--target", "element:4"], "element 4 does not exist on an axis of length 4"),
        (["--target", "probability:1", "--fixed-class", "1"], "both say what is explained: give one"),
        (["--target", "probability:1", "--top1"], "both say which class"),
        (["--top1", "--fixed-class", "1"], "both say which class"),
        (["--normalize", "percentile"], "sorts pixels, which is not exported: take max, minmax or none"),
        (["--normalize", "loud"], "unknown normalization 'loud'"),
        (["--fuse", "sum"], "unknown fusion 'sum'; known: max, mean"),
        (["--size", "0x5"], "size=0x5: height and width must be at least 1"),
        (["--picture", "99999x99999"], "9,999,800,001 pixels, and at most 178,956,970"),
        (["--picture", "99999999999999999999"], "write any, or HEIGHTxWIDTH, such as 480x640"),
        (["--picture", "-5x5"], "write any, or HEIGHTxWIDTH"),
        (["--size", "5x5x5"], "write HEIGHTxWIDTH, such as 480x640"),
        (["--size", "big"], "write HEIGHTxWIDTH, such as 480x640"),
        (["--output", "nope"], "unknown output 'nope'; known: logits"),
        (["--preprocess", "nope"], "unknown preprocess preset 'nope'"),
        (["--labels", "/nope.txt"], "cannot read the label file /nope.txt"),
        (["--opset", "9"], "opset=9"),
    ],
)
def test_options_that_cannot_be(refuses, options, message):
    assert message in refuses(*options)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.txt", "x.txt' is no NAME.onnx, by which programs know a model"),
        ("x", "x' is no NAME.onnx"),
        (".onnx", ".onnx' is no NAME.onnx"),
        ("x" * 300 + ".onnx", "File name too long; choose another name"),
        ("model.onnx/x.onnx", "model.onnx' is no folder; choose one"),
        ("nowhere/x.onnx", "there is no folder"),
        (".", "is a folder: give the name of a file"),
        ("model.onnx", "model.onnx' is there already: give another name, or force (--force)"),
    ],
)
def test_places_that_cannot_be(refuses, out, message):
    assert message in refuses(out=out)


def test_the_model_itself_is_not_written_over(fails, model):
    before = model.read_bytes()
    assert "own file" in fails("export", model, "-o", model, "--force")
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.onnx", classifier().SerializeToString()[:500], "is not an ONNX model, or is cut off (500 bytes)"),
        ("text.onnx", b"hello", "is not an ONNX model, or is cut off (5 bytes)"),
        ("empty.onnx", b"", "is empty"),
    ],
)
def test_damaged_models(refuses, tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    assert message in refuses(source=tmp_path / name)


def test_models_that_are_not_there_or_not_of_images(refuses, tmp_path):
    assert "no such file" in refuses(source=tmp_path / "nope.onnx")
    assert "unknown zoo model 'nope'" in refuses(source="zoo:nope")
    assert "no image input" in refuses(source="zoo:shapes-caption-decoder")
    rows = model_of(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        [value("x", ["n", 8])],
        [value("y", ["n", 2])],
        {"w": np.ones((8, 2), np.float32)},
    )
    assert "no image input" in refuses(source=write(tmp_path / "rows.onnx", rows))


def test_an_exported_model_is_not_exported_again(run, refuses, model, tmp_path):
    assert run("export", model, "-o", tmp_path / "first.onnx", "--method", "layercam").code == 0
    told = refuses(source=tmp_path / "first.onnx")
    assert "is an exported explainable model already (layercam of model.onnx): export its source again" in told


def test_what_recipro_cam_cannot_is_told_with_figures(refuses, tmp_path):
    large = write(tmp_path / "large.onnx", classifier(size=240))
    told = refuses("--method", "reciprocam", "--layer", "relu1", source=large)
    assert "57600 copies of its features, 75938 MB for each image, and at most 256 MB are exported" in told


def test_json_names_what_goes_in_and_out(tmp_path, run):
    (told,) = run("export", "zoo:shapes-cnn", "-o", tmp_path / "x.onnx", "--boxes", "--raw", "--json").json
    assert told["inputs"] == ["image", "onnxcam/class"]
    assert told["outputs"] == ["logits", "heatmap", "cam", "boxes", "class_index"]
