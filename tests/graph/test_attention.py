"""Where attention maps are found, and what the head reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from builders import classifier, model, value, write
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from transformers import ViT, picture, windows

from onnxcam.graph.attention import find_attention, written_out
from onnxcam.graph.inspect import find_logits
from onnxcam.graph.tokens import Tokens
from onnxcam.model import Model, load_model


def found(folder, proto):
    opened: Model = written_out(load_model(write(folder / "model.onnx", proto)))
    return find_attention(opened, find_logits(opened))


@pytest.mark.parametrize(
    ("options", "reads", "pool"),
    [
        ({}, (0,), ""),
        ({"before": 4}, (0,), ""),
        ({"before": 2, "pool": "two"}, (0, 1), ""),
        ({"before": 0, "pool": "mean"}, (0, 1, 2, 3, 4, 5), ""),
        ({"before": 1, "pool": "mean"}, (1, 2, 3, 4, 5, 6), ""),
        ({"before": 0, "pool": "map"}, (0, 1, 2, 3, 4, 5), "pool.P"),
        ({"plain_norm": True, "batch": 1}, (0,), ""),
        ({"turned": True}, (0,), ""),
    ],
)
def test_the_maps_of_all_blocks_and_the_tokens_that_the_head_reads(tmp_path, options, reads, pool):
    attention = found(tmp_path, ViT(**options).proto())
    assert (attention.maps, attention.ends) == (("0.P", "1.P"), ("0", "1"))
    assert attention.tokens == Tokens(2, 3, options.get("before", 1))
    assert (attention.reads, attention.pool) == (reads, pool)


def test_models_whose_attention_does_not_cover_the_picture_say_why(tmp_path):
    assert "over windows" in found(tmp_path, windows())
    assert "no attention" in found(tmp_path, classifier())
    assert "size is free" in found(tmp_path, ViT(size=("h", "w")).proto())


def test_the_fused_operator_is_found_behind_its_parts(tmp_path):
    attention = found(tmp_path, ViT(fused=True).proto())
    assert len(attention.maps) == 2
    assert attention.ends == ("0", "1")


def fused(folder, heads, mask=False, **attributes) -> Model:
    """Attention on (1, 4, 6) as ``heads`` heads, or (1, 2, 4, 3) where it is 0."""
    shape = [1, 4, 6] if heads else [1, 2, 4, 3]
    given = [value(n, shape) for n in ("image", "k", "v")]
    given += [value("m", [1, 1, 4, 4])] if mask else []
    attributes |= {"q_num_heads": heads, "kv_num_heads": heads} if heads else {}
    node = helper.make_node("Attention", [v.name for v in given], ["y"], "fused", **attributes)
    proto = model([node], given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], {}, 23, 10)
    return load_model(write(folder / "fused.onnx", proto))


@pytest.mark.parametrize(
    ("heads", "mask", "attributes"), [(0, False, {}), (2, False, {}), (3, True, {}), (2, False, {"scale": 0.3})]
)
def test_parts_give_what_the_operator_gives(tmp_path, heads, mask, attributes):
    whole = fused(tmp_path, heads, mask, **attributes)
    parts = written_out(whole)
    assert "Attention" not in {n.op_type for n in parts.graph}
    rng = np.random.default_rng(0)
    feeds = {str(v.name): rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in whole.inputs}
    a, b = (ReferenceEvaluator(ir.to_proto(m.ir_model)).run(["y"], feeds)[0] for m in (whole, parts))
    np.testing.assert_allclose(b, a, atol=1e-6)


def test_causal_attention_stays_as_it_is(tmp_path):
    whole = fused(tmp_path, 2, is_causal=1)
    assert written_out(whole) is whole


def test_the_given_model_is_not_changed(tmp_path):
    whole = load_model(write(tmp_path / "model.onnx", ViT(fused=True).proto()))
    before = [n.name for n in whole.graph]
    written_out(whole)
    assert [n.name for n in whole.graph] == before
    assert picture().shape[2:] == (8, 12)
