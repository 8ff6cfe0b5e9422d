from __future__ import annotations

from pathlib import Path

import pytest
from graphs import load

from onnxcam.errors import UnknownNameError
from onnxcam.graph.names import find_value, scopes
from onnxcam.model import Model

BODY = """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
    a = Relu (x)
    b = Relu (a)
    c = Relu (b)
    d = Relu (c)
    y = Relu (d)
}"""
NODES = (
    "/block1/conv/Conv", "/block1/relu/Relu", "/block2/block2.0/relu/Relu", "/block2/block2.1/relu/Relu", "head",
)  # fmt: skip


def model(folder: Path) -> Model:
    return load(folder, BODY, nodes=NODES)


@pytest.mark.parametrize(
    ("name", "value"),
    [("b", "b"), ("/block1/conv/Conv", "a"), ("block1", "b"), ("block2.0", "c"), ("block2", "d"), ("head", "y")],
)
def test_values_nodes_and_modules_are_found(tmp_path, name, value):
    assert find_value(model(tmp_path), name).name == value


def test_scopes_of_the_dynamo_exporter(tmp_path):
    exported = load(tmp_path, BODY)
    for node, path in zip(exported.graph, ("layer1.conv", "layer1.relu"), strict=False):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = str(["", "layer1", path, "op"])
    assert find_value(exported, "layer1").name == "b"
    assert find_value(exported, "layer1.conv").name == "a"
    assert scopes(exported) == ["layer1", "layer1.conv", "layer1.relu"]


def test_an_unknown_name_offers_the_closest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"did you mean 'block2\.1' or 'block2\.0'"):
        find_value(model(tmp_path), "block2.9")


def test_full_names_of_modules_are_found_in_names_of_torchscript(tmp_path):
    nodes = (
        "/stem/Relu", "/stages/stages.1/blocks/blocks.0/norm/Add", "/stages/stages.1/blocks/blocks.1/norm/Add",
        "/head/norm/Add", "head",
    )  # fmt: skip
    found = load(tmp_path, BODY, nodes=nodes)
    names = ("stages.1.blocks.0.norm", "stages.1.blocks.1", "stages.1", "head.norm")
    assert [find_value(found, n).name for n in names] == ["b", "c", "c", "d"]
