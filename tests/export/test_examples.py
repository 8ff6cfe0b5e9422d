"""The programs of examples/: each runs an exported model without onnxcam, and answers what Explainer answers.

`make test-examples` also runs those that install something first: a fresh virtual environment, and npm.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from builders import classifier, write

from onnxcam import Explainer
from onnxcam.export import Form
from onnxcam.image import read_image
from onnxcam.zoo import samples

pytestmark = pytest.mark.anyruntime
EXAMPLES = Path(__file__).parents[2] / "examples"
INSTALLS = pytest.mark.skipif(not os.environ.get("ONNXCAM_EXAMPLES"), reason="it installs packages: make test-examples")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """An exported model, a picture of its size, and the Explainer that answers for it."""
    folder = tmp_path_factory.mktemp("given")
    explainer = Explainer("zoo:shapes-cnn", threads=1)
    explainer.export(folder / "x.onnx")
    picture = read_image(samples("shapes-cnn")[1])[::2, ::2]
    (folder / "scene.ppm").write_bytes(b"P6\n112 112\n255\n" + np.ascontiguousarray(picture).tobytes())
    return folder, picture, explainer


def read_pfm(path: Path):
    kind, size, scale, body = path.read_bytes().split(b"\n", 3)
    assert (kind, scale) == (b"Pf", b"-1.0")
    width, height = map(int, size.split())
    return np.frombuffer(body, "<f4").reshape(height, width)[::-1]


def told(command, *arguments, folder=None):
    isolated = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    line = [*map(str, command), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=isolated, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def judge(command, given, tmp_path, names=True):
    """Its top class and another one, against Explainer."""
    folder, picture, explainer = given
    for asked in ((), (5,)):
        found = told(command, folder / "x.onnx", folder / "scene.ppm", tmp_path / "heat.pfm", *asked)
        want = explainer.explain(picture, *asked)
        assert found["class_index"] == want.class_index
        assert found["score"] == pytest.approx(want.score, abs=1e-4)
        assert found.get("label") == (want.label if names else None)
        assert want.heatmap.max() == 1
        np.testing.assert_allclose(read_pfm(tmp_path / "heat.pfm"), want.heatmap, atol=1e-4)


def test_python(given, tmp_path):
    judge([sys.executable, EXAMPLES / "python/explain.py"], given, tmp_path)


def test_python_imports_numpy_and_onnxruntime_alone():
    tree = ast.parse((EXAMPLES / "python/explain.py").read_text())
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert found - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


@INSTALLS
@pytest.mark.slow
def test_python_in_an_environment_with_onnxruntime_and_numpy_only(given, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime", "numpy"], check=True, timeout=500)
    for absent in ("onnxcam", "onnx"):
        line = [python, "-I", "-c", f"import {absent}"]
        found = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert f"No module named '{absent}'" in found.stderr
    judge([python, EXAMPLES / "python/explain.py"], given, tmp_path)


def judge_prepared(command, tmp_path):
    """Colours turned round, each channel with a mean and a deviation of its own; and no input for a class."""
    explainer = Explainer(write(tmp_path / "m.onnx", classifier()), preprocess="caffe,std=2/3/5,fit=stretch", threads=1)
    explainer.export(tmp_path / "fixed.onnx", form=Form(fixed_class=1))
    size = explainer.model.image_input.height, explainer.model.image_input.width
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    (tmp_path / "noise.ppm").write_bytes(b"P6\n%d %d\n255\n" % size[::-1] + picture.tobytes())
    want = explainer.explain(picture, 1)
    found = told(command, tmp_path / "fixed.onnx", tmp_path / "noise.ppm", tmp_path / "heat.pfm")
    assert found["class_index"] == 1
    assert found["score"] == pytest.approx(want.score, rel=1e-4)
    assert want.heatmap.any()
    np.testing.assert_allclose(read_pfm(tmp_path / "heat.pfm"), want.heatmap, atol=1e-4)


def judge_picture(command, given, tmp_path):
    """A file that takes the picture itself, and knows fewer names than classes."""
    _, picture, explainer = given
    few = Explainer(explainer.model, labels=["circle"], threads=1)
    few.export(tmp_path / "camera.onnx", form=Form(picture="any"))
    wide = np.ascontiguousarray(np.pad(picture, ((0, 0), (9, 30), (0, 0))))
    (tmp_path / "wide.ppm").write_bytes(b"P6\n%d %d\n255\n" % wide.shape[1::-1] + wide.tobytes())
    want = few.explain(wide)
    found = told(command, tmp_path / "camera.onnx", tmp_path / "wide.ppm", tmp_path / "heat.pfm")
    assert found["class_index"] == want.class_index > 0
    assert found["label"] is None
    np.testing.assert_allclose(read_pfm(tmp_path / "heat.pfm"), want.heatmap_on_image(), atol=1e-4)


def test_python_prepares_as_the_metadata_say(tmp_path):
    judge_prepared([sys.executable, EXAMPLES / "python/explain.py"], tmp_path)


def test_python_gives_a_picture_as_it_is(given, tmp_path):
    judge_picture([sys.executable, EXAMPLES / "python/explain.py"], given, tmp_path)


def library():
    """The wheel's own shared library; the training build has none."""
    return next(iter(sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))), None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    compiler, shared = shutil.which("g++"), library()
    if compiler is None or shared is None:
        pytest.skip("no C++ compiler, or this ONNX Runtime has no library of its own")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(shared)
    source, header = EXAMPLES / "cpp/explain.cpp", EXAMPLES / "cpp/minimal"
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wl,-rpath,$ORIGIN"]
    line = [compiler, source, "-I", header, folder / "libonnxruntime.so.1", *options, "-o", folder / "explain"]
    subprocess.run(line, check=True, timeout=300)
    return folder / "explain"


def test_cpp(built, given, tmp_path):
    judge([built], given, tmp_path, names=False)


def test_cpp_prepares_as_the_metadata_say(built, tmp_path):
    judge_prepared([built], tmp_path)


def test_cpp_says_what_is_wrong(built, given, tmp_path):
    folder, *_ = given
    (tmp_path / "short.ppm").write_bytes(b"P6\n112 112\n255\nabc")
    plain = EXAMPLES.parent / "model_zoo/shapes-cnn.onnx"
    for model, picture, why in (
        (folder / "x.onnx", tmp_path / "short.ppm", "cut off"),
        (plain, folder / "scene.ppm", "no exported model"),
        (tmp_path / "none.onnx", folder / "scene.ppm", "none.onnx"),
    ):
        done = subprocess.run([built, model, picture, tmp_path / "h.pfm"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert why in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copytree(EXAMPLES / "javascript", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    line = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--no-package-lock"]
    subprocess.run(line, cwd=folder, check=True, timeout=500)
    return [shutil.which("node"), folder / "explain.js"]


@INSTALLS
@pytest.mark.slow
def test_javascript(installed, given, tmp_path):
    judge(installed, given, tmp_path)


@INSTALLS
@pytest.mark.slow
def test_javascript_prepares_as_the_metadata_say(installed, tmp_path):
    judge_prepared(installed, tmp_path)


@INSTALLS
@pytest.mark.slow
def test_javascript_gives_a_picture_as_it_is(installed, given, tmp_path):
    judge_picture(installed, given, tmp_path)
