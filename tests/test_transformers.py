"""Maps of transformers, from the file to the map, against forward passes of their own and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from builders import classifier, write
from transformers import ViT, picture

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.layers import best_layer
from onnxcam.probe import ModelProbe
from onnxcam.targets import Logit

STEP = 1e-4


def explained(folder, vit: ViT, target: int = 2, x=None, **options):
    file = write(folder / "model.onnx", vit.proto())
    return Explainer(file, threads=1, **options).explain_tensor(picture() if x is None else x, target)


def slope(f, at, c):
    """The gradient of f(a)[c] by central differences, one element at a time."""
    found = np.zeros_like(at)
    for k in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[k] += STEP
        down[k] -= STEP
        found[k] = (f(up)[c] - f(down)[c]) / (2 * STEP)
    return found


def folded(vit: ViT, tokens):
    """(T, D) -> (D, 2, 3), a patch at a time."""
    found = np.zeros((tokens.shape[1], 2, 3))
    for token, patch in enumerate(vit.permute or range(6)):
        found[:, patch // 3, patch % 3] = tokens[vit.before + token]
    return found


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ({}, "1.norm"),
        ({"before": 3, "batch": 1}, "1.norm"),
        ({"before": 2, "pool": "two", "plain_norm": True}, "1.norm"),
        ({"permute": (5, 3, 1, 0, 2, 4)}, "1.norm"),
        ({"before": 2, "turned": True}, "1.norm"),
        ({"before": 1, "pool": "mean"}, "0.norm"),
    ],
)
def test_gradcam_and_hirescam_at_tokens(tmp_path, options, layer):
    vit = ViT(**options)
    chosen = {} if layer == "1.norm" else {"target_layer": "0"}
    name = layer if layer == "1.norm" else "0"
    A = vit.run(picture())[name]
    G = slope(lambda a: vit.run(picture(), {name: a})["logits"], A, 2)
    a, g = folded(vit, A), folded(vit, G)
    assert np.abs(g).max() > 1e-3
    for method, expected in (
        ("gradcam", np.einsum("khw,k->hw", a, g.mean(axis=(1, 2)))),
        ("hirescam", (a * g).sum(axis=0)),
    ):
        found = explained(tmp_path, vit, method=method, **chosen)[0].maps[0]
        assert found.layer == name
        np.testing.assert_allclose(found.cam, expected, atol=1e-4 * np.abs(expected).max())


def test_a_named_layer_behind_the_last_attention_is_refused_with_the_methods_that_work(tmp_path):
    with pytest.raises(OptionError, match=r"(?s)Take 1\.norm.*legrad"):
        explained(tmp_path, ViT(), target_layer="1")


@pytest.mark.parametrize("turned", [False, True])
def test_the_head_gives_the_score_for_the_tokens_as_they_are_and_follows_edits(tmp_path, turned):
    vit = ViT(before=2, turned=turned)
    explainer = Explainer(write(tmp_path / "model.onnx", vit.proto()), threads=1)
    layer = best_layer(explainer.model, explainer.logits, "")
    probe = ModelProbe(explainer.programs, picture(), Logit((3,)), layer)
    own = vit.run(picture())["1.norm"]
    edited = own.copy()
    edited[2:4] = 0.0  # the first two patches; class and register token stay
    A = np.stack([folded(vit, own), folded(vit, edited)]).astype(np.float32)
    expected = [vit.run(picture(), {"1.norm": a})["logits"][3] for a in (own, edited)]
    assert abs(expected[0] - expected[1]) > 1e-3
    np.testing.assert_allclose(probe.head(A), expected, atol=1e-5)


# Attention


def block_slopes(vit: ViT, c: int):
    """d s^l / d P^l of each block: s^l is the head's score of the mean of the block's tokens, P^l is nudged."""
    seen, found = vit.run(picture()), []
    for k in range(vit.blocks):
        if vit.pool == "map":
            found.append(slope(lambda p, z=seen[f"{k}"]: vit.scores(z, p), vit.pooling(seen[f"{k}"]), c))
            continue

        def score(p, k=k):
            z = vit.run(picture(), {f"{k}.P": p})[f"{k}"]
            return vit.scores(np.repeat(z.mean(axis=0, keepdims=True), len(z), axis=0))

        found.append(slope(score, seen[f"{k}.P"], c))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"before": 3, "batch": 1},
        {"before": 2, "pool": "two"},
        {"before": 0, "pool": "mean", "plain_norm": True},
        {"before": 0, "pool": "map"},
        {"permute": (5, 3, 1, 0, 2, 4)},
        {"before": 2, "turned": True},
    ],
    ids=str,
)
def test_legrad_against_finite_differences_of_each_blocks_score(tmp_path, options):
    vit = ViT(**options)
    expected = np.zeros((2, 3))
    for g in block_slopes(vit, 2):
        keys = np.maximum(g, 0).mean(axis=(0, 1))
        expected += folded(vit, keys[:, None])[0] / vit.blocks
    found = explained(tmp_path, vit, method="legrad")[0].maps[0].cam
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    "options",
    [{}, {"before": 2, "pool": "two"}, {"before": 1, "pool": "mean"}, {"before": 0, "pool": "map"}],
    ids=str,
)
def test_rollout_against_the_forward_pass(tmp_path, options):
    vit = ViT(**options)
    seen = vit.run(picture())
    tokens = len(seen["tokens"])
    whole = np.eye(tokens)
    for k in range(vit.blocks):
        whole = (seen[f"{k}.P"].mean(axis=0) + np.eye(tokens)) / 2 @ whole
    rows = {
        "class": lambda: whole[0], "two": lambda: (whole[0] + whole[1]) / 2,
        "mean": lambda: whole[vit.before :].mean(axis=0),
        "map": lambda: vit.pooling(seen["1"])[:, 0].mean(axis=0) @ whole,
    }[vit.pool]()  # fmt: skip
    found = explained(tmp_path, vit, method="rollout")[0].maps[0].cam
    np.testing.assert_allclose(found, folded(vit, rows[:, None])[0], atol=1e-6)


@pytest.mark.parametrize(("method", "turned"), [("legrad", False), ("gradcam", False), ("gradcam", True)])
def test_several_pictures_and_classes_have_maps_of_their_own(tmp_path, method, turned):
    x, vit = np.concatenate([picture(0), picture(1)]), ViT(turned=turned)
    both = explained(tmp_path, vit, x=x, method=method)
    for one, k in ((both[0], 0), (both[1], 1)):
        alone = explained(tmp_path, vit, x=x[k : k + 1], method=method)[0]
        np.testing.assert_allclose(one.maps[0].cam, alone.maps[0].cam, rtol=1e-4, atol=1e-7)
    other = explained(tmp_path, vit, target=0, x=x[:1], method=method)[0]
    same = both[0].maps[0].cam
    assert np.abs(other.maps[0].cam - same).max() > 0.1 * np.abs(same).max()


@pytest.mark.parametrize("method", ["legrad", "rollout"])
def test_a_network_without_attention_is_offered_other_methods(tmp_path, method):
    with pytest.raises(OptionError, match=r"(?s)attention maps.*gradcam"):
        Explainer(write(tmp_path / "cnn.onnx", classifier()), method=method)
