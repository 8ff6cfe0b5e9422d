"""The job: what each row says, what the table makes of it, and what a kill leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from builders import classifier, png, write

from onnxcam import Explainer
from onnxcam.errors import GradientError, OptionError, OutputError, UnknownNameError
from onnxcam.evaluate import evaluate, sanity
from onnxcam.evaluate.localization import component_boxes, fits
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.run import Evaluation
from onnxcam.evaluate.table import make_table
from onnxcam.explainer import Explainer as Whole
from onnxcam.image import read_image

pytestmark = pytest.mark.anyruntime

BOXES = ("4 2 12 10", "0 0 8 9", "3 8 14 19", "6 6 15 16", "1 11 9 20")
PLAIN = {"preprocess": "unit", "workers": 1, "threads": 1}
FEW = ("pointing_game", "energy", "average_drop")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Intervals of few draws."""
    monkeypatch.setattr("onnxcam.evaluate.table.SAMPLES", 100)


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier())


@pytest.fixture
def data(tmp_path) -> Path:
    """Five pictures of 20 x 16, each with a class and a box; 0.png shows two classes."""
    lines = ["path,truth,box", "0.png,3,0 0 4 4"]
    for k, box in enumerate(BOXES):
        png(tmp_path / "data" / f"{k}.png", k)
        lines.append(f"{k}.png,{k % 3},{box}")
    (tmp_path / "data" / "boxes.csv").write_text("\n".join(lines))
    return tmp_path / "data" / "boxes.csv"


def rows(job: Evaluation) -> list[dict]:
    with job:
        return [row for group in job for row in group]


def of(found: list[dict], index: int, method: str) -> dict:
    return next(r for r in found if (r["index"], r["method"]) == (index, method))


# ---- One row, done again by hand ----


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def test_a_row_is_what_explainer_and_formula_give(model, data):
    asked = [*FEW, "insertion_zero", "max_box_acc", "max_box_acc_v2"]
    found = rows(Evaluation(model, data, ["gradcam"], asked, **PLAIN))
    samples = Evaluation(model, data, ["gradcam"], FEW, **PLAIN).samples
    explainer = Explainer(model, preprocess="unit")
    for index, sample in enumerate(samples):
        row, c = of(found, index, "gradcam"), int(sample.truth)
        e = explainer.explain(sample.source, c)
        x = explainer.prepare(sample.source).tensor

        def p(x, c=c):
            return softmax(explainer.programs.peek(["logits"], {"image": x})[0][0].astype(np.float64))[c]

        assert (row["truth"], row["explained"], row["probability"]) == (sample.truth, c, pytest.approx(p(x), rel=1e-5))
        assert row["predicted"] == e.top[0][0]
        x0, y0, x1, y1 = map(int, sample.boxes[0])
        whole = e.heatmap_on_image().astype(np.float64)
        inside = whole[y0:y1, x0:x1].sum() / whole.sum()
        assert row["values"]["energy"] == pytest.approx(inside, rel=1e-5)
        found_boxes = component_boxes(whole, [k / 50 for k in range(1, 51)])
        one, every = (fits(found_boxes, sample.boxes, each) for each in (False, True))
        assert row["values"]["max_box_acc"] == [int(v >= 0.5) for v in one]
        assert row["values"]["max_box_acc_v2"] == [[int(v >= level) for v in every] for level in (0.3, 0.5, 0.7)]
        lost = max(0, p(x) - p((x * e.heatmap).astype(np.float32))) / p(x)
        assert row["values"]["average_drop"] == pytest.approx(lost, rel=1e-4, abs=1e-6)
        assert row["values"]["insertion_zero"] == pytest.approx(inserted(p, x, e.heatmap), rel=1e-4)


def inserted(p, x: np.ndarray, heatmap: np.ndarray) -> float:
    """Three pixels at a time: a fiftieth of 144, rounded up."""
    order = sorted(range(144), key=lambda k: (-heatmap.ravel()[k], k))
    scores = []
    for count in range(0, 145, 3):
        shown = np.zeros_like(x)
        for k in order[:count]:
            shown[..., k // 12, k % 12] = x[..., k // 12, k % 12]
        scores.append(p(shown))
    return float(sum(a + b for a, b in pairwise(scores)) / 2 / (len(scores) - 1))


def test_the_localisation_error_is_of_pictures_and_predicted_classes(model, data):
    """One box is the map's own for the true class, the others are not."""
    explainer = Explainer(model, preprocess="unit")
    names = [f"{k}.png" for k in range(5)]
    ranked = {n: [c for c, _, _ in explainer.explain(data.parent / n).top] for n in names}
    own = {n: explainer.explain(data.parent / n, ranked[n][1]).boxes()[0].corners for n in names}
    lines = [f"{n},{ranked[n][1]},{' '.join(map(str, own[n])) if n != '4.png' else '0 0 2 2'}" for n in names]
    data.write_text("\n".join(["path,truth,box", *lines, f"0.png,{ranked['0.png'][0]},0 0 1 1"]))
    asked = ["localisation_top1", "localisation_top5", "localisation_known"]
    found = rows(Evaluation(model, data, ["gradcam"], asked, **PLAIN))
    told = {}
    for r in (r for r in found if r["method"] == "gradcam"):
        told.setdefault(Path(r["source"]).name, []).append(list(r["values"].values()))
    right = {f"{k}.png": [[1, 0, 0]] for k in (1, 2, 3)}
    assert told == {"0.png": [[1, 0, 0], [None, None, 1]], **right, "4.png": [[1, 1, 1]]}
    lines = [
        f"{n},{ranked[n][0]},{' '.join(map(str, explainer.explain(data.parent / n).boxes()[0].corners))}" for n in names
    ]
    data.write_text("\n".join(["path,truth,box", *lines]))
    found = rows(Evaluation(model, data, ["gradcam"], ["localisation_top1"], **PLAIN))
    assert {r["values"]["localisation_top1"] for r in found if r["method"] == "gradcam"} == {0}


def test_of_several_classes_the_likeliest_is_explained(model, data, tmp_path):
    (tmp_path / "map.csv").write_text("0,0-3\n1,2,1\n2,2\n")
    mapped = {"classes": tmp_path / "map.csv"}
    found = rows(Evaluation(model, data, ["gradcam"], ["energy"], **mapped, **PLAIN))
    z = {r["index"]: Explainer(model, preprocess="unit").explain(r["source"]).top for r in found}
    for row in found:
        own = {"0": {0, 1, 2, 3}, "1": {1, 2}, "2": {2}}[row["truth"]]
        assert row["explained"] == next(c for c, _, _ in z[row["index"]] if c in own)
        assert row["correct"] == (z[row["index"]][0][0] in own)
    assert {r["truth"] for r in found} == {"0", "1", "2"}  # class 3 is none of the table's
    by_model = rows(Evaluation(model, data, ["gradcam"], ["energy"], explain="predicted", **PLAIN))
    assert all(r["explained"] == r["predicted"] for r in by_model)


def test_independent_classes_have_a_sigmoid(model, data):
    found = rows(Evaluation(model, data, ["gradcam"], ["energy"], independent=True, **PLAIN))
    for row in found[:3]:
        e = Explainer(model, preprocess="unit").explain(row["source"], row["explained"])
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-e.score)), rel=1e-5)


def test_of_integers_the_picture_is_seen_through_the_map_in_their_own_values(tmp_path, data):
    """A model that takes bytes and scales them: what it is shown again are bytes."""
    from onnx import TensorProto, helper, numpy_helper

    proto = classifier()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
    for node in proto.graph.node:
        node.input[:] = ["scaled" if name == "image" else name for name in node.input]
    proto.graph.node.insert(0, helper.make_node("Cast", ["image"], ["cast"], "cast", to=TensorProto.FLOAT))
    proto.graph.node.insert(1, helper.make_node("Mul", ["cast", "scale"], ["scaled"], "scale_down"))
    path = write(tmp_path / "bytes.onnx", proto)
    row = rows(Evaluation(path, data, ["gradcam"], ["coherency"], **{**PLAIN, "preprocess": "raw"}))[0]
    explainer = Explainer(path, preprocess="raw")
    e, x = explainer.explain(row["source"], row["explained"]), explainer.prepare(row["source"]).tensor
    again = explainer.explain_tensor(np.rint(x * e.heatmap).astype(np.uint8), row["explained"])[0]
    r = np.corrcoef(e.heatmap.ravel(), again.heatmap.ravel())[0, 1]
    assert row["values"]["coherency"] == pytest.approx((1 + r) / 2, rel=1e-4)
    assert row["values"]["coherency"] < 0.9999


# ---- Baselines ----


def test_baselines_have_the_resolution_of_their_methods(model, data):
    job = Evaluation(model, data, ["gradcam", "saliency"], ["energy"], **PLAIN)
    assert job.measuring.baselines == {
        "gradcam": ("random", "centre"), "saliency": ("random_fine", "centre_fine"),
    }  # fmt: skip
    found = rows(job)
    assert [r["method"] for r in found[:6]] == ["gradcam", "saliency", "random", "centre", "random_fine", "centre_fine"]
    centre = [of(found, k, "centre")["values"]["energy"] for k in range(6)]
    assert centre != [of(found, k, "centre_fine")["values"]["energy"] for k in range(6)]
    for k, sample in enumerate(job.samples):  # the picture is seen whole: 16 of 20 rows are not
        assert centre[k] == pytest.approx(middle(sample.boxes[0], job, sample.source), rel=1e-4)


def middle(box, job: Evaluation, source: str) -> float:
    """The share of the centre's Gaussian in a box: a grid of 6 x 6, as Grad-CAM's, enlarged twice."""
    g = np.exp(-((((np.arange(6) + 0.5) / 6 - 0.5) / 0.25) ** 2) / 2)
    steps = (np.arange(12) + 0.5) / 2 - 0.5
    fine = np.interp(steps, np.arange(6), g)  # bilinear, edges held
    place = job.measuring.first.prepare(source).placement
    whole = place.to_image(np.outer(fine, fine).astype(np.float32) / np.outer(fine, fine).max())
    x0, y0, x1, y1 = map(int, box)
    return float(whole[y0:y1, x0:x1].sum() / whole.sum())


def test_random_maps_differ_by_sample_and_seed_alone(model, data):
    def energies(seed: int) -> list[float]:
        found = rows(Evaluation(model, data, ["gradcam"], ["energy"], seed=seed, **PLAIN))
        return [r["values"]["energy"] for r in found if r["method"] == "random"]

    one = energies(0)
    assert one == energies(0)
    assert len(set(one)) == 6
    assert not set(one) & set(energies(1))


# ---- The table ----


def row(source: str, method: str, metric: str, value, truth: str = "a") -> dict:
    return {"source": source, "method": method, "truth": truth, "values": {metric: value}}


def table(metric: str, cells: dict[str, list[tuple]], baselines: dict[str, tuple[str, ...]]):
    """``cells``: by method, (source, value) or (source, value, truth)."""
    made = [row(c[0], method, metric, *c[1:]) for method, own in cells.items() for c in own]
    return make_table(made, [METRICS[metric]], baselines)


def test_a_mean_is_of_maps_and_its_interval_of_pictures():
    found = table("energy", {"m": [("p", 0.2), ("p", 0.4), ("q", 0.9), ("r", None)], "b": [("p", 0.1)]}, {"m": ("b",)})
    estimate = found["m"]["energy"].estimate
    assert (estimate.value, estimate.count) == (pytest.approx(0.5), 2)
    assert (estimate.low, estimate.high) == (pytest.approx(0.3), pytest.approx(0.9))  # p twice, q twice
    assert found["m"]["energy"].against["b"].value == pytest.approx(0.3 - 0.1)  # of the picture that both have


@pytest.mark.parametrize(("metric", "better"), [("energy", 1), ("average_drop", -1)])
def test_better_is_the_metrics_own_way(metric, better):
    values = {"m": [(f"{k}", 0.5 + 0.01 * k) for k in range(20)], "b": [(f"{k}", 0.4 + 0.011 * k) for k in range(20)]}
    cell = table(metric, {**values, "c": values["b"]}, {"m": ("b", "c")})[("m")][metric]
    assert cell.against["b"].value == pytest.approx(better * (0.1 - 0.0095))
    assert (cell.beats, cell.loses) == (better > 0, better < 0)
    worst = table(metric, {**values, "c": [(k, v + 1) for k, v in values["m"]]}, {"m": ("b", "c")})["m"][metric]
    assert not worst.beats or metric == "average_drop"


def test_one_baseline_that_is_not_beaten_is_enough():
    mine = [(f"{k}", 0.5) for k in range(20)]
    cells = {"m": mine, "b": [(k, 0.1) for k, _ in mine], "c": [(k, 0.5 + 0.1 * (-1) ** int(k)) for k, _ in mine]}
    cell = table("energy", cells, {"m": ("b", "c")})["m"]["energy"]
    assert cell.against["b"].low > 0 > cell.against["c"].low
    assert (cell.beats, cell.loses) == (False, False)


@pytest.mark.parametrize(("count", "sure"), [(1, False), (19, False), (20, True)])
def test_few_pictures_beat_nothing(count, sure):
    """However far apart the methods are: of one picture the bootstrap's interval has no width at all."""
    cells = {"m": [(f"{k}", 0.9) for k in range(count)], "b": [(f"{k}", 0.1) for k in range(count)]}
    cell = table("energy", cells, {"m": ("b",)})["m"]["energy"]
    assert (cell.against["b"].low, cell.against["b"].count) == (pytest.approx(0.8), count)
    assert (cell.beats, table("average_drop", cells, {"m": ("b",)})["m"]["average_drop"].loses) == (sure, sure)


def test_of_one_picture_the_numbers_are_its_own_and_their_doubt_is_told(model, data):
    data.write_text(f"path,truth,box\n0.png,0,{BOXES[0]}")
    found = evaluate(model, data, ["gradcam"], ["energy"], **PLAIN)
    job = Evaluation(model, data, ["gradcam"], ["energy"], **PLAIN)
    own = {r["method"]: r["values"]["energy"] for r in rows(job)}
    for name, cells in found.table.items():
        e = cells["energy"].estimate
        assert (e.value, e.low, e.high, e.count) == (*[pytest.approx(own[name])] * 3, 1)
    assert not found.cell("gradcam", "energy").beats
    assert found.notes[-1].startswith("some numbers rest on 1 picture: below 20,")


def test_blank_maps_are_left_out_where_pixels_are_ranked_and_counted(model, data, monkeypatch):
    """Of the first picture's sample of class 3: its place would be judged, not the map."""
    explain = Whole.explain_tensor

    def blank(self, x, target=None, **options):
        e = explain(self, x, target, **options)[0]
        return [replace(e, heatmap=0 * e.heatmap) if target == 3 else e]

    monkeypatch.setattr(Whole, "explain_tensor", blank)
    asked = ["insertion_zero", "deletion_blur", "road", "road_morf", "average_drop"]
    job = Evaluation(model, data, ["gradcam"], asked, **PLAIN)
    mine = [r for r in rows(job) if r["method"] == "gradcam"]
    ranked = [[r["values"][m] for m in asked[:4]] for r in mine]
    assert [r.get("blank", False) for r in mine] == [values == [None] * 4 for values in ranked]
    (first,) = [r for r in mine if r.get("blank")]
    assert (first["truth"], first["values"]["average_drop"] is None, "curves" in first) == ("3", False, False)
    assert "gradcam: 1 of 6 maps are blank; deletion, insertion and ROAD leave them out" in job.results().notes


def test_the_pointing_game_is_a_mean_over_classes():
    cells = {"m": [("p", 1, "a"), ("q", 1, "a"), ("r", 0, "a"), ("r", 0, "b")], "b": [("p", 0, "a")]}
    assert table("pointing_game", cells, {"m": ("b",)})["m"]["pointing_game"].estimate.value == pytest.approx(
        (2 / 3 + 0) / 2
    )


def test_the_threshold_is_the_best_for_all():
    cells = {"m": [("p", [1, 1, 0]), ("q", [0, 1, 0]), ("r", [0, 0, 1])], "b": [("p", [0, 0, 0])]}
    assert table("max_box_acc", cells, {"m": ("b",)})["m"]["max_box_acc"].estimate.value == pytest.approx(2 / 3)
    levels = [[[1, 1], [0, 1], [0, 0]], [[1, 0], [1, 0], [0, 1]]]
    cells = {"m": [("p", levels[0]), ("q", levels[1])], "b": [("p", levels[0])]}
    value = table("max_box_acc_v2", cells, {"m": ("b",)})["m"]["max_box_acc_v2"].estimate.value
    assert value == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_recall_takes_its_threshold_from_pictures_that_it_leaves_out():
    # strong where the class is there; a threshold of 5 is right for all, whichever are held out
    maps = [[5.0 + k, 1.0, 1.0] if k % 2 else [1.0, 0.0, 0.0] for k in range(10)]
    cells = {"m": [(f"{p}", maps) for p in range(10)], "b": [(f"{p}", [[9.0, 0.0, 1.0]]) for p in range(10)]}
    found = table("pointing_recall", cells, {"m": ("b",)})
    assert (found["m"]["pointing_recall"].estimate.value, found["m"]["pointing_recall"].estimate.count) == (1.0, 8)
    assert found["b"]["pointing_recall"].estimate.value == 0.0


# ---- Checks of methods as a whole ----

CHECKS = ["energy", "randomisation", "stability"]


def test_checks_are_those_of_sanity_on_pictures_that_could_be_read(model, data):
    (data.parent / "2.png").write_bytes(b"none")
    found = evaluate(model, data, ["gradcam", "saliency"], CHECKS, **PLAIN)
    pictures = [str(data.parent / f"{k}.png") for k in (0, 1, 3, 4)]
    options = {"preprocess": "unit", "threads": 1}
    for method in ("gradcam", "saliency"):
        curve = sanity.randomisation(model, pictures, method, **options)
        alike = curve.values[..., 1]  # signed, absolute, SSIM
        cell = found.cell(method, "randomisation")
        assert (cell.estimate.value, cell.estimate.count) == (pytest.approx(alike.mean(), abs=1e-5), 4)
        assert cell.against == {}
        points = found.curves[method]["randomisation"]
        assert points[0] == (0, 1)
        assert np.allclose(points[1:], [*zip(curve.share, alike.mean(axis=(1, 2)), strict=True)], atol=1e-5)
        moved = sanity.stability(Explainer(model, method=method, **options), pictures).largest
        assert found.cell(method, "stability").estimate.value == pytest.approx(moved.mean(), rel=1e-5)
    assert found.cell("random", "randomisation") is None


def test_a_check_that_fails_is_told_and_a_killed_one_made_again(model, data, tmp_path, monkeypatch):
    asked = (model, data, ["gradcam"], ["energy", "input_shift", "stability"], tmp_path / "out")
    monkeypatch.setattr(sanity, "input_shift", lambda *_, **__: (_ for _ in ()).throw(OptionError("integers")))
    found = evaluate(*asked, **PLAIN)
    assert found.failures == (("", "gradcam", "integers"),)
    assert [m for m, c in found.table["gradcam"].items() if c] == ["energy", "stability"]
    expected = whole(tmp_path / "out")
    (tmp_path / "out" / "checks.jsonl").write_bytes(expected["checks.jsonl"][:-9])
    with Evaluation(*asked, resume=True, **PLAIN) as job:
        assert (job.done, job.total) == (7, 8)
        assert len([*job]) == 1
        job.results()
    assert whole(tmp_path / "out") == expected


def test_checks_are_drawn_by_the_seed(model, data, monkeypatch):
    few = partial(sanity.randomisation, points=1)
    monkeypatch.setattr(sanity, "randomisation", few)
    found = evaluate(model, data, ["gradcam"], ["randomisation", "stability"], seed=2, **PLAIN)
    pictures, options = [str(data.parent / f"{k}.png") for k in range(5)], {"preprocess": "unit", "threads": 1}
    alike = few(model, pictures, "gradcam", seeds=(6, 7, 8), **options).values[..., 1].mean()
    moved = sanity.stability(Explainer(model, **options), pictures, seed=2).largest.mean()
    assert found.cell("gradcam", "randomisation").estimate.value == pytest.approx(alike, abs=1e-5)
    assert found.cell("gradcam", "stability").estimate.value == pytest.approx(moved, rel=1e-5)


def test_without_a_picture_a_check_fails_and_is_counted(model, data):
    for k in range(5):
        (data.parent / f"{k}.png").write_bytes(b"none")
    found = evaluate(model, data, ["gradcam"], ["stability"], **PLAIN)
    assert found.failures[-1] == ("", "gradcam", "there is no picture to check on: none could be explained")
    assert (found.counts["errors"], found.counts["failed_checks"]) == (6, 1)


# ---- The folder ----


def whole(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


@pytest.mark.slow
def test_cut_anywhere_it_ends_as_if_nothing_had_been(model, data, tmp_path):
    asked = (["gradcam", "saliency"], [*FEW, "insertion_blur"])
    evaluate(model, data, *asked, tmp_path / "one", **PLAIN)
    expected = whole(tmp_path / "one")
    lines = expected["results.jsonl"]
    assert lines.count(b"\n") == 6 * 6
    ends = [k + 1 for k, byte in enumerate(lines) if byte == 10]
    for cut in (0, 10, ends[2], ends[5], ends[5] + 40, ends[16] - 1, len(lines) - 1, len(lines)):
        out = tmp_path / "one"
        (out / "results.jsonl").write_bytes(lines[:cut])
        (out / "evaluation.json").unlink()
        with Evaluation(model, data, *asked, out, resume=True, **PLAIN) as job:
            assert job.done == sum(e <= cut for e in ends) // 6
            for _ in job:
                pass
            job.results()
        assert whole(out) == expected, cut


def test_lines_of_another_sample_or_none_are_cut_off(model, data, tmp_path):
    evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines(keepends=True)
    for damaged in (
        [*lines[:3], *lines[6:]],
        [*lines[:3], b"{}\n", *lines[3:]],
        [*lines[:4], b'{"index": \n', *lines[4:]],
        [*lines[:3], b'{"index": 1, "source": "a", "explained": 0}\n' * 3, *lines[6:]],
        [*lines[:3], b'{"index": 1, "method": "gradcam", "values": {}}\n' * 3, *lines[6:]],
        [*lines[:3], b'{"index": 1, "source": "a", "method": "gradcam"}\n' * 3, *lines[6:]],
    ):
        (tmp_path / "out" / "results.jsonl").write_bytes(b"".join(damaged))
        with Evaluation(model, data, ["gradcam"], FEW, tmp_path / "out", resume=True, **PLAIN) as job:
            assert job.done == 1
            for _ in job:
                pass
        assert (tmp_path / "out" / "results.jsonl").read_bytes() == b"".join(lines)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_it_goes_on(model, data, tmp_path):
    """The command itself, killed for good once the first samples are kept."""
    for k in range(5, 20):
        png(tmp_path / "data" / f"{k}.png", k)
    table = data.read_text() + "".join(f"\n{k}.png,{k % 3},2 2 9 9" for k in range(5, 20))
    data.write_text(table)
    arguments = [str(model), str(data), "--methods", "gradcam,layercam", "--metrics", "energy,insertion_blur"]
    command = [sys.executable, "-m", "onnxcam", "evaluate", *arguments, "--preprocess", "unit", "--workers", "1"]
    killed, out = tmp_path / "killed", tmp_path / "killed" / "results.jsonl"
    with subprocess.Popen([*command, "-o", str(killed)], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 3):
            time.sleep(0.002)
        process.kill()
    time.sleep(0.3)  # what it had forked ends with it
    left = out.read_bytes().count(b"\n")
    assert process.returncode == -signal.SIGKILL
    assert 3 < left < 21 * 4
    asked = (["gradcam", "layercam"], ["energy", "insertion_blur"])
    evaluate(model, data, *asked, killed, resume=True, **{**PLAIN, "threads": None})
    evaluate(model, data, *asked, tmp_path / "one", **PLAIN)
    same = [json.loads((o / "evaluation.json").read_text()) for o in (killed, tmp_path / "one")]
    assert same[0] == same[1]
    assert out.read_bytes() == (tmp_path / "one" / "results.jsonl").read_bytes()


def test_another_evaluation_does_not_go_on(model, data, tmp_path):
    evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    before = whole(tmp_path / "out")
    with pytest.raises(OptionError, match="holds an evaluation already: go on with resume"):
        evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    for change, word in (({"seed": 1}, "seed: 0, now 1"), ({"metrics": FEW[:2]}, "metrics"), ({"limit": 2}, "limit")):
        with pytest.raises(OptionError, match=rf"was started otherwise \(.*{word}"):
            evaluate(
                model,
                data,
                **{"methods": ["gradcam"], "metrics": FEW, "out": tmp_path / "out", "resume": True, **change, **PLAIN},
            )
    assert whole(tmp_path / "out") == before


def test_a_refused_resume_leaves_the_plan_of_a_job_without_rows(model, data, tmp_path):
    """Killed before its first row."""
    evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    plan = tmp_path / "out" / ".onnxcam" / "evaluation.json"
    before = plan.read_bytes()
    for name in whole(tmp_path / "out"):
        (tmp_path / "out" / name).unlink()
    for change in ({"resume": True, "seed": 1}, {"resume": False}):
        with pytest.raises(OptionError):
            evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **change, **PLAIN)
        assert plan.read_bytes() == before
    assert evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", resume=True, **PLAIN).counts["errors"] == 0


def test_the_folder_of_something_else_is_left_alone(model, data, tmp_path):
    (tmp_path / "results.jsonl").write_text("mine")
    with pytest.raises(OptionError, match="of no evaluation: choose another folder"):
        evaluate(model, data, ["gradcam"], FEW, tmp_path, **PLAIN)
    assert (tmp_path / "results.jsonl").read_text() == "mine"
    with (
        Evaluation(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN),
        pytest.raises(OutputError, match="another job works"),
    ):
        evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", resume=True, **PLAIN)


def test_what_cannot_start_leaves_nothing(model, data, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise GradientError("no way")

    monkeypatch.setattr(Whole, "explain_tensor", refuse)
    with pytest.raises(GradientError):
        evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    assert not (tmp_path / "out").exists()


# ---- What goes wrong ----


def test_a_picture_that_cannot_be_read_is_one_row_of_error(model, data, tmp_path):
    (data.parent / "2.png").write_bytes(b"none")
    found = evaluate(model, data, ["gradcam"], FEW, tmp_path / "out", **PLAIN)
    kept = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [r["method"] for r in kept if r["source"].endswith("2.png")] == [None]
    assert found.counts == {"pictures": 5, "samples": 6, "errors": 1, "failed_checks": 0, "left_out": 0}
    assert found.table["gradcam"]["energy"].estimate.count == 4
    assert [(Path(s).name, m) for s, m, _ in found.failures] == [("2.png", "")]
    assert "not a picture in a format that is read" in found.failures[0][2]


def test_a_method_that_fails_on_a_picture_fails_there_alone(model, data, monkeypatch):
    own = Whole.explain_tensor

    def explain(self, x, target=None, inputs=None):
        if self.method.name == "layercam" and np.array_equal(x, second):
            raise ValueError("odd")
        return own(self, x, target, inputs)

    second = Explainer(model, preprocess="unit").prepare(data.parent / "1.png").tensor
    monkeypatch.setattr(Whole, "explain_tensor", explain)
    found = evaluate(model, data, ["gradcam", "layercam"], FEW, **PLAIN)
    assert [(Path(s).name, m, text) for s, m, text in found.failures] == [
        ("1.png", "layercam", "unexpected ValueError: odd")
    ]
    assert {n: c["energy"].estimate.count for n, c in found.table.items()} == {
        "gradcam": 5,
        "layercam": 4,
        "random": 5,
        "centre": 5,
    }


def test_a_mask_of_another_size_is_an_error_of_its_picture(model, tmp_path):
    for k in range(2):
        png(tmp_path / "data" / "1" / f"{k}.png", k)
        png(tmp_path / "masks" / f"{k}.png", k, height=20 - k)
    found = evaluate(model, tmp_path / "data", ["gradcam"], ["energy"], masks=tmp_path / "masks", **PLAIN)
    assert found.table["gradcam"]["energy"].estimate.count == 1
    assert len(found.failures) == 1  # of the picture, not of each map
    assert "has 19 x 16 pixels; the picture has 20 x 16" in found.failures[0][2]


def test_boxes_end_with_the_picture(model, data):
    """0: cut off at the picture's end. 1: outside. 2: no box at all, of one of two objects. 3: as it was."""
    size = read_image(data.parent / "0.png").shape[:2]
    lines = ["path,truth,box", "0.png,0,-5 -5 400 300", "1.png,0,200 1 210 9", "2.png,0,1 1 x 3", "2.png,1,1 1 5 5"]
    data.write_text("\n".join([*lines, "3.png,1,3 3 12 14"]))
    found = rows(Evaluation(model, data, ["gradcam"], ["energy", "max_box_acc", "localisation_top1"], **PLAIN))
    whole = next(r for r in found if r["source"].endswith("0.png") and r["method"] == "random")
    assert whole["values"]["energy"] == 1  # all of the picture is in the box
    errors = {Path(r["source"]).name: r["error"] for r in found if "error" in r}
    assert list(errors) == ["1.png", "2.png"]
    assert f"200 1 210 9 of '0' lies outside of the picture's {size[1]} x {size[0]}" in errors["1.png"]
    assert "line 4: the box '1 1 x 3'" in errors["2.png"]
    other = next(r for r in found if r["source"].endswith("2.png") and r["method"] == "gradcam")
    assert other["truth"] == "1"
    assert other["values"]["localisation_top1"] is not None  # the only one that is left of its picture


def test_what_cannot_be_asked_is_refused(model, data, tmp_path):
    def refused(kind, match, methods=("gradcam",), metrics=FEW, **options):
        with pytest.raises(kind, match=match):
            Evaluation(model, options.pop("data", data), methods, metrics, **options, **PLAIN)

    refused(UnknownNameError, "unknown metric 'energie'; did you mean 'energy'", metrics=["energie"])
    refused(UnknownNameError, "unknown method 'gradcm'", methods=["gradcm"])
    refused(UnknownNameError, "unknown class to explain 'top'", explain="top")
    refused(OptionError, "mask_iou needs masks, and the data has none", metrics=["mask_iou"])
    refused(OptionError, "energy needs boxes or masks", data=data.parent, metrics=["energy"])
    refused(OptionError, "settings of rise, which is not evaluated", settings={"rise": {"samples": 5}})
    refused(OptionError, "limit=0", limit=0)
    refused(OptionError, "no methods", methods=[])


def test_groups_stand_for_what_the_data_allows(model, data):
    job = Evaluation(model, data, ["gradcam"], ["localization", "sanity"], **PLAIN)
    assert [m.name for m in job.metrics] == [
        "localisation_top1", "localisation_top5", "localisation_known", "max_box_acc", "max_box_acc_v2",
        "pointing_game", "pointing_recall", "energy", "label_contrast", "randomisation", "input_shift", "stability",
    ]  # fmt: skip
    assert [m.name for m in Evaluation(model, data.parent, ["gradcam"], **PLAIN).metrics] == [
        "insertion_blur", "deletion_blur", "road",
    ]  # fmt: skip


# ---- Choices ----


def test_a_limit_draws_pictures_with_all_that_they_show(model, data):
    def chosen(seed: int) -> list[tuple[str, str | None]]:
        job = Evaluation(model, data, ["gradcam"], FEW, limit=3, seed=seed, **PLAIN)
        return [(Path(s.source).name, s.truth) for s in job.samples]

    drawn = {seed: chosen(seed) for seed in range(6)}
    assert all(len({name for name, _ in own}) == 3 for own in drawn.values())
    assert len({tuple(own) for own in drawn.values()}) > 1
    assert drawn[0] == chosen(0)
    assert all(("0.png", "3") in own and ("0.png", "0") in own for own in drawn.values() if ("0.png", "0") in own)


def test_side_by_side_gives_the_same(model, data):
    asked = (model, data, ["gradcam", "rise"], [*FEW, "insertion_blur"])
    options = {"settings": {"rise": {"samples": 20}}, "preprocess": "unit", "threads": 1}
    one, two = (evaluate(*asked, workers=n, **options) for n in (1, 3))
    assert one.to_dict() == two.to_dict()
    assert one.configuration["methods"]["rise"]["options"] == {"samples": 20}


def test_every_metric_has_a_number_where_the_data_allows_it(model, tmp_path, monkeypatch):
    """Of masks and boxes all; each within the range that its meaning tells."""
    lines = ["path,truth,box,mask"]
    for k, box in enumerate(BOXES[:2]):
        png(tmp_path / f"{k}.png", k)
        mask = np.zeros((20, 16), bool)
        x0, y0, x1, y1 = map(int, box.split())
        mask[y0:y1, x0:x1] = True
        from onnxcam.image import save_image

        save_image(tmp_path / f"{k}.mask.png", np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
        lines.append(f"{k}.png,{k},{box},{k}.mask.png")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    monkeypatch.setattr(sanity, "randomisation", partial(sanity.randomisation, points=1, seeds=(0,)))
    found = evaluate(model, tmp_path / "t.csv", ["gradcam"], ["localisation", "faithfulness", "sanity"], **PLAIN)
    assert list(found.table["gradcam"]) == list(METRICS)
    signed = {"road": 0.5, "sensitivity_n": 1, "rank_correlation": 1, "label_contrast": 1, "stability": 9}
    for name, cell in found.table["gradcam"].items():
        e = cell.estimate
        assert -signed.get(name, 0) <= e.low <= e.high <= signed.get(name, 1), name
    assert set(found.curves["gradcam"]) == {c for m in METRICS.values() for c in m.curves}
    assert read_image(tmp_path / "0.png").shape == (20, 16, 3)
