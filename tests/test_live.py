"""Frame by frame: every map is `explain`'s of that frame; what is drawn; what goes on where a frame fails."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from builders import classifier, weights, write
from videos import decoded, scenes, video

from onnxcam import Explainer
from onnxcam.core.overlay import overlay
from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.live import Live, Rounds, paced
from onnxcam.video import Frame, open_source

pytestmark = pytest.mark.anyruntime
FRAMES = 24


@pytest.fixture(scope="module")
def explainer():
    return Explainer("zoo:shapes-cnn", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return video(tmp_path_factory.mktemp("clip") / "scenes.avi", scenes(FRAMES))


def frames(count: int):
    return [Frame(k, k / 10, pixels) for k, pixels in enumerate(scenes(count))]


def ticking(step: float):
    """A clock on which ``step`` seconds pass between any two looks."""
    now = [0.0]

    def clock() -> float:
        now[0] += step
        return now[0]

    return clock


@pytest.mark.parametrize("target", [None, "heart"])
def test_every_map_is_that_of_the_frame(explainer, clip, target):
    """Exactly, by an explainer of its own, of frames that OpenCV alone decoded."""
    alone = Explainer("zoo:shapes-cnn", threads=1)
    shown = list(Live(explainer, target).run(open_source(str(clip))))
    assert len(shown) == FRAMES
    for one, pixels in zip(shown, decoded(clip), strict=True):
        want = alone.explain(np.ascontiguousarray(pixels), target)
        assert np.array_equal(one.explanation.heatmap, want.heatmap)
        assert np.array_equal(one.explanation.cam, want.cam)
        assert np.array_equal(one.explanation.heatmap_on_image(), want.heatmap_on_image())
        assert (one.explanation.class_index, one.explanation.score) == (want.class_index, want.score)
        assert one.fresh
    answers = {s.explanation.label for s in shown}
    assert answers == {"heart"} if target else len(answers) > 1


def test_a_frame_is_drawn_under_its_map_below_a_bar(explainer):
    shown = list(Live(explainer, style={"colormap": "viridis", "blend": 0.3}, clock=ticking(0.1)).run(frames(9)))
    heights = {s.picture.shape[0] - 112 for s in shown}
    assert len(heights) == 1
    (bar,) = heights
    for s in shown:
        e = s.explanation
        want = overlay(s.frame.pixels, e.heatmap_on_image(), blend=0.3, colormap="viridis")
        assert np.array_equal(s.picture[bar:], want)
    assert [round(s.rate, 6) for s in shown] == [0, 0, *[10] * 7]
    assert shown[0].explanation.label == shown[1].explanation.label  # the same words at the left, no rate at the right
    assert not np.array_equal(shown[1].picture[:bar], shown[2].picture[:bar])
    assert shown[0].picture[:bar].max() > 150


def test_between_explained_frames_the_last_map_lies_over_the_new_frame(explainer):
    shown = list(Live(explainer, every=3, clock=ticking(1)).run(frames(8)))
    assert [s.fresh for s in shown] == [True, False, False, True, False, False, True, False]
    for k, s in enumerate(shown):
        e = shown[k - k % 3].explanation
        assert s.explanation is e
        want = overlay(scenes(8)[k], e.heatmap_on_image())
        assert np.array_equal(s.picture[-112:], want)
    assert [s.to_dict()["frame"] for s in shown] == list(range(8))


def test_another_target_is_explained_from_the_next_frame_on(explainer):
    live = Live(explainer, every=100)
    found = []
    for shown in live.run(frames(6)):
        found.append((shown.fresh, shown.target, shown.explanation.class_index))
        if shown.frame.index == 2:
            live.aim("5")
        if shown.frame.index == 3:
            with pytest.raises(UnknownNameError, match="unknown class 'dog'"):
                live.aim("dog")
            with pytest.raises(OptionError, match="class 7 does not exist"):
                live.aim("7")
    top = found[0][2]
    assert top != 5
    assert found == [(True, None, top), *[(False, None, top)] * 2, (True, "5", 5), *[(False, "5", 5)] * 2]


def test_a_frame_of_another_size_is_explained_anew(explainer):
    small = [Frame(0, 0, scenes(1)[0]), Frame(1, 0.1, scenes(1, 64)[0]), Frame(2, 0.2, scenes(2, 64)[1])]
    shown = list(Live(explainer, every=9).run(small))
    assert [s.fresh for s in shown] == [True, True, False]
    assert shown[1].picture.shape[1] == 64


def test_what_fails_in_one_frame_is_shown_and_the_next_one_is_tried(explainer, monkeypatch):
    live, explain = Live(explainer), explainer.explain

    def fails(pixels, target):
        if np.array_equal(pixels, scenes(3)[2]):
            raise ModelError("it gives NaN")
        return explain(pixels, target)

    monkeypatch.setattr(explainer, "explain", fails)
    shown = list(live.run(frames(5)))
    assert [s.trouble for s in shown] == ["", "", "it gives NaN", "", ""]
    assert (live.explained, live.failed) == (4, 1)
    assert shown[2].to_dict() == {"frame": 2, "time": 0.2, "error": "it gives NaN"}
    assert np.array_equal(shown[2].picture[-112:], scenes(3)[2])


def test_what_no_frame_can_do_ends_it_at_the_first(explainer, monkeypatch):
    def fails(pixels, target):
        raise ModelError("it always gives NaN")

    monkeypatch.setattr(explainer, "explain", fails)
    with pytest.raises(ModelError, match="always"):
        list(Live(explainer).run(frames(2)))
    with pytest.raises(UnknownNameError, match="unknown class 'dog'"):
        Live(explainer, "dog")


def test_a_target_that_looks_at_the_frame_may_miss_it_in_the_first():
    """A detector's box number 999: whether there is one depends on the picture."""
    live = Live(Explainer("zoo:shapes-detector", threads=1), "box:#99999")
    shown = list(live.run(frames(2)))
    assert all("box 99999 does not exist" in s.trouble for s in shown)
    assert live.failed == 2


def test_the_answer_as_json(tmp_path):
    proto = classifier()
    for tensor in proto.graph.initializer:
        if tensor.name in ("w2", "b2"):  # the target layer is 0 everywhere: the biases alone decide
            tensor.raw_data = bytes(len(tensor.raw_data))
    model, bias = write(tmp_path / "blank.onnx", proto), weights()["bd"]
    (shown,) = Live(Explainer(model, preprocess="unit")).run([Frame(7, 1 / 3, np.zeros((12, 12, 3), np.uint8))])
    assert json.loads(json.dumps(shown.to_dict())) == {
        "frame": 7, "time": 0.333333, "class_index": int(bias.argmax()), "label": None,
        "score": pytest.approx(float(bias.max())), "probability": None, "blank": True,
    }  # fmt: skip


@dataclass
class Tape:
    """A source of three frames of no duration, which counts how often it is begun."""

    live: bool = False
    count: int | None = 3
    decoded: int = 3
    begun: int = 0

    def __iter__(self):
        self.begun += 1
        return iter([Frame(k, 0.0, None) for k in range(3)])


@pytest.mark.parametrize(
    ("source", "how", "endless", "total", "begun"),
    [
        (Tape(), {}, False, 3, 1),
        (Tape(), {"most": 2}, False, 2, 1),
        (Tape(), {"most": 9}, False, 3, 1),
        (Tape(), {"watched": True, "recorded": True}, False, 3, 1),
        (Tape(), {"watched": True, "most": 8}, True, 8, 3),  # it goes round
        (Tape(decoded=0), {"watched": True}, True, None, 1),  # there is nothing to go round
        (Tape(live=True), {"watched": True}, True, None, 1),
        (Tape(live=True), {"most": 9}, True, 9, 1),
        (Tape(count=None), {"recorded": True}, False, None, 1),
    ],
)
def test_rounds(source, how, endless, total, begun):
    rounds = Rounds(source, **how)
    assert (rounds.endless, rounds.total) == (endless, total)
    assert [f.index for f in rounds] == [k % 3 for k in range(min(3 * begun, how.get("most", 99)))]
    assert source.begun == begun


def test_a_watched_file_keeps_its_pace():
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    times = []
    for frame in paced(frames(5), lambda: now[0], sleep):
        times.append(round(now[0] - 100, 6))
        now[0] += 0.25 if frame.index == 1 else 0.02  # one frame takes too long: the next ones catch up
    assert times == [0.0, 0.1, 0.35, 0.37, 0.4]
    assert slept == [0.08, 0.01]
