"""The files of an export: weights of half the size or beside it, the ORT format; all of them or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from builders import answers, classifier, model, value, write
from onnx import TensorProto, helper

from onnxcam import Explainer, load_model
from onnxcam.errors import OptionError, OutputError
from onnxcam.export import Form, delivery, explainable
from onnxcam.export.delivery import with_half_weights

pytestmark = pytest.mark.anyruntime
RNG = np.random.default_rng(4)
PICTURE = RNG.random((2, 3, 12, 12), dtype=np.float32)
WEIGHTS = {
    "w1": RNG.standard_normal((32, 3, 5, 5)).astype(np.float32) / 4,
    "w2": RNG.standard_normal((48, 32, 3, 3)).astype(np.float32) / 12,
    "wd": RNG.standard_normal((48, 4)).astype(np.float32),
}


def network(path: Path, arrays: dict[str, Any] | None = None) -> Path:
    """Two convolutions, mean, dense: of the size that is worth halving, but for the 192 numbers of the last."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[2, 2, 2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["gap"]),
        node("Flatten", ["gap"], ["flat"]),
        node("MatMul", ["flat", "wd"], ["logits"]),
    ]
    given, scores = value("image", ["n", 3, 12, 12]), value("logits", ["n", 4])
    return write(path, model(nodes, [given], [scores], arrays or WEIGHTS))


def run(path: Path, classes: Any = (-1, -1)) -> dict[str, Any]:
    return answers(path, image=PICTURE, **{"onnxcam/class": np.asarray(classes)})


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "source.onnx"}


# Weights of half the size


@pytest.mark.parametrize("method", ["gradcam", "layercam", "saliency"])
def test_halved_weights_are_the_weights_rounded_and_nothing_else_is(tmp_path, method):
    """The replica: a network whose weights were rounded to float16 by hand, explained in float32."""
    Explainer(network(tmp_path / "s.onnx"), method=method).export(tmp_path / "m.onnx", form=Form(fp16=True))
    rounded = {k: w.astype(np.float16).astype(np.float32) if k != "wd" else w for k, w in WEIGHTS.items()}
    twin = Explainer(network(tmp_path / "t.onnx", rounded), method=method)
    for c in range(4):
        found = run(tmp_path / "m.onnx", (c, c))
        want = np.stack([e.heatmap for e in twin.explain_tensor(PICTURE, c)])
        np.testing.assert_allclose(found["heatmap"], want, atol=1e-5)
    exact = Explainer(tmp_path / "s.onnx", method=method).explain_tensor(PICTURE, 3)
    assert np.abs(found["heatmap"] - np.stack([e.heatmap for e in exact])).max() > 2e-5  # 8 times the replica's
    assert np.corrcoef(found["heatmap"].ravel(), np.ravel([e.heatmap for e in exact]))[0, 1] > 0.9995


def test_no_weight_is_stored_twice(tmp_path):
    ex = Explainer(network(tmp_path / "s.onnx"))
    ex.export(tmp_path / "f.onnx")
    ex.export(tmp_path / "m.onnx", form=Form(fp16=True))
    held = {t.name: t for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    large = {n: t.data_type for n, t in held.items() if np.prod(t.dims) > 1000}
    assert large == {"onnxcam/half/w1": TensorProto.FLOAT16, "onnxcam/half/w2": TensorProto.FLOAT16}
    saved = (tmp_path / "f.onnx").stat().st_size - (tmp_path / "m.onnx").stat().st_size
    assert saved > 2 * (32 * 75 + 48 * 288) - 400  # two bytes each, but for two Casts


@pytest.mark.parametrize("scale", [1e5, 1e-5])
def test_large_activations_and_small_gradients_stay_what_they_are(tmp_path, scale):
    """Activations up to 1e6, gradients down to 1e-9 or so: more and less than float16 holds."""
    arrays = {**WEIGHTS, "w1": WEIGHTS["w1"] * np.float32(max(scale, 1) / 2), "wd": WEIGHTS["wd"] * np.float32(1e-7)}
    source = network(tmp_path / "s.onnx", arrays)
    Explainer(source, target_layer="r1").export(tmp_path / "m.onnx", form=Form(fp16=True, raw=True))
    found = run(tmp_path / "m.onnx", (2, 2))
    twin = {k: w.astype(np.float16).astype(np.float32) if k != "wd" else w for k, w in arrays.items()}
    for k, e in enumerate(Explainer(network(tmp_path / "t.onnx", twin), target_layer="r1").explain_tensor(PICTURE, 2)):
        assert e.heatmap.max() == 1
        np.testing.assert_allclose(found["heatmap"][k], e.heatmap, atol=1e-5)
        np.testing.assert_allclose(found["cam"][k], e.cam, rtol=1e-4, atol=1e-6 * np.abs(e.cam).max())


def row_of(size: float, like: float = 1.0) -> Any:
    """64 x 32 normal numbers, one row of which is of another size."""
    found = RNG.standard_normal((64, 32)).astype(np.float32) * np.float32(like)
    found[7] *= np.float32(size)
    return found


@pytest.mark.parametrize(
    ("given", "halved"),
    [
        (row_of(1), True),
        (row_of(1, 1e-4), True),
        (row_of(1e-6), False),  # subnormal in float16: 3 bits are left
        (row_of(1e-13), True),  # a dead channel
        (row_of(0), True),
        (row_of(1e5), False),  # beyond 65504
        (np.full((64, 32), np.nan, np.float32), False),
        (RNG.standard_normal((31, 33)).astype(np.float32), False),  # few
        (RNG.standard_normal(4096).astype(np.float32), False),  # of rank 1
        (RNG.standard_normal((64, 32)), False),  # double
        (RNG.integers(0, 9, (64, 32)), False),
    ],
)
def test_weights_that_float16_does_not_hold_stay(tmp_path, given, halved):
    node = helper.make_node
    certain = np.ones((64, 64), np.float32)
    arrays = {"certain": certain, "w": given}
    proto = model(
        [node("Identity", ["w"], ["same"]), node("Mul", ["image", "certain"], ["y"])],
        [value("image", [1, 3, 64, 64])],
        [value("y", [1, 3, 64, 64]), value("same", given.shape, helper.np_dtype_to_tensor_dtype(given.dtype))],
        arrays,
    )
    found = with_half_weights(load_model(write(tmp_path / "m.onnx", proto))).graph
    kinds = {n: v.const_value.dtype for n, v in found.initializers.items() if v.const_value is not None}
    want = {"onnxcam/half/certain": ir.DataType.FLOAT16}
    want |= {"onnxcam/half/w": ir.DataType.FLOAT16} if halved else {"w": ir.DataType.from_numpy(given.dtype)}
    assert kinds == want


def test_where_nothing_can_be_halved_that_is_said(tmp_path):
    ex = Explainer(write(tmp_path / "s.onnx", classifier(dtype=np.float16)))
    with pytest.raises(OptionError, match=r"no large float32 weights that fit into float16.*FLOAT16.*leave it out"):
        ex.export(tmp_path / "m.onnx", form=Form(fp16=True))
    assert not files(tmp_path).keys() - {"s.onnx"}


@pytest.mark.real
@pytest.mark.parametrize("name", ["squeezenet11_fp32", "leafsnap30_cnn", "keras_mobilenetv1_025_nhwc_tf2onnx_op17"])
def test_real_models_of_half_the_size_say_the_same(tmp_path, real_zoo, name):
    ex = Explainer(real_zoo / "models" / f"{name}.onnx")
    ex.export(tmp_path / "f.onnx")
    ex.export(tmp_path / "m.onnx", form=Form(fp16=True))
    assert (tmp_path / "m.onnx").stat().st_size < 0.53 * (tmp_path / "f.onnx").stat().st_size
    for photo in sorted((real_zoo / "photos").glob("*.jpg"))[:4]:
        feeds = {ex.model.image_input.name: ex.prepare(photo).tensor, "onnxcam/class": np.asarray([-1])}
        a, b = (
            dict(zip([o.name for o in s.get_outputs()], s.run(None, feeds), strict=True))
            for s in map(onnxruntime.InferenceSession, map(str, (tmp_path / "f.onnx", tmp_path / "m.onnx")))
        )
        assert a["class_index"] == b["class_index"]
        assert np.corrcoef(a["heatmap"].ravel(), b["heatmap"].ravel())[0, 1] > 0.999


# Weights in a second file


@pytest.mark.parametrize("fp16", [False, True])
def test_weights_beside_the_model(tmp_path, fp16):
    ex = Explainer(network(tmp_path / "source.onnx"))
    ex.export(tmp_path / "one.onnx", form=Form(fp16=fp16))
    written = ex.export(tmp_path / "m.onnx", form=Form(fp16=fp16, external_data=True)).files
    assert written == (tmp_path / "m.onnx.data", tmp_path / "m.onnx")
    assert sorted(files(tmp_path)) == ["m.onnx", "m.onnx.data", "one.onnx"]
    large = [t for t in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer if t.external_data]
    assert {t.name.rpartition("/")[2] for t in large} >= {"w1", "w2"}
    assert {e.value for t in large for e in t.external_data if e.key == "location"} == {"m.onnx.data"}
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    for file in written:
        file.rename(elsewhere / file.name)
    for k, a in run(elsewhere / "m.onnx", (1, -1)).items():
        np.testing.assert_array_equal(a, run(tmp_path / "one.onnx", (1, -1))[k])


def test_more_than_one_file_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxcam.model._PROTO_LIMIT", 2**26 + 50_000)
    ex = Explainer(network(tmp_path / "source.onnx"))
    for form, advice in (
        (Form(), "give external"),
        (Form(external_data=True, ort=True), "leave ort out, and give ext"),
    ):
        with pytest.raises(OptionError, match=f"at most 2 GB: {advice}"):
            ex.export(tmp_path / "m.onnx", form=form)
    assert not files(tmp_path)
    ex.export(tmp_path / "half.onnx", form=Form(fp16=True))
    ex.export(tmp_path / "m.onnx", form=Form(external_data=True))
    np.testing.assert_allclose(run(tmp_path / "m.onnx")["logits"], run(tmp_path / "half.onnx")["logits"], rtol=1e-2)


# The ORT format


@pytest.fixture(scope="module")
def mobile(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mobile")
    ex = Explainer(network(folder / "source.onnx"))
    written = ex.export(folder / "m.onnx", form=Form(ort=True)).files
    assert {p.name for p in written} == {"m.onnx", "m.ort", "m.required_operators.config"} == set(files(folder))
    ex.export(folder / "half.onnx", form=Form(ort=True, fp16=True, external_data=True))
    return folder


def test_the_ort_format_gives_the_same(mobile):
    for classes in ((-1, -1), (2, 0)):
        want, found = run(mobile / "m.onnx", classes), run(mobile / "m.ort", classes)
        assert want.keys() == found.keys()
        for k, a in want.items():
            np.testing.assert_allclose(found[k], a, rtol=1e-5, atol=1e-6)
        assert want["heatmap"].any()
        np.testing.assert_allclose(run(mobile / "half.ort", classes)["heatmap"], want["heatmap"], atol=5e-3)


def test_weights_of_half_the_size_stay_so_in_the_ort_format(mobile):
    assert (mobile / "m.ort").stat().st_size - (mobile / "half.ort").stat().st_size > 2 * (32 * 75 + 48 * 288) - 1500


def test_the_list_of_operators_is_what_the_ort_format_holds(mobile, tmp_path):
    """Against the same fusions, written as ONNX, and ONNX's own table of versions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(mobile / "m.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "fused.onnx").graph.node
    want = {("com.microsoft", 1, n.op_type) for n in nodes if n.domain == "com.microsoft"}
    own = {n.op_type for n in nodes if n.domain == ""}
    want |= {("ai.onnx", onnx.defs.get_schema(op, 18).since_version, op) for op in own}
    rows = [r for r in (mobile / "m.required_operators.config").read_text().splitlines() if r[0] != "#"]
    split = [r.split(";") for r in rows]
    assert {(d, int(v), op) for d, v, ops in split for op in ops.split(",")} == want
    assert ("com.microsoft", 1, "FusedConv") in want


def test_what_onnxruntime_cannot_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "_CHILD", "raise RuntimeError('no space for it')")
    ex = Explainer(network(tmp_path / "source.onnx"))
    with pytest.raises(OutputError, match=r"cannot write m.ort: RuntimeError: no space for it; leave ort out"):
        ex.export(tmp_path / "m.onnx", form=Form(ort=True, external_data=True))
    assert not files(tmp_path)


# Places


@pytest.mark.parametrize(
    ("name", "form", "error", "message"),
    [
        ("folder", Form(), OptionError, r"is a folder: give the name of a file, such as .*model.onnx"),
        ("none/m.onnx", Form(), OutputError, r"there is no folder '.*none'; make it first"),
        ("m.ort", Form(ort=True), OptionError, r"give the name of that one"),
        ("m.onnx", Form(external_data=True), OptionError, r"m.onnx.data' is there already.*--force"),
        ("m.onnx", Form(ort=True), OptionError, r"m.required_operators.config' is there already"),
        ("dangling.onnx", Form(), OptionError, r"is there already"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_done(tmp_path, monkeypatch, name, form, error, message):
    ex = Explainer(network(tmp_path / "source.onnx"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.onnx.data").write_bytes(b"mine")
    (tmp_path / "m.required_operators.config").write_bytes(b"mine")
    (tmp_path / "dangling.onnx").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("onnxcam.export.Exhibit", None)  # whoever begins to write a graph fails
    with pytest.raises(error, match=message):
        ex.export(tmp_path / name, form=form)
    assert sorted(tmp_path.iterdir()) == before


FULL = Form(external_data=True, ort=True)
COMPANIONS = ["m.onnx.data", "m.ort", "m.required_operators.config"]


def refused_or_forced(ex: Explainer, path: Path, form: Form, old: list[str]) -> list[str]:
    """Exports where an earlier export left files: not without force. The names of what is there then."""
    before = files(path.parent)
    with pytest.raises(
        OptionError, match=r"is there already|of an earlier export.*or force \(--force\), which removes"
    ):
        ex.export(path, form=form)
    assert files(path.parent) == before
    done = ex.export(path, form=form, force=True)
    assert sorted(p.name for p in done.removed) == old
    assert not [p for p in done.removed if p.exists()]
    assert {p.name for p in done.files} == files(path.parent).keys()
    np.testing.assert_array_equal(run(path)["logits"].argmax(axis=1), run(path)["class_index"])
    return sorted(files(path.parent))


def test_companions_of_an_earlier_export_do_not_stay_beside_a_new_one(tmp_path):
    ex, path = Explainer(network(tmp_path / "source.onnx")), tmp_path / "m.onnx"
    assert sorted(p.name for p in ex.export(path, form=FULL).files) == ["m.onnx", *COMPANIONS]
    assert refused_or_forced(ex, path, Form(external_data=True), COMPANIONS[1:]) == ["m.onnx", "m.onnx.data"]
    assert refused_or_forced(ex, path, Form(), COMPANIONS[:1]) == ["m.onnx"]
    ex.export(path, form=FULL, force=True)
    path.unlink()
    assert refused_or_forced(ex, path, Form(external_data=True), COMPANIONS[1:]) == ["m.onnx", "m.onnx.data"]


def test_companions_that_no_export_wrote_stay(tmp_path):
    ex, path = Explainer(network(tmp_path / "source.onnx")), tmp_path / "m.onnx"
    load_model(tmp_path / "source.onnx").save(path, external_data=True)
    for name in COMPANIONS[1:]:
        (tmp_path / name).write_bytes(b"" if name == "m.ort" else b"mine")
    before = files(tmp_path)
    assert ex.export(path, form=Form(), force=True).removed == ()
    assert {n: files(tmp_path)[n] for n in COMPANIONS} == {n: before[n] for n in COMPANIONS}
    assert ex.export(path, form=Form(), force=True).removed == ()  # that is ours now, but without weights beside it


@pytest.mark.parametrize("failing", range(1, 6))
def test_what_an_earlier_export_left_comes_back_where_the_new_one_fails(tmp_path, monkeypatch, failing):
    """Four old files are moved away, one new one comes."""
    ex, moves, real = Explainer(network(tmp_path / "source.onnx")), [], os.replace

    def move(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    ex.export(tmp_path / "m.onnx", form=FULL)
    before = files(tmp_path)
    monkeypatch.setattr("onnxcam.files.os.replace", move)
    with pytest.raises(OutputError, match="Input/output error"):
        ex.export(tmp_path / "m.onnx", force=True)
    assert files(tmp_path) == before
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_source_is_no_leftover(tmp_path):
    """Its weights lie where an earlier export's would."""
    network(tmp_path / "source.onnx")
    Explainer(tmp_path / "source.onnx").export(tmp_path / "m.onnx", form=Form(external_data=True))
    load_model(tmp_path / "source.onnx").save(tmp_path / "apart.onnx", external_data=True)
    (tmp_path / "m.onnx.data").unlink()
    (tmp_path / "m.onnx.data").hardlink_to(tmp_path / "apart.onnx.data")
    before = (tmp_path / "apart.onnx.data").read_bytes()
    with pytest.raises(OutputError, match=r"m.onnx.data is the model's own file"):
        Explainer(tmp_path / "apart.onnx").export(tmp_path / "m.onnx", force=True)
    assert (tmp_path / "m.onnx.data").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("m.ort", Form(ort=True)),
        ("m.required_operators.config", Form(ort=True)),
        ("m.onnx.data", Form(external_data=True)),
    ],
)
def test_a_folder_is_not_replaced(tmp_path, name, form):
    ex, kept = Explainer(network(tmp_path / "source.onnx")), tmp_path / name / "kept"
    kept.parent.mkdir()
    kept.write_bytes(b"mine")
    with pytest.raises(OptionError, match=rf"{name}' is a folder, where a file of the export goes: give another name"):
        ex.export(tmp_path / "m.onnx", form=form, force=True)
    assert kept.read_bytes() == b"mine"
    assert not (tmp_path / "m.onnx").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    """Whether it was written by an earlier export is asked of files alone."""
    for name in ("m.onnx", "m.ort"):
        os.mkfifo(tmp_path / name)
    done = Explainer(network(tmp_path / "source.onnx")).export(tmp_path / "m.onnx", force=True)
    assert ([p.name for p in done.files], done.removed) == (["m.onnx"], ())
    assert (tmp_path / "m.ort").is_fifo()
    assert run(tmp_path / "m.onnx")["heatmap"].shape == (2, 12, 12)


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    ex = Explainer(network(tmp_path / "source.onnx"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # the tests may be root's
    with pytest.raises(OutputError, match=r"the folder is read-only; choose another one"):
        ex.export(tmp_path / "m.onnx")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(model: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    ex = Explainer(network(tmp_path / "source.onnx"))
    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(OutputError, match=r"cannot write .*m.onnx: No space left on device"):
        ex.export(tmp_path / "m.onnx", form=Form(external_data=True))
    assert not files(tmp_path)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_pair_is_exchanged_as_a_whole(tmp_path, monkeypatch, failing):
    """Each of the four moves may fail: the old pair is back."""
    ex, done, real = Explainer(network(tmp_path / "source.onnx")), [], os.replace

    def move(source: Path, target: Path) -> None:
        done.append(target)
        if len(done) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    form, path = Form(external_data=True), tmp_path / "m.onnx"
    ex.export(path, form=form)
    before = files(tmp_path)
    monkeypatch.setattr("onnxcam.files.os.replace", move)
    with pytest.raises(OutputError, match="Input/output error"):
        ex.export(path, "margin:1,2", form, force=True)
    assert files(tmp_path) == before
    done[:] = [path] * 5
    ex.export(path, "margin:1,2", form, force=True)
    after = files(tmp_path)
    assert after.keys() == before.keys() == {"m.onnx", "m.onnx.data"}
    assert after["m.onnx"] != before["m.onnx"]


def test_the_weights_of_the_source_are_never_written_over(tmp_path):
    source = load_model(network(tmp_path / "m.onnx"))
    source.save(tmp_path / "source.onnx", external_data=True)
    before = (tmp_path / "source.onnx.data").read_bytes()
    (tmp_path / "m.onnx").unlink()
    (tmp_path / "m.onnx.data").symlink_to("source.onnx.data")
    with pytest.raises(OutputError, match=r"m.onnx.data is the model's own file"):
        Explainer(tmp_path / "source.onnx").export(tmp_path / "m.onnx", form=Form(external_data=True), force=True)
    assert (tmp_path / "source.onnx.data").read_bytes() == before
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_that_is_only_made_is_of_the_same_form(tmp_path):
    made = explainable([Explainer(network(tmp_path / "s.onnx"))], form=Form(fp16=True, opset=19)).model
    assert made.opset == 19
    assert "onnxcam/half/w2" in made.graph.initializers
