"""Explanations on a GPU are those of the processor."""

from __future__ import annotations

import os

os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # read when CUDA starts: else products keep three digits

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.runtime import load_runtime
from onnxcam.zoo import samples

PROVIDER = "CUDAExecutionProvider"
pytestmark = pytest.mark.skipif(
    PROVIDER not in load_runtime().get_available_providers(),
    reason=f"this ONNX Runtime has no {PROVIDER}: it takes onnxruntime-gpu and a GPU",
)
METHODS = [
    ("gradcam", {}),
    ("layercam", {}),
    ("guided_backprop", {}),
    ("integrated_gradients", {"steps": 8}),
    ("scorecam", {}),
    ("ablationcam", {}),
    ("rise", {"samples": 40}),
]


@pytest.mark.parametrize("name", ["shapes-cnn", "shapes-vit"])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[m for m, _ in METHODS])
def test_it_explains_as_the_processor_does(name, method, options):
    here, there = (
        Explainer(f"zoo:{name}", method=method, options=options, providers=[p])
        for p in ("CPUExecutionProvider", PROVIDER)
    )
    for picture in samples(name)[:3]:
        want, found = here.explain(picture), there.explain(picture)
        assert found.class_index == want.class_index
        assert found.score == pytest.approx(want.score, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(found.heatmap, want.heatmap, atol=2e-3)
    assert all(p.session.providers[0] == PROVIDER for p in there.programs.built.values())


def test_many_pictures_of_one_call_are_explained_as_each_alone():
    explainer = Explainer("zoo:shapes-cnn", providers=[PROVIDER])
    pictures = samples("shapes-cnn")[:8]
    for one, picture in zip(explainer.explain_batch(pictures), pictures, strict=True):
        np.testing.assert_allclose(one.heatmap, explainer.explain(picture).heatmap, atol=2e-3)


def test_the_command_takes_it_and_prints_nothing_else(tmp_path: Path):
    picture = samples("shapes-cnn")[0]
    command = [sys.executable, "-m", "onnxcam", "explain", "zoo:shapes-cnn", picture, "-o", tmp_path, "--json"]
    told = subprocess.run([*command, "--provider", PROVIDER], capture_output=True, text=True, check=True)
    (line,) = told.stdout.splitlines()
    want = Explainer("zoo:shapes-cnn").explain(picture)
    assert json.loads(line)["class_index"] == want.class_index
    assert "does not start" not in told.stderr
