"""`onnxcam web`: what is written, what the page is told of a model, where the browser's runtime comes from."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import classifier, write
from onnx import numpy_helper

from onnxcam import Explainer, Preprocess, load_model
from onnxcam.core.overlay import colormap_table
from onnxcam.errors import ModelError, OptionError, OutputError, RuntimeUnavailableError, UnknownNameError
from onnxcam.export import MARK, Form, export
from onnxcam.image import InputSpec
from onnxcam.web import describe, levels, write_site
from onnxcam.web.library import PAGE, find_library, package

pytestmark = pytest.mark.anyruntime
NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "x.onnx"
    Explainer("zoo:shapes-cnn").export(path)
    return path


@pytest.fixture
def library(tmp_path):
    """A folder as npm leaves it; what is in the files does not matter to Python."""
    folder = tmp_path / "app/node_modules/onnxruntime-web/dist"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    return tmp_path / "app"


def test_a_site_is_whole(exported, library, tmp_path):
    site = tmp_path / "site"
    assert write_site(exported, site, runtime=library) == site / "index.html"
    found = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    assert (site / "model.onnx").read_bytes() == exported.read_bytes()
    kept = json.loads((site / "sw.js").read_text().splitlines()[0].removeprefix("const SITE = ").removesuffix(";"))
    assert {"./", *found} == {"sw.js", *kept["files"]}
    text = "".join((site / name).read_text() for name in ("index.html", "app.js", "worker.js", "pixels.js"))
    named = re.findall(r"""(?:src|href)="([^":]+)"|(?:from|Worker\(|fetch\(|URL\(|register\() ?'([^']+)'""", text)
    asked = {(a or b).removeprefix("./") for a, b in named}
    assert asked == found - {"index.html"}
    assert "http" not in re.sub(r"http-equiv", "", text)  # nothing comes from elsewhere


def test_the_service_worker_is_another_where_the_model_is(exported, library, tmp_path):
    def version(model, name):
        write_site(model, tmp_path / name, runtime=library)
        return (tmp_path / name / "sw.js").read_text().splitlines()[0]

    Explainer("zoo:shapes-cnn", method="layercam").export(tmp_path / "y.onnx")
    assert version(exported, "a") == version(exported, "b") != version(tmp_path / "y.onnx", "c")


def test_what_the_page_is_told(exported):
    told = describe(load_model(exported), "viridis")
    assert told["title"] == "shapes-cnn"
    size = {"batch": None, "channels": 3, "height": 112, "width": 112}
    assert told["input"] == {"name": "image", "dtype": "float32", "layout": "NCHW", **size}
    labels = ("circle", "square", "triangle", "star", "cross", "heart", "arrow")
    assert told["classes"] == {"input": "onnxcam/class", "count": 7, "labels": labels}
    [shown] = told["maps"]
    assert (shown["output"], shown["title"], shown["normalize"]) == ("heatmap", "Grad-CAM", "max")
    assert (told["scores"], told["index"], told["target"]) == ("logits", "class_index", "logit of the class")
    assert base64.b64decode(told["colors"]) == colormap_table("viridis").tobytes()
    signed = np.frombuffer(base64.b64decode(told["signed_colors"]), np.uint8).reshape(256, 3)
    assert signed[[0, 255]].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert signed[127:129].min() >= 254
    table = np.frombuffer(base64.b64decode(told["levels"]), np.float32).reshape(3, 256)
    np.testing.assert_allclose(table, np.tile(np.arange(256) / 255, (3, 1)), rtol=1e-6)


def test_levels_are_what_the_model_is_given():
    """By the formula, in the order of the model's channels."""
    way, x = Preprocess.parse("caffe,std=2/3/5"), np.arange(256)
    want = [(x - m) / s for m, s in zip((103.939, 116.779, 123.68), (2, 3, 5), strict=True)]
    np.testing.assert_allclose(levels(way, InputSpec("NHWC", 3, 9, None)), want, rtol=1e-5, atol=1e-5)
    signed = levels(Preprocess.parse("raw,mean=128"), InputSpec("NCHW", 1, 9, 9, np.int8))
    assert signed.dtype == np.int8
    assert signed.tolist() == [list(range(-128, 128))]


def test_a_settled_class_leaves_nothing_to_choose(tmp_path):
    methods = [Explainer("zoo:shapes-cnn", method=name) for name in ("gradcam", "saliency")]
    export(methods, tmp_path / "x.onnx", form=Form(fixed_class="star", class_index=False))
    told = describe(load_model(tmp_path / "x.onnx"))
    assert (told["classes"]["input"], told["index"]) == (None, None)
    assert [m["output"] for m in told["maps"]] == ["heatmap_gradcam", "heatmap_saliency"]


@pytest.mark.parametrize("shape", [["N", 4, 1, 1], [1, 4]])
def test_scores_may_come_as_maps_of_one_pixel(tmp_path, shape):
    proto = classifier()
    proto.graph.node[-1].output[0] = "flat_logits"
    size = numpy_helper.from_array(np.asarray([1 if d == "N" else d for d in shape]), "size")
    proto.graph.node.append(onnx.helper.make_node("Reshape", ["flat_logits", "size"], ["logits"]))
    proto.graph.initializer.append(size)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape))
    Explainer(write(tmp_path / "m.onnx", proto), preprocess="unit").export(tmp_path / "x.onnx")
    told = describe(load_model(tmp_path / "x.onnx"))
    assert (told["scores"], told["classes"]["count"]) == ("logits", 4)


@pytest.mark.parametrize("embedding_first", [True, False])
def test_scores_are_those_of_the_output_that_carries_them(tmp_path, embedding_first):
    """The logits of a model with Softmax at its end are no output; another of its outputs is no score of classes."""
    proto = classifier()
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["prob"]))
    features = next(n for n in proto.graph.node if n.output[0] == "logits").input[0]
    shapes = {"prob": ["N", 4], features: ["N", 6]}
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[::-1] if embedding_first else outputs)
    Explainer(write(tmp_path / "m.onnx", proto), preprocess="unit").export(tmp_path / "x.onnx")
    told = describe(load_model(tmp_path / "x.onnx"))
    assert (told["scores"], told["classes"]["count"]) == ("prob", 4)


def test_a_map_per_class_is_no_score(exported, tmp_path):
    def edit(record):
        return json.dumps(record | {"scores": {"output": None, "classes": 7}})

    told = describe(load_model(changed(exported, tmp_path / "x.onnx", damaged(edit))))
    assert (told["scores"], told["classes"]["count"]) == (None, 7)


def test_a_record_says_no_more_than_it_should(exported, tmp_path):
    def edit(record):
        record["maps"]["heatmap"] |= {"output": "logits", "title": "Mine", "more": 1}
        return json.dumps(record | {"more": 1})

    told = describe(load_model(changed(exported, tmp_path / "x.onnx", damaged(edit))))
    assert told == describe(load_model(exported))


def test_a_model_that_does_not_explain_itself_is_refused(tmp_path, library):
    path = write(tmp_path / "plain.onnx", classifier())
    with pytest.raises(ModelError, match=r"does not explain itself: .*onnxcam export .*plain\.onnx"):
        write_site(path, tmp_path / "site", runtime=library)
    assert not (tmp_path / "site").exists()


def changed(exported, path, edit):
    proto = onnx.load(exported)
    edit(proto, {p.key: p for p in proto.metadata_props})
    onnx.save(proto, path)
    return path


def damaged(text):
    def edit(proto, meta):
        meta[MARK].value = text(json.loads(meta[MARK].value))

    return edit


@pytest.mark.parametrize(
    "text",
    [
        lambda r: "{",
        lambda r: "[]",
        lambda r: json.dumps({k: v for k, v in r.items() if k != "maps"}),
        lambda r: json.dumps({**r, "maps": {}}),
        lambda r: json.dumps({**r, "maps": {"gone": r["maps"]["heatmap"]}}),
        lambda r: json.dumps({**r, "preprocess": {"scale": 1}}),
        lambda r: json.dumps({**r, "preprocess": 3}),
        lambda r: json.dumps({**r, "source": {"name": 3, "sha256": ""}}),
        lambda r: json.dumps({**r, "maps": {"heatmap": {"method": [], "layer": "a", "normalize": "max"}}}),
        lambda r: json.dumps({**r, "scores": {"output": "gone", "classes": 7}}),
        lambda r: json.dumps({**r, "scores": {"output": "logits", "classes": "7"}}),
        lambda r: json.dumps({**r, "scores": {"output": "logits", "classes": -7}}),
        lambda r: json.dumps({**r, "scores": ["logits"]}),
        lambda r: "[" * 100_000,
    ],
)
def test_damaged_metadata_are_said_to_be(exported, tmp_path, text):
    path = changed(exported, tmp_path / "x.onnx", damaged(text))
    with pytest.raises(ModelError, match=r"x\.onnx.*damaged.*export it again"):
        describe(load_model(path))


def test_an_input_that_a_page_does_not_have_is_named(exported, tmp_path):
    def edit(proto, meta):
        proto.graph.input.append(onnx.helper.make_tensor_value_info("age", onnx.TensorProto.FLOAT, [1]))
        proto.graph.node.append(onnx.helper.make_node("Identity", ["age"], ["same"]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [1]))

    with pytest.raises(ModelError, match="takes age beside the picture"):
        describe(load_model(changed(exported, tmp_path / "x.onnx", edit)))


def test_weights_in_another_file_are_refused(exported, tmp_path):
    onnx.save(onnx.load(exported), tmp_path / "x.onnx", save_as_external_data=True, location="x.data", size_threshold=0)
    with pytest.raises(ModelError, match=r"keeps weights in x\.data"):
        describe(load_model(tmp_path / "x.onnx"))


def test_what_is_there_is_kept(exported, library, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "mine").write_text("mine")
    for force in (False, True):
        with pytest.raises(OptionError, match=r"holds .*mine.*another folder"):
            write_site(exported, site, runtime=library, force=force)
    assert [p.name for p in site.iterdir()] == ["mine"]
    with pytest.raises(OptionError, match="is no folder"):
        write_site(exported, site / "mine", runtime=library, force=True)
    with pytest.raises(OutputError, match="cannot write the page"):
        write_site(exported, site / "mine/deeper", runtime=library)
    with pytest.raises(UnknownNameError, match=r"jt.*jet"):
        write_site(exported, tmp_path / "other", colormap="jt", runtime=library)


def test_a_page_is_replaced_and_what_else_lies_there_stays(exported, library, tmp_path):
    site = tmp_path / "site"
    write_site(exported, site, runtime=library)
    (site / "CNAME").write_text("mine")
    held = {str(p.relative_to(site)) for p in site.rglob("*")}
    with pytest.raises(OptionError, match=r"holds a page already.*--force"):
        write_site(exported, site, runtime=library)
    Explainer("zoo:shapes-cnn", method="layercam").export(tmp_path / "y.onnx")
    write_site(tmp_path / "y.onnx", site, runtime=library, force=True)
    assert {str(p.relative_to(site)) for p in site.rglob("*")} == held
    assert (site / "CNAME").read_text() == "mine"
    assert (site / "model.onnx").read_bytes() == (tmp_path / "y.onnx").read_bytes()


def test_a_folder_with_a_file_of_ours_is_no_page(exported, library, tmp_path):
    """`-o . --force` beside the models of somebody else."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "model.onnx").write_text("mine")
    (site / "sw.js").write_text('const SITE = {"files": ["./", "model.onnx"]};\n')
    with pytest.raises(OptionError, match=r"holds model\.onnx and sw\.js, which are no page"):
        write_site(exported, site, runtime=library, force=True)
    assert (site / "model.onnx").read_text() == "mine"


def test_what_others_put_beside_the_runtime_is_kept(exported, library, tmp_path):
    site = tmp_path / "site"
    write_site(exported, site, runtime=library)
    (site / "ort/mine").write_text("mine")
    with pytest.raises(OptionError, match=r"ort.*mine"):
        write_site(exported, site, runtime=library, force=True)
    assert (site / "ort/mine").read_text() == "mine"


def test_the_model_given_is_not_overwritten(exported, library, tmp_path):
    site = tmp_path / "site"
    write_site(exported, site, runtime=library)
    before = (site / "model.onnx").stat()
    with pytest.raises(OptionError, match=r"model\.onnx.* is the model given.*another folder"):
        write_site(site / "model.onnx", site, runtime=library, force=True)
    assert (site / "model.onnx").stat() == before


def test_a_page_that_cannot_be_written_leaves_the_old_one(exported, library, tmp_path, monkeypatch):
    site, copy = tmp_path / "site", shutil.copyfile

    def fails(source, target):
        if Path(target).name == "model.onnx":
            raise OSError(28, "No space left on device")
        return copy(source, target)

    def held():
        return {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}

    write_site(exported, site, runtime=library)
    known = held()
    monkeypatch.setattr(shutil, "copyfile", fails)
    for folder in (site, tmp_path / "fresh"):
        with pytest.raises(OutputError, match="No space left"):
            write_site(exported, folder, colormap="viridis", runtime=library, force=True)
    assert held() == known
    assert not (tmp_path / "fresh").exists()


def test_a_folder_without_the_runtime_is_said_to_be(library, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"does not hold ort\.wasm\.bundle\.min\.mjs and"):
        find_library(tmp_path / "empty", tmp_path)
    dist = library / "node_modules/onnxruntime-web/dist"
    for given in (library, library / "node_modules/onnxruntime-web", dist):
        assert find_library(given, tmp_path) == {name: given / dist.relative_to(given) / name for name in NAMES}


# ---- npm: a program of that name, which packs what the test says ----


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """The text of a Python script becomes `npm`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(script):
        path = folder / "npm"
        path.write_text(f"#!{sys.executable}\nimport sys, tarfile, io, os\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(folder))
    return make


@pytest.fixture
def known(monkeypatch):
    """The digests of a package whose files hold their own names."""
    told = package() | {"sha256": {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES}}
    monkeypatch.setattr("onnxcam.web.library.package", lambda: told)


def packing(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, body in members.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    where = "os.path.join(sys.argv[sys.argv.index('--pack-destination') + 1], 'ort.tgz')"
    version = package()["dependencies"]["onnxruntime-web"]
    return (
        f"assert sys.argv[1:3] == ['pack', 'onnxruntime-web@{version}']\nopen({where}, 'wb').write({data.getvalue()!r})"
    )


def test_npm_brings_the_runtime_once(npm, known, tmp_path):
    npm(packing({**{name: name.encode() for name in NAMES}, "more.js": b"not wanted"}))
    found = find_library(None, tmp_path / "cache")
    assert {name: path.read_bytes() for name, path in found.items()} == {name: name.encode() for name in NAMES}
    assert sorted(p.name for p in found[NAMES[0]].parent.iterdir()) == sorted(NAMES)
    npm("sys.exit('asked again')")
    assert find_library(None, tmp_path / "cache") == found
    found[NAMES[0]].write_bytes(b"damaged")
    with pytest.raises(RuntimeUnavailableError, match="asked again"):
        find_library(None, tmp_path / "cache")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit('no network')", r"npm could not download onnxruntime-web@[\d.]+ \(no network\).*--runtime"),
        ("pass", "npm could not download"),
        (packing({NAMES[0]: NAMES[0].encode()}), "has no dist/ort-wasm-simd-threaded.wasm"),
        (packing({NAMES[0]: b"other", NAMES[1]: b"other"}), "SHA-256 is another"),
        ("open(os.path.join(sys.argv[-1], 'x.tgz'), 'wb').write(b'no archive')", "cannot be read"),
    ],
)
def test_what_npm_does_wrong_is_said(npm, known, tmp_path, script, why):
    npm(script)
    with pytest.raises(RuntimeUnavailableError, match=why):
        find_library(None, tmp_path / "cache")
    with pytest.raises(RuntimeUnavailableError):  # nothing half-way is taken for the whole
        find_library(None, tmp_path / "cache")


def test_without_npm_it_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"npm is not here: install Node\.js, or .*--runtime"):
        find_library(None, tmp_path / "cache")


def test_the_page_lets_nothing_in_or_out():
    page = (PAGE / "index.html").read_text()
    policy = dict(part.strip().split(" ", 1) for part in re.search(r'Policy" content="([^"]+)"', page)[1].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == policy["worker-src"] == "'self'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    scripts = "".join(p.read_text() for p in PAGE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", scripts)
    assert re.search(r"<script(?! type=\"module\" src=)", page) is None


def test_the_package_carries_the_page():
    """Every file that a site is made of lies inside of the package."""
    import onnxcam

    assert Path(onnxcam.__file__).parent in PAGE.parents
    assert {p.name for p in PAGE.iterdir()} >= {"index.html", "style.css", "app.js", "worker.js", "pixels.js", "sw.js"}
    assert os.access(PAGE / "package.json", os.R_OK)


def test_page_and_example_are_made_for_one_version_of_the_runtime():
    example = Path(__file__).parents[2] / "examples/javascript/package.json"
    assert json.loads(example.read_text())["dependencies"] == package()["dependencies"]
