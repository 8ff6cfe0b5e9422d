"""One network from every exporter is explained alike; every ``shapes-net-*`` of the index takes part."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from recipes import FOLDER as RECIPES
from recipes import recipe

from benchmarks.compare import trusted
from benchmarks.exporters import (
    CAMS,
    LARGEST,
    REFERENCE,
    Drift,
    drifts,
    explained,
    explainer,
    heldout,
    main,
    members,
    misses,
    precision,
)
from benchmarks.exporters import top_labels as named
from onnxcam import Explainer, Explanation, Preprocess, zoo
from onnxcam.compare import compare
from onnxcam.errors import ModelError

SCENES = 6
LOADED = 21  # the newest opset that the training build loads


def loadable(name: str) -> str:
    """``name``, unless the installed runtime is too old for its opset."""
    training = onnxruntime.__version__ == "1.19.2"
    if training and zoo.model(name).opset > LOADED:
        pytest.skip(f"the training build loads opset {LOADED} at most; {name} has {zoo.model(name).opset}")
    return name


def of(*precisions: str) -> list[str]:
    return [n for n in members() if precision(n) in precisions and n != REFERENCE]


@cache
def scenes() -> tuple[list[np.ndarray], list[str]]:
    """Pictures, and the class that the reference names."""
    images = heldout(SCENES)
    return images, named(images)


@cache
def reference(method: str) -> list[Explanation]:
    return explained(explainer(REFERENCE, method), *scenes())


def found(name: str, method: str) -> list[Drift]:
    return drifts(loadable(name), method, *scenes(), reference(method))


def test_the_family_is_complete() -> None:
    kinds = {n.removeprefix("shapes-net-") for n in members()}
    assert kinds >= {"torchscript", "dynamo", "free", "external", "zipmap", "matlab", "keras", "fp16", "fp16-io32"}
    assert kinds >= {"int8-qdq", "int8-qoperator", "int8-dynamic"}
    assert len(set(scenes()[1])) >= 3  # the scenes ask for more than one class


# ---------------------------------------------------------------- the same explanations


def test_the_reference_is_the_closed_form() -> None:
    """Behind global average pooling and a linear head, the gradient at every place is W / (h w)."""
    head = np.load(RECIPES / "shapes-net.npz")["head.weight"]
    for image, e in zip(scenes()[0], reference("gradcam"), strict=True):
        a = activations(zoo.locate(REFERENCE), image)
        np.testing.assert_allclose(e.cam, np.tensordot(head[e.class_index], a, 1) / a[0].size, atol=1e-5)


def activations(path: Path, image: np.ndarray) -> np.ndarray:
    """The last map, (C, h, w), from ONNX Runtime."""
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name="/residual2/relu/Relu_output_0"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return session.run(["/residual2/relu/Relu_output_0"], {"image": x})[0][0]


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("name", of("float", "half", "int8"))
def test_maps_agree(name: str, method: str) -> None:
    assert not misses(name, method, found(name, method))


@pytest.mark.parametrize("name", of("float", "half"))
def test_pixel_gradients_agree(name: str) -> None:
    """In half precision rounding turns some ReLUs and maxima of pools over: single pixels differ, they correlate."""
    assert not misses(name, "saliency", found(name, "saliency"))


@pytest.mark.parametrize(
    ("name", "method", "worst", "told"),
    [
        ("dynamo", "gradcam", Drift(1e-4, 1e-3, 0.0), []),
        ("dynamo", "gradcam", Drift(2e-4, 2e-3, 1.0), ["map 0.0002, limit 0.0001", "heatmap 0.002, limit 0.001"]),
        ("dynamo", "saliency", Drift(9.0, 2e-3, 1.0), ["heatmap 0.002, limit 0.001"]),
        ("fp16", "layercam", Drift(2e-2, 1e-2, 0.0), ["map 0.02, limit 0.01"]),
        ("fp16", "saliency", Drift(9.0, 1.0, 0.97), ["correlation 0.97, limit 0.98"]),
        ("int8-qdq", "hirescam", Drift(9.0, 1.0, 0.94), ["correlation 0.94, limit 0.95"]),
        ("int8-qdq", "hirescam", Drift(9.0, 1.0, float("nan")), ["correlation nan, limit 0.95"]),
        ("int8-qdq", "saliency", Drift(9.0, 1.0, 0.0), []),
    ],
)
def test_what_misses_its_limit(name: str, method: str, worst: Drift, told: list[str]) -> None:
    assert misses(name, method, [worst, Drift(0, 0, 1)]) == [f"{name}, {method}: {text}" for text in told]


def test_the_benchmark_is_a_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["exporters", "matlab", "--scenes", "1", "--method", "gradcam"])
    assert main() == 0
    assert "| matlab | " in capsys.readouterr().out
    monkeypatch.setitem(LARGEST, "float", (1e-12, 1e-3))
    assert main() == 1
    assert re.search(r"shapes-net-matlab, gradcam: map \S+e-0\d, limit 1e-12", capsys.readouterr().err)


@pytest.mark.parametrize("name", members())
def test_the_same_class_and_layer(name: str) -> None:
    """Index and file name the classes alike, whatever their order; the layer is the last map of 14 x 14 cells.

    A scene shows several shapes, scored almost alike: int8 may name another of them.
    """
    images, labels = scenes()
    answers = explainer(loadable(name), "gradcam").explain_batch(images)
    shown = [shapes_of(k) for k in range(SCENES)] if precision(name) == "int8" else [{label} for label in labels]
    assert all(e.label in right for e, right in zip(answers, shown, strict=True))
    assert {e.cam.shape for e in answers} == {(14, 14)}


def shapes_of(scene: int) -> set[str]:
    module = recipe("scenes")
    return {module.CLASSES[o.class_index] for o in module.render(module.HELDOUT_SEED + scene).objects}


def test_another_layer_or_class_would_be_seen() -> None:
    """The limits tell neighbours apart: the map before the last ReLU, and the second class."""
    images, labels = scenes()
    before = Explainer(zoo.locate(REFERENCE), target_layer="/residual2/Add_output_0")
    drift = [Drift.between(a, b) for a, b in zip(explained(before, images, labels), reference("gradcam"), strict=True)]
    assert min(d.map for d in drift) > 1e-2
    others = [next(o for o in labels if o != label) for label in labels]
    swapped = explained(explainer(REFERENCE, "gradcam"), images, others)
    assert max(Drift.between(a, b).correlation for a, b in zip(swapped, reference("gradcam"), strict=True)) < 0.95


# ---------------------------------------------------------------- free height and width


@pytest.mark.parametrize(("height", "width"), [(112, 112), (160, 224)])
def test_the_free_export_at_two_sizes(height: int, width: int) -> None:
    one, head = explainer("shapes-net-free", "gradcam"), np.load(RECIPES / "shapes-net.npz")["head.weight"]
    for image in (i[:height] for i in heldout(3, width)):
        e = one.explain(image)
        a = activations(zoo.locate("shapes-net-free"), image)
        assert (e.cam.shape, e.heatmap.shape) == ((height // 8, width // 8), (height, width))
        np.testing.assert_allclose(e.cam, np.tensordot(head[e.class_index], a, 1) / a[0].size, atol=1e-5)


@pytest.mark.parametrize("method", ["layercam", "saliency"])
def test_free_and_fixed_lengths_agree(method: str, tmp_path: Path) -> None:
    model = onnx.load(zoo.locate("shapes-net-free"))
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (160, 224), strict=True):
        dim.dim_value = size
    onnx.save(model, tmp_path / "fixed.onnx")
    fixed = Explainer(tmp_path / "fixed.onnx", preprocess="unit", method=method)
    free = explainer("shapes-net-free", method)
    for image in (i[:160] for i in heldout(2, 224)):
        drift = Drift.between(free.explain(image), fixed.explain(image))
        assert drift.map <= 1e-4
        assert drift.heatmap <= 1e-3


# ---------------------------------------------------------------- pairs

OFF = {"float": 1e-5, "half": 5e-3, "int8": 0.5}  # the largest error of a channel, of a pair's coarser precision
ORDER = [REFERENCE, *of("float", "half", "int8")]
ACROSS = enumerate(zip(ORDER, ORDER[len(ORDER) // 2 :], strict=False))  # no export is left out


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [pair[:: -1 if k % 2 else 1] for k, pair in ACROSS])
def test_any_two_exports_are_one_network(a: str, b: str) -> None:
    """Not only against the reference; pictures of twice the fixed size."""
    found = compare(f"zoo:{loadable(a)}", f"zoo:{loadable(b)}", zoo.samples(REFERENCE)[:3])
    assert found.verdict.kind == "sound", found.verdict.text
    coarser = next(p for p in ("int8", "half", "float") if p in (precision(a), precision(b)))
    assert max(s.worst for s in found.stages) < OFF[coarser]
    assert len([s for s in found.stages if s.what == "layer"]) >= 5
    figures = found.figures()
    assert figures["correlation"] is not None
    assert figures["correlation"].worst > (0.999 if coarser == "int8" else 0.99999)
    assert coarser == "int8" or all(p.agreement == 1 for p in found.pairs)
    assert any("gets 112x112" in note for note in found.notes) == ("shapes-net-free" in (a, b))


def test_the_stronger_network_looks_at_the_object() -> None:
    shares = trusted(20)[0]
    assert sum(strong > weak for weak, strong in shares) >= 14


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", members())
def test_the_name_alone_is_enough(name: str) -> None:
    """``zoo:NAME`` brings preprocessing and labels along, from the file or from the index."""
    one, stated = Explainer(f"zoo:{loadable(name)}"), zoo.model(name)
    image = scenes()[0][0]
    own = Preprocess.from_dict(stated.preprocess).apply(image, one.spec)[0]
    np.testing.assert_array_equal(one.preprocess.apply(image, one.spec)[0], own)
    assert one.labels == stated.labels


def test_external_weights_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "shapes-net-external"
    ((weights, _),) = zoo.model(name).data.items()
    for file in ("index.toml", f"{name}.onnx", weights):
        shutil.copy(zoo.root() / file, tmp_path)
    monkeypatch.setattr(zoo, "root", lambda: tmp_path)
    assert zoo.verify(name) == tmp_path / f"{name}.onnx"
    content = bytearray((tmp_path / weights).read_bytes())
    content[1000] ^= 1
    (tmp_path / weights).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{weights} is damaged"):
        zoo.verify(name)
    (tmp_path / weights).unlink()
    with pytest.raises(ModelError, match=rf"no file .*{weights}"):
        zoo.verify(name)


def test_the_matlab_recipe_writes_the_same_bytes() -> None:
    made = recipe("export_matlab").model(dict(np.load(RECIPES / "shapes-net.npz")))
    assert made.SerializeToString() == zoo.locate("shapes-net-matlab").read_bytes()


def test_matlab_pads_as_same_does() -> None:
    """The chain of Shape, Div, Ceil and Floor, at lengths that divide and at those that do not."""
    module = recipe("export_matlab")
    for kernel, stride, length in [(3, 1, 7), (3, 2, 7), (3, 2, 8), (5, 3, 10), (1, 2, 6)]:
        graph = module.Graph({})
        padded = graph.same_padding("x", "conv", kernel, stride)
        shape = ["N", 1, length, length]
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
        y = onnx.helper.make_tensor_value_info(padded, onnx.TensorProto.FLOAT, [None] * 4)
        made = onnx.helper.make_graph(graph.nodes, "pad", [x], [y], list(graph.constants.values()))
        model = onnx.helper.make_model(made, ir_version=7, opset_imports=[onnx.helper.make_opsetid("", 14)])
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {"x": np.ones((1, 1, length, length), np.float32)})
        windows = -(-length // stride)
        lack = max(0, (windows - 1) * stride + kernel - length)
        expected = np.pad(np.ones((length, length)), ((lack // 2, lack - lack // 2),) * 2)
        np.testing.assert_array_equal(out[0, 0], expected)
