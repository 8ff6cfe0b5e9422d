"""`onnxcam explain`: pictures in; overlays, arrays and records out; what is refused, and how."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path

import builders
import numpy as np
import onnx
import pytest
from builders import NODES, classifier, png, value, weights, write
from onnx import helper
from transformers import ViT

from onnxcam import Explainer, Explanation, explanation, files
from onnxcam.methods import METHODS

pytestmark = pytest.mark.anyruntime
FILES = ["picture.gradcam.json", "picture.gradcam.npz", "picture.gradcam.png"]


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# What comes out


def test_a_picture_gives_overlay_arrays_and_record(run, model, picture, tmp_path):
    done = run("explain", model, picture, "-o", tmp_path / "out")
    assert done.code == 0
    assert listing(tmp_path / "out") == FILES
    e = Explainer(model).explain(picture)
    assert "picture.png" in done.out
    assert f"class {e.class_index}" in done.out
    assert f"{e.score:.4g}" in done.out
    loaded = Explanation.load(tmp_path / "out" / FILES[0])
    np.testing.assert_array_equal(loaded.heatmap, e.heatmap)


def test_json_is_one_object_per_picture_and_nothing_else(run, model, picture, tmp_path):
    other = png(tmp_path / "other.png", seed=5)
    done = run("explain", model, picture, other, "-o", tmp_path / "out", "--json")
    assert done.code == 0
    first, second = done.json
    e = Explainer(model).explain(other)
    assert (second["source"], second["class_index"]) == (str(other), e.class_index)
    assert second["score"] == pytest.approx(e.score)
    assert Path(first["files"]["overlay"]).is_file()
    assert "imagenet is assumed" in done.err


def test_notices_come_once_and_on_stderr(run, model, picture, tmp_path):
    done = run("explain", model, picture, png(tmp_path / "b.png"), "-o", tmp_path / "out")
    assert done.err.count("imagenet is assumed") == 1
    assert "assumed" not in done.out


def test_options_reach_the_explainer(run, model, picture, tmp_path):
    options = {
        "method": "hirescam",
        "target": 3,
        "layer": "relu1",
        "preprocess": "unit,fit=stretch",
        "normalize": "minmax",
    }
    flat = [text for name, given in options.items() for text in (f"--{name}", given)]
    assert run("explain", model, picture, "-o", tmp_path / "out", *flat).code == 0
    (record,) = (tmp_path / "out").glob("*.json")
    e = Explainer(model, "unit,fit=stretch", "relu1", "hirescam", normalize="minmax").explain(picture, 3)
    np.testing.assert_array_equal(Explanation.load(record).heatmap, e.heatmap)
    assert json.loads(record.read_text())["class_index"] == 3


def test_several_layers_are_fused_where_asked(run, model, picture, tmp_path):
    layers = ["--layer", "relu1", "--layer", "relu2"]
    assert run("explain", model, picture, "-o", tmp_path / "each", *layers).code == 0
    assert len(list((tmp_path / "each").glob("*.png"))) == 2
    assert run("explain", model, picture, "-o", tmp_path / "one", *layers, "--fuse", "mean").code == 0
    (record,) = (tmp_path / "one").glob("*.json")
    both = Explainer(model, target_layer=["relu1", "relu2"], fuse="mean").explain(picture)
    np.testing.assert_array_equal(Explanation.load(record).heatmap, both.heatmap)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_catalogue_runs(run, model, picture, tmp_path, method):
    given = write(tmp_path / "vit.onnx", ViT().proto()) if "attention" in METHODS[method].needs else model
    done = run("explain", given, picture, "-o", tmp_path / "out", "--method", method, "--json")
    assert (done.code, done.json[0]["method"]) == (0, method)


def test_pictures_of_one_name_do_not_overwrite_each_other(run, model, tmp_path):
    """Nor does a picture whose own name looks like a numbered one, or differs in case alone."""
    names = ["a/x.png", "b/x.png", "x-2.png", "c/x.png", "d/X.png", "x.jpg"]
    pictures = [png(tmp_path / name, seed=k) for k, name in enumerate(names)]
    done = run("explain", model, *pictures, "-o", tmp_path / "out", "--json")
    records = [r["files"]["record"] for r in done.json]
    assert len({r.casefold() for r in records}) == len(names)
    for record, picture in zip(records, pictures, strict=True):
        assert json.loads(Path(record).read_text())["source"] == str(picture)
    assert len(listing(tmp_path / "out")) == 3 * len(names)


def test_spaces_and_unicode_in_paths(run, tmp_path):
    folder = tmp_path / "größe 大 😀"
    model, picture = write(folder / "my model.onnx", classifier()), png(folder / "péché photo.png")
    done = run("explain", model, picture, "-o", folder / "out put")
    assert done.code == 0
    assert (folder / "out put" / "péché photo.gradcam.png").is_file()
    assert "péché photo.png" in done.out


def test_the_model_file_is_only_read(run, tmp_path, picture):
    model = write(tmp_path / "models" / "model.onnx", classifier(9, ir_version=4))
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    model.parent.chmod(0o555)
    try:
        done = run("explain", model, picture, "-o", tmp_path / "out", "--json")
    finally:
        model.parent.chmod(0o755)
    assert done.json[0]["model_sha256"] == digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert listing(model.parent) == ["model.onnx"]


def test_labels_name_the_classes(run, model, picture, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("tabby, tabby cat\nred fox, Vulpes vulpes\nbee\nant\n")
    found = [
        run("explain", model, picture, "-o", tmp_path / "out", "--labels", labels, "--target", t, "--json").json[0]
        for t in ("red fox, Vulpes vulpes", "RED FOX", "1")
    ]
    assert [f["class_index"] for f in found] == [1, 1, 1]
    assert {f["label"] for f in found} == {"red fox, Vulpes vulpes"}


@pytest.mark.parametrize("names", ["a\nb\n", "background\na\nb\nc\nd\n"])
def test_names_that_differ_in_number_from_the_classes_are_pointed_out(run, model, picture, tmp_path, names):
    labels = tmp_path / "labels.txt"
    labels.write_text(names)
    done = run("explain", model, picture, "-o", tmp_path / "out", "--labels", labels, "--target", 3)
    assert done.code == 0
    assert f"{len(names.split())} names for 4 classes" in done.err
    assert ("class 3" in done.out) == (names == "a\nb\n")


# Models that are out of the ordinary


def test_a_photo_in_colour_is_made_grey_for_a_model_of_one_channel(run, tmp_path, picture):
    model = write(tmp_path / "grey.onnx", classifier(channels=1))
    done = run("explain", model, picture, "-o", tmp_path / "out", "--preprocess", "raw", "--json")
    assert done.code == 0
    grey = run("explain", model, picture, "-o", tmp_path / "out", "--preprocess", "raw,color=GRAY", "--json")
    assert done.json[0]["score"] == grey.json[0]["score"]


def test_a_model_of_four_channels_is_refused(fails, tmp_path, picture):
    model = write(tmp_path / "four.onnx", classifier(channels=4))
    assert "takes 4 channels" in fails("explain", model, picture, "-o", tmp_path / "out", "--preprocess", "raw")


def test_a_float16_model_is_explained(run, tmp_path, picture):
    model = write(tmp_path / "half.onnx", classifier(dtype=np.float16))
    done = run("explain", model, picture, "-o", tmp_path / "out", "--json", "--target", 0)
    wide = Explainer(write(tmp_path / "wide.onnx", classifier())).explain(picture, 0)
    assert done.code == 0
    assert done.json[0]["score"] == pytest.approx(wide.score, abs=0.02)


def mlp() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], "dense"),
    ]
    w = np.random.default_rng(0).standard_normal((432, 4)).astype(np.float32)
    return builders.model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], {"w": w})


def test_a_model_without_a_spatial_layer_offers_methods_that_need_none(run, fails, tmp_path, picture):
    model = write(tmp_path / "mlp.onnx", mlp())
    message = fails("explain", model, picture, "-o", tmp_path / "out")
    assert "no spatial layer" in message
    assert "saliency" in message
    assert run("explain", model, picture, "-o", tmp_path / "out", "--method", "saliency").code == 0


def test_scores_that_are_not_a_number_are_told_for_their_picture_alone(run, tmp_path, picture):
    """log of the mean: NaN where the picture is black after normalisation, a number where it is not."""
    nodes = [*NODES[:-1], helper.make_node("Gemm", ["flat", "wd", "bd"], ["sum"])]
    nodes += [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Log", ["mean"], ["log"]),
    ]
    nodes += [
        helper.make_node("Unsqueeze", ["log", "one"], ["column"]),
        helper.make_node("Add", ["sum", "column"], ["logits"]),
    ]
    extra = {"axes": np.array([1, 2, 3]), "one": np.array([1])}
    proto = builders.model(
        nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], {**weights(), **extra}
    )
    model = write(tmp_path / "log.onnx", proto)
    black = tmp_path / "black.png"
    rows = zlib.compress(bytes(20 * (1 + 16 * 3)))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 20, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    black.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    options = ["--preprocess", "raw", "--layer", "relu2", "--json"]
    done = run("explain", model, black, picture, "-o", tmp_path / "out", *options)
    assert done.code == 1
    assert "NaN or infinite" in done.json[0]["error"]
    assert done.json[1]["source"] == str(picture)
    assert listing(tmp_path / "out") == FILES


def test_constant_scores_give_a_blank_map_and_a_word(run, tmp_path, picture):
    proto = classifier()
    for tensor in proto.graph.initializer:
        if tensor.name == "wd":
            tensor.raw_data = bytes(len(tensor.raw_data))
    done = run("explain", write(tmp_path / "flat.onnx", proto), picture, "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert done.json[0]["blank"] is True
    assert "the map is blank" in done.err


# What is refused before anything is written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "gradcm"], "did you mean 'gradcam'"),
        (["--engine", "prtable"], "did you mean 'portable'"),
        (["--layer", "rellu2"], "did you mean 'relu2'"),
        (["--layer", ""], "unknown layer ''"),
        (["--preprocess", "imgnet"], "did you mean 'imagenet'"),
        (["--preprocess", "imagenet,meen=1"], "did you mean 'mean'"),
        (["--preprocess", "imagenet,mean=x"], "mean='x'"),
        (["--preprocess", "imagenet,size=13x13"], "(12, 12) only"),
        (["--colormap", "jett"], "did you mean 'jet'"),
        (["--style", "bled"], "did you mean 'blend'"),
        (["--blend", "1.5"], "blend=1.5"),
        (["--normalize", "maxx"], "did you mean 'max'"),
        (["--fuse", "men"], "did you mean 'mean'"),
        (["--output", "logit"], "did you mean 'logits'"),
        (["--provider", "CPU"], "CPUExecutionProvider"),
        (["--threads", "0"], "threads=0"),
        (["--max-pixels", "0"], "--max-pixels 0"),
        (["--target", "4"], "classes 0 to 3"),
        (["--target=-2"], "class -2 does not exist"),
        (["--target", "margin:1"], "a margin needs two classes"),
        (["--target", "cat"], "a class index, or a label file"),
        (["--labels", "none.txt"], "cannot read the label file none.txt"),
    ],
)  # fmt: skip
def test_options_that_do_not_exist_or_fit_are_refused(fails, model, picture, tmp_path, options, said):
    base = [] if "--preprocess" in options else ["--preprocess", "raw"]
    assert said in fails("explain", model, picture, "-o", tmp_path / "out", *base, *options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_label_offers_the_closest(fails, model, picture, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("tabby\nred fox\nbee\nant\n")
    said = fails(
        "explain",
        model,
        picture,
        "-o",
        tmp_path / "out",
        "--labels",
        labels,
        "--target",
        "red fax",
        "--preprocess",
        "raw",
    )
    assert "did you mean 'red fox'" in said


@pytest.mark.parametrize("data", ["", "\n \n"])
def test_an_empty_label_file_is_refused(fails, model, picture, tmp_path, data):
    labels = tmp_path / "labels.txt"
    labels.write_text(data)
    assert "is empty" in fails("explain", model, picture, "--labels", labels, "-o", tmp_path / "out")


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_an_output_folder_with_a_file_in_the_way_is_refused(fails, model, picture, tmp_path, below):
    (tmp_path / "taken").write_text("mine")
    assert "cannot write to the folder" in fails("explain", model, picture, "-o", tmp_path / "taken" / below)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_model_that_is_none_is_one_message(fails, picture, tmp_path):
    assert "no such file" in fails("explain", tmp_path / "none.onnx", picture)
    assert "not an ONNX model" in fails("explain", picture, picture)
    assert "is a folder" in fails("explain", tmp_path, picture)
    assert "unknown zoo model 'shapes-cn'" in fails("explain", "zoo:shapes-cn", picture)


# Pictures that cannot be read


@pytest.fixture
def bad(tmp_path) -> list[Path]:
    """Missing, a folder, empty, text, cut off, of no size, a bomb."""
    whole = png(tmp_path / "whole.png").read_bytes()
    header = {"zero": (0, 20), "bomb": (60_000, 60_000)}
    made = {"empty.png": b"", "text.png": b"no picture", "cut.png": whole[:-30]}
    for name, size in header.items():
        chunk = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        made[f"{name}.png"] = whole[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    return [tmp_path / name for name in ("none.png", "folder.png", *made)]


def test_bad_pictures_fail_alone(run, model, picture, tmp_path, bad):
    done = run("explain", model, *bad, picture, "-o", tmp_path / "out", "--preprocess", "raw", "--json")
    assert done.code == 1
    assert [r.get("error") is not None for r in done.json] == [True] * len(bad) + [False]
    assert all(str(path) in r["error"] and r["source"] == str(path) for path, r in zip(bad, done.json, strict=False))
    assert listing(tmp_path / "out") == FILES
    assert "Traceback" not in done.err


def test_bad_pictures_alone_are_exit_code_2_and_leave_no_folder(run, model, tmp_path, bad):
    done = run("explain", model, *bad, "-o", tmp_path / "out", "--preprocess", "raw")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("onnxcam: cannot read") == len(bad)
    assert not (tmp_path / "out").exists()


def test_the_limit_of_pixels_can_be_set(run, model, picture, tmp_path):
    done = run("explain", model, picture, "-o", tmp_path / "out", "--max-pixels", 319, "--preprocess", "raw")
    assert done.code == 2
    assert "max_pixels" in done.err
    assert run("explain", model, picture, "-o", tmp_path / "out", "--max-pixels", 320).code == 0


# Writing


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_disk_that_fills_up_leaves_no_half_files(run, model, picture, tmp_path, monkeypatch, left):
    """The first ``left`` files fit; of the next, half is written."""
    real, count = files.whole, iter(range(9))

    @contextmanager
    def whole(path, scratch=None, **more):
        with real(path, scratch, **more) as file:
            yield file
            if next(count) >= left:
                file.truncate(file.tell() // 2)
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "whole", whole)
    done = run("explain", model, picture, "-o", tmp_path / "out", "--preprocess", "raw")
    assert done.code == 2
    assert "No space left on device" in done.err
    found = listing(tmp_path / "out") if (tmp_path / "out").exists() else []
    assert len(found) == left
    assert set(found) <= set(FILES)
    assert "picture.gradcam.json" not in found


def test_what_was_finished_is_told_when_a_later_picture_stops_the_run(run, model, picture, tmp_path, monkeypatch):
    real = explanation.write_whole

    def full(path, data):
        if path.name.startswith("b."):
            raise explanation.OutputError("no space")
        return real(path, data)

    monkeypatch.setattr(explanation, "write_whole", full)
    done = run("explain", model, picture, png(tmp_path / "b.png"), "-o", tmp_path / "out")
    assert done.code == 2
    assert "picture.png" in done.out


def test_the_bundled_model_explains_its_samples(run, tmp_path):
    from onnxcam import zoo

    samples = zoo.samples("shapes-cnn")[:2]
    done = run("explain", "zoo:shapes-cnn", *samples, "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert [r["label"] in zoo.model("shapes-cnn").labels for r in done.json] == [True, True]
