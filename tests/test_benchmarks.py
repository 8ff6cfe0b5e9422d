"""The arithmetic of ``python -m benchmarks``: turns, ratios, distances of maps, and the page that is written."""

from __future__ import annotations

import json
import sys
from itertools import count

import numpy as np
import pytest
from builders import classifier, write

from benchmarks import speed, speed_document
from benchmarks.speed_worker import Steps, turn

pytestmark = pytest.mark.anyruntime


class Watch:
    """A clock that a call moves on."""

    def __init__(self, *seconds):
        self.now, self._seconds, self.calls = 0.0, seconds, count()

    def __call__(self):
        return self.now

    def call(self):
        self.now += self._seconds[min(next(self.calls), len(self._seconds) - 1)]


def test_a_turn_counts_no_call_of_its_warming_up():
    watch = Watch(5.0, 3.0, 1.0)
    assert turn(watch.call, warm=6.0, least=3, seconds=0.0, clock=watch) == [1.0, 1.0, 1.0]


def test_a_turn_lasts_as_long_as_it_is_told():
    watch = Watch(0.5)
    assert turn(watch.call, warm=0.0, least=1, seconds=2.0, clock=watch) == [0.5] * 4


def test_steps_follow_each_other():
    watch = Watch(2.0, 3.0)
    steps = Steps(clock=watch)
    watch.call()
    steps.done("import")
    watch.call()
    steps.done("build")
    assert steps.seconds == {"import": 2.0, "build": 3.0}


class Scripted:
    """A competitor whose turns are known: seconds of its calls, and what others took."""

    def __init__(self, *turns):
        self._turns, self.asked = list(turns), []

    def turn(self, warm, least, seconds):
        self.asked.append((warm, least, seconds))
        return self._turns.pop(0)


@pytest.fixture
def no_rest(monkeypatch):
    monkeypatch.setattr(speed, "REST", 0.0)


@pytest.mark.usefixtures("no_rest")
def test_a_disturbed_turn_is_taken_again():
    found = speed.Found(steps={"first": 0.01})
    speed._take(Scripted(([9.0, 9.0], 1.0), ([2.0, 4.0, 3.0], 0.0)), found)
    assert (found.turns, found.calls, found.disturbed) == ([3.0], 3, 0)


@pytest.mark.usefixtures("no_rest")
def test_what_stays_disturbed_counts_and_says_so():
    found = speed.Found(steps={"first": 0.01})
    speed._take(Scripted(*[([5.0], 1.0)] * speed.TRIES), found)
    assert (found.turns, found.disturbed) == ([5.0], 1)


@pytest.mark.usefixtures("no_rest")
def test_a_slow_call_is_not_warmed_up():
    slow, quick = Scripted(([2.0], 0.0)), Scripted(([0.01] * 3, 0.0))
    speed._take(slow, speed.Found(steps={"first": 2.0}))
    speed._take(quick, speed.Found(steps={"first": 0.01}))
    assert slow.asked == [(0.0, 1, 0.0)]
    assert quick.asked == [(0.1, 3, 0.2)]


@pytest.mark.usefixtures("no_rest")
def test_what_takes_very_long_is_measured_once_and_the_others_in_turn():
    found = {"long": speed.Found(steps={"first": 60.0}), "short": speed.Found(steps={"first": 0.01})}
    running = {"long": Scripted(), "short": Scripted(*[([1.0], 0.0)] * 3)}
    speed._rounds(running, found, seconds=0.0)
    assert (found["long"].turns, found["long"].calls) == ([60.0], 1)
    assert found["short"].turns == [1.0] * 3


@pytest.mark.usefixtures("no_rest")
def test_a_competitor_that_dies_on_the_way_leaves_the_others():
    class Dying(Scripted):
        def turn(self, warm, least, seconds):
            raise RuntimeError("out of memory")

    found = {who: speed.Found(steps={"first": 0.01}) for who in ("a", "b")}
    running = {"a": Dying(), "b": Scripted(*[([1.0], 0.0)] * 3)}
    speed._rounds(running, found, seconds=0.0)
    assert list(running) == ["b"]
    assert (found["a"].error, found["b"].turns) == ("out of memory", [1.0] * 3)


def test_ratios_are_of_turns_of_one_round():
    """The quotient of the medians would be 5.3."""
    assert speed_document.ratio([2.0, 8.0, 9.0], [1.0, 4.0, 1.5]) == (2.0, 2.0, 4.0)


def test_what_was_measured_once_has_no_spread():
    assert speed_document.ratio([30.0], [1.0, 2.0, 3.0]) == (15.0, 15.0, 15.0)
    assert speed_document.milliseconds([8.16]) == "8160, once"
    assert speed_document.times([30.0], [1.0, 2.0, 3.0]) == "15.00"


def test_times_are_shown_with_quartiles():
    assert speed_document.milliseconds([0.010, 0.011, 0.012, 0.013, 0.030]) == "12 (11 to 13)"
    assert speed_document.times([2.0, 3.0, 4.0], [1.0, 1.0, 1.0]) == "3.00 (2.50 to 3.50)"
    assert speed_document.milliseconds([]) == speed_document.times([], [1.0]) == "-"


def test_memory_grows_by_its_first_sample():
    assert speed_document.grown([200.0, 250.0, 202.0]) == pytest.approx(0.01)


def test_maps_are_compared_up_to_scale_and_offset():
    ours = {"cam": np.array([[[-4.0, 0.0], [1.0, 2.0]]]), "heatmap": np.array([[[0.0, 0.0], [0.5, 1.0]]])}
    assert speed.apart(ours, {"cam": 3 * ours["cam"]}) == 0
    assert speed.apart(ours, {"heatmap": np.array([[[0.0, 0.0], [0.25, 1.0]]])}) == 0.25
    assert speed.apart(ours, {"shown": np.array([[[0.0, 0.1], [0.5, 1.0]]])}) == pytest.approx(0.1)


def test_attributions_are_compared_raw():
    ours = {"attribution": np.array([[[[3.0, 4.0]]]]), "cam": np.array([[[3.0, 4.0]]])}
    assert speed.apart(ours, {"attribution": 2 * ours["attribution"]}) == 1.0
    hidden = np.array([[[[3.0, 4.0]], [[9.0, 9.0]], [[9.0, 9.0]]]])
    assert speed.apart(ours, {"hidden": hidden}) == 0.0


def result(turns, far=None, **more):
    return {"turns": turns, "far": far, "error": "", "disturbed": 0, "steps": {}, "peak": 1.0, **more}


ROW = {
    "network": "net", "method": "gradcam", "size": 224, "batch": 1, "threads": 2, "day": "2026-01-02",
    "versions": {"onnxruntime": "1.0"},
    "found": {
        "onnxruntime": result([0.010, 0.020]),
        "onnxcam session": result([0.012, 0.020], disturbed=1),
        "onnxcam": result([0.020, 0.040]),
        "pytorch-grad-cam": result([0.080, 0.160], far=0.5),
        "torch-cam": result([0.030, 0.060], far=1e-6),
        "captum": result([], error="RuntimeError: no"),
    },
}  # fmt: skip


def test_the_page_changes_between_its_markers_alone():
    page = "before\n<!-- table: peers -->\nold\n<!-- end -->\nafter\n<!-- table: batch -->\nkept\n<!-- end -->\n"
    found = speed_document.rewrite(page, {"cams": [ROW]})
    line = "| gradcam | net | 30 (25 to 35) | 4.00 | 1.50 | - | **5e-1**, 1e-6 |"
    assert line in found.splitlines()
    assert "old" not in found
    assert "onnxruntime 1.0; other work disturbed 1 of 10 turns." in found
    assert found.startswith("before\n<!-- table: peers -->\n`python -m benchmarks cams pixels`; 2026-01-02")
    assert found.endswith("<!-- end -->\nafter\n<!-- table: batch -->\nkept\n<!-- end -->\n")
    assert speed_document.rewrite(found, {"cams": [ROW]}) == found


def test_beside_the_plain_run():
    assert speed_document.beside_plain({"cams": [ROW]}).splitlines()[-1] == (
        "| net | 15 (12.5 to 17.5) | 1.10 (1.05 to 1.15) | 2.00 | - | - |"
    )


def test_a_row_is_replaced_by_a_later_one_of_the_same_question(tmp_path, monkeypatch):
    from benchmarks import __main__ as command

    monkeypatch.setattr(command, "KEPT", tmp_path)
    command.keep("cams", {**ROW, "found": {"onnxruntime": result([1.0])}})
    command.keep("cams", {**ROW, "network": "other"})
    command.keep("cams", {**ROW, "found": {"onnxruntime": result([2.0])}})
    kept = command.load()["cams"]
    assert [r["network"] for r in kept] == ["net", "other"]
    assert kept[0]["found"]["onnxruntime"]["turns"] == [2.0]


def test_a_competitor_that_dies_says_why(tmp_path):
    question = speed.Question("net", "gradcam", 8, 1, 1, {"target": 0, "layer": "", "model": str(tmp_path / "no.onnx")})
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(RuntimeError, match=r"no\.onnx"):
        speed.Competitor("onnxruntime", question, tmp_path, sys.executable)


@pytest.mark.slow
def test_competitors_answer_in_turn(tmp_path):
    """The processes of this environment, on a small model of the tests."""
    model = write(tmp_path / "m.onnx", classifier())
    image = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "arrays.npz", image=image)
    prepared = {"target": 1, "layer": "auto", "model": str(model), "arrays": str(tmp_path / "arrays.npz")}
    question = speed.Question("net", "gradcam", 12, 1, 1, prepared)
    who = ("onnxruntime", "onnxcam session", "onnxcam")
    found = speed.measure(question, dict.fromkeys(who, sys.executable), who, seconds=0.0)
    for f in found.values():
        assert not f.error
        assert len(f.turns) == 3
        assert all(0 < t < 1 for t in f.turns)
        assert sorted(f.steps) == ["build", "first", "import"]
        assert 20 < f.peak < 2000
    assert json.dumps(speed.row(question, dict.fromkeys(who, sys.executable), who[:1], 0.0))
