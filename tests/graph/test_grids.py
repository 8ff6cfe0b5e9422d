"""Token grids: how they fold, how far patches reach, and the places that this is read from."""

from __future__ import annotations

import numpy as np
import pytest
from builders import write
from graphs import load
from transformers import GRID, ViT, picture, windows

from onnxcam.errors import OptionError
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.graph.marks import EVERYWHERE, NOWHERE, merged, overlaid, raster
from onnxcam.graph.paths import float_path
from onnxcam.graph.places import places
from onnxcam.graph.surgery import expose, splice
from onnxcam.graph.tokens import Tokens, find_grids, tokens_of
from onnxcam.layers import TargetLayer, best_layer, named_layer
from onnxcam.model import Model, load_model
from onnxcam.runtime import Session


def opened(folder, proto) -> Model:
    return load_model(write(folder / "model.onnx", proto))


def layers(model: Model) -> list[tuple[str, str]]:
    return [(layer.name, str(layer.layout)) for layer in target_layers(model, find_logits(model))]


def grids(model: Model):
    image = model.values["image"]
    return find_grids(model, float_path(model.values["logits"], [image]), image)


@pytest.mark.parametrize(
    ("options", "name", "layout"),
    [
        ({}, "1.norm", "2x3 tokens behind 1"),
        ({"before": 5}, "1.norm", "2x3 tokens behind 5"),
        ({"before": 2, "pool": "two"}, "1.norm", "2x3 tokens behind 2"),
        ({"before": 0, "pool": "mean"}, "norm", "2x3 tokens"),
        ({"before": 1, "pool": "mean"}, "norm", "2x3 tokens behind 1"),
        ({"before": 0, "pool": "map"}, "norm", "2x3 tokens"),
        ({"plain_norm": True}, "1.norm", "2x3 tokens behind 1"),
        ({"batch": 1}, "1.norm", "2x3 tokens behind 1"),
        ({"fused": True}, "1.norm", "2x3 tokens behind 1"),
        ({"blocks": 3}, "2.norm", "2x3 tokens behind 1"),
        ({"turned": True}, "1.norm", "2x3 tokens behind 1 (T, N, D)"),
    ],
)
def test_the_last_tokens_whose_patches_reach_the_score(tmp_path, options, name, layout):
    found = layers(opened(tmp_path, ViT(**options).proto()))
    assert found[options.get("pool") == "mean"] == (name, layout)  # a mean is taken of a Slice of them
    assert ("tokens", layout.removesuffix(" (T, N, D)")) in found
    assert found[-1] == ("patches", "NCHW")


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_where_patches_reach_is_where_the_score_changes_with_them(tmp_path, pool):
    """Against finite differences: each value's patch tokens are moved in a forward pass of its own."""
    vit = ViT(pool=pool)
    model = opened(tmp_path, vit.proto())
    found, seen = grids(model), vit.run(picture())
    plain = seen["logits"]
    for name in ("tokens", "0.norm", "0", "1.norm", "1"):
        moved = seen[name].copy()
        moved[1:] += np.random.default_rng(1).standard_normal(moved[1:].shape)
        reaches = np.abs(vit.run(picture(), {name: moved})["logits"] - plain).max() > 1e-9
        assert reaches == found.reaches(model.values[name]) == (pool == "mean" or name != "1"), name


def test_a_layer_whose_patches_reach_nothing_is_refused(tmp_path):
    model = opened(tmp_path, ViT().proto())
    logits = find_logits(model)
    with pytest.raises(OptionError, match=r"'1' does not reach logits.*only the class token.*Take 1\.norm"):
        named_layer(model, logits, "1")
    with pytest.raises(OptionError, match="whole grid of tokens"):
        named_layer(model, logits, "0.P")
    assert named_layer(model, logits, "0").layout == Tokens(2, 3, 1)
    assert best_layer(model, logits, "Grad-CAM").value == "1.norm"


def test_tokens_of_a_picture_of_free_size_are_not_guessed(tmp_path):
    model = opened(tmp_path, ViT(size=("h", "w")).proto())
    with pytest.raises(OptionError, match="no spatial layer"):
        best_layer(model, find_logits(model), "Grad-CAM")


def test_tokens_in_an_order_of_their_own_fold_to_the_picture(tmp_path):
    """Against the arrays: what the patch convolution gives is what the fold of the permuted tokens gives."""
    order = (5, 3, 1, 0, 2, 4)
    vit = ViT(permute=order)
    model = opened(tmp_path, vit.proto())
    grid = grids(model).layouts[id(model.values["v3"])]
    assert grid == Tokens(2, 3, 0, 0, tuple(int(k) for k in np.argsort(order)))
    patches, tokens = Session(expose(model, ["patches", "v3"])).run({"image": picture()}, ["patches", "v3"])
    np.testing.assert_array_equal(TargetLayer("v3", "v3", grid, "").fold(tokens), patches)


@pytest.mark.parametrize("grid", [Tokens(2, 3, 1, 2), Tokens(2, 3), Tokens(2, 3, 0, 3, (6, 0, 2, 4, 1, 8))])
def test_unfold_undoes_fold_and_keeps_the_other_tokens(grid):
    rng = np.random.default_rng(0)
    own, edited = rng.standard_normal((1, 9, 4)), rng.standard_normal((2, 4, *GRID))
    own = own[:, : grid.before + 6 + grid.after]
    layer = TargetLayer("t", "t", grid, "")
    whole = layer.unfold(edited, own)
    for row in range(2):
        for column in range(3):
            token = grid.order[3 * row + column] if grid.order else grid.before + 3 * row + column
            np.testing.assert_array_equal(whole[:, token], edited[:, :, row, column])
    np.testing.assert_array_equal(layer.fold(whole), edited)
    others = np.setdiff1d(np.arange(own.shape[1]), grid.index)
    np.testing.assert_array_equal(whole[:, others], np.repeat(own, 2, axis=0)[:, others])


# Windows


@pytest.mark.parametrize("shift", [1, 2])
def test_rolled_windows_come_from_where_the_runtime_takes_them(tmp_path, shift):
    """Against the runtime: the map is replaced by its own cell numbers, and they are read in the windows."""
    model = opened(tmp_path, windows(shift))
    numbers = np.broadcast_to(np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1), (1, 4, 6, 8)).copy()
    session = Session(expose(splice(model, "map", "cells"), ["rolled", "windows"]))
    found = session.run({"cells": numbers}, ["rolled", "windows"])
    image = model.values["image"]
    followed = places(model, float_path(model.values["logits"], [image]), image)
    for name, cells in zip(("rolled", "windows"), found, strict=True):
        where = followed[id(model.values[name])]
        np.testing.assert_array_equal(where.real * 6 + where.imag, cells)


def test_windows_are_no_layer_and_merged_maps_are(tmp_path):
    model = opened(tmp_path, windows())
    found = grids(model)
    assert [n for n, _ in layers(model)] == ["merged", "block", "v0"]
    assert id(model.values["windows"]) not in found.layouts
    assert found.layouts[id(model.values["merged"])] == found.layouts[id(model.values["block"])] == "NHWC"
    np.testing.assert_array_equal(found.places[id(model.values["merged"])][0, :, :, 0], raster(2, 3))
    with pytest.raises(OptionError, match="whole grid of tokens"):
        named_layer(model, find_logits(model), "windows")


def test_attention_over_columns_lies_where_its_queries_lie(tmp_path):
    """v p', with tokens along the last axis: channels-first networks have it so, and without a residual sum."""
    body = """(float[N,3,8,12] image) => (float[N,5] logits) {
        a = Conv <strides = [4,4]> (image, w)
        k = Constant <value_ints = [0, 4, -1]> ()
        t = Reshape (a, k)
        u = Transpose <perm = [0,2,1]> (t)
        s = MatMul (u, t)
        p = Softmax <axis = -1> (s)
        turned = Transpose <perm = [0,2,1]> (p)
        b = MatMul (t, turned)
        c = Constant <value_ints = [0, 4, 2, 3]> ()
        map = Reshape (b, c)
        pooled = GlobalAveragePool (map)
        f = Flatten (pooled)
        logits = Gemm <transB = 1> (f, v)
    }"""
    model = load(tmp_path, body, w=(4, 3, 4, 4), v=(5, 4))
    assert layers(model)[0] == ("map", "NCHW")
    np.testing.assert_array_equal(grids(model).places[id(model.values["map"])][0, 0], raster(2, 3))


# Marks


def test_marks_of_sums_and_merges():
    grid = raster(2, 4)
    np.testing.assert_array_equal(merged(grid.reshape(2, 2, 2), (2,))[..., 0], raster(2, 2))
    assert np.isinf(merged(grid, (0, 1))).all()
    with_class = np.concatenate([[NOWHERE], grid[0]])
    np.testing.assert_array_equal(overlaid([with_class, np.full(5, EVERYWHERE)], (5,)), [EVERYWHERE, 0, 1j, 2j, 3j])
    crossed = overlaid([grid[0], grid[0][::-1]], (4,))
    assert np.isinf(crossed).all()
    np.testing.assert_array_equal(overlaid([grid, grid[:1, :1]], (2, 4)), grid)


def test_an_incomplete_grid_is_none():
    marks = np.concatenate([[NOWHERE, EVERYWHERE], raster(2, 3).reshape(-1), [NOWHERE]])
    assert tokens_of(marks) == Tokens(2, 3, 2, 1)
    assert tokens_of(marks[:-2]) is None  # the last patch is gone
    assert tokens_of(np.repeat(marks, 2)) is None  # each patch is there twice
    assert tokens_of(marks[:3]) is None
