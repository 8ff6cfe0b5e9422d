"""How much a probe of a model runs at a time, what it hands over, and its head where the batch axis is fixed."""

from __future__ import annotations

import numpy as np
import pytest
from small import outputs, picture, saved

from onnxcam import Explainer
from onnxcam.probe import ModelProbe
from onnxcam.record import of_one_picture, of_the_job
from onnxcam.targets import Logit
from onnxcam.zoo import samples

BODY = """(float[N,3,H,W] x) => (float[N,4] z, float[N,6,h,w] r) {
    a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
    r = Relu (a)
    up = Resize <mode="nearest"> (r, , scales)
    p = GlobalAveragePool (up)
    f = Flatten (p)
    z = MatMul (f, v)
}"""
WEIGHTS = {"w": (6, 3, 3, 3), "v": (6, 4)}
SCALES = np.array([1, 1, 2, 2], np.float32)


@pytest.fixture
def free(tmp_path):
    return Explainer(saved(tmp_path / "free.onnx", BODY, **WEIGHTS, scales=SCALES), "unit", "r", threads=1)


@pytest.fixture
def runs(monkeypatch):
    """The samples of each run."""
    from onnxcam.runtime import Session

    sizes, run = [], Session.run

    def counted(self, feeds, outputs=None):
        sizes.append(max(len(a) for a in feeds.values()))
        return run(self, feeds, outputs)

    monkeypatch.setattr(Session, "run", counted)
    return sizes


@pytest.mark.parametrize(
    ("side", "batch", "on", "most"),
    [
        (16, 16, "CPUExecutionProvider", 16),
        (224, 16, "CPUExecutionProvider", 8),
        (224, 3, "CPUExecutionProvider", 3),
        (384, 16, "CPUExecutionProvider", 2),
        (640, 16, "CPUExecutionProvider", 1),
        (224, 16, "CUDAExecutionProvider", 16),
        (384, 16, "CUDAExecutionProvider", 7),
    ],
)
def test_a_processor_runs_as_many_pictures_as_its_cache_takes(free, runs, side, batch, on, most):
    """Others run more; the answers are those of the pictures alone."""
    x = picture(1, side)
    free.explain_tensor(x)
    for program in free.programs.free.built.values():
        program.session.providers = [on, "CPUExecutionProvider"][: 1 + (on[0:3] == "CUD")]
    probe = ModelProbe(free.programs, x, Logit((1,)), free.layers[0], batch=batch)
    assert probe.batch == most
    several = picture(most + 2, side, seed=1)
    alone = [probe.score(one[None])[0] for one in several]
    runs.clear()
    np.testing.assert_allclose(probe.score(several), alone, rtol=1e-5)
    assert runs == ([most, 2] if most > 1 else [1, 1, 1])


def test_features_are_run_as_many_as_are_no_larger_than_the_pictures(free, runs):
    """(6, 8, 8) is half of (3, 16, 16), so eight stand for four pictures."""
    probe = ModelProbe(free.programs, picture(), Logit((1,)), free.layers[0], batch=4)
    A = probe.activations(picture(20, seed=2))
    want = A.mean(axis=(2, 3)) @ weight(free, "v")[:, 1]
    probe.head(A[:1])
    runs.clear()
    np.testing.assert_allclose(probe.head(A), want, rtol=1e-4, atol=1e-6)
    assert runs == [8, 8, 4]


def weight(ex, name):
    return ex.model.graph.initializers[name].const_value.numpy()


def ablated(ex, x):
    """Ablation-CAM of class 2 in plain loops, from the features that the model itself gives out."""
    z, A = outputs(ex, x)[:2]
    A, score = A[0], z[0, 2]
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        edited = A.copy()
        edited[k] = 0
        cam += (score - edited.mean(axis=(1, 2)) @ weight(ex, "v")[:, 2]) / abs(score) * A[k]
    return cam


@pytest.mark.parametrize(("batch", "held"), [("N", False), ("1", False), ("1", True), ("3", False)])
def test_ablationcam_is_the_same_whatever_the_batch_axis(tmp_path, runs, batch, held):
    """Free, freed, held at 1 by a Resize to sizes that name the batch, and fixed at more."""
    body = BODY.replace("[N,", f"[{batch},").replace("[N,6,h,w]", f"[{batch},6,h,w]").replace("H,W", "16,16")
    body = body.replace("(r, , scales)", "(r, , , sizes)") if held else body
    last = {"sizes": np.array([int(batch), 6, 16, 16])} if held else {"scales": SCALES}
    ex = Explainer(saved(tmp_path / "m.onnx", body, **WEIGHTS, **last), "unit", "r", "ablationcam", threads=1)
    x = picture(1 if batch == "N" else int(batch))
    want = [ablated(ex, np.repeat(one[None], len(x), axis=0)) for one in x]
    for e, cam in zip(ex.explain_tensor(x, 2), want, strict=True):
        np.testing.assert_allclose(e.cam, cam, rtol=1e-4, atol=1e-5 * np.abs(cam).max())
    assert max(runs) > 3 if batch == "N" or (batch == "1" and not held) else set(runs) == {int(batch)}


@pytest.mark.parametrize(("goal", "doubt"), [(0.5, False), (0.001, True)])
def test_the_record_says_how_many_masks_were_made(goal, doubt):
    options = {"samples": 400, "standard_error": goal}
    ex = Explainer("zoo:shapes-cnn", method="rise", options=options)
    (note,) = [n for n in ex.explain(samples("shapes-cnn")[4], "star").notes if "standard error" in n]
    assert note.endswith("above the 0.1% asked for; give more samples" if doubt else " of 400 masks")
    assert of_one_picture(note) == doubt


def test_too_few_masks_for_an_estimate_is_a_note_on_all_pictures():
    ex = Explainer("zoo:shapes-cnn", method="rise", options={"samples": 50, "standard_error": 0.5})
    (note,) = [n for n in ex.explain(samples("shapes-cnn")[4], "star").notes if "standard error" in n]
    assert note.startswith("all 50 masks were made")
    assert (of_one_picture(note), of_the_job(note)) == (False, True)
