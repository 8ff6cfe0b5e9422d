"""Audits from end to end, on a model whose maps and answers can be worked out by hand."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from small import maps_and_head, saved

from onnxcam.audit import audit
from onnxcam.errors import ImageError, OptionError, UnknownNameError
from onnxcam.evaluate.run import Evaluation
from onnxcam.image import read_image, save_image

pytestmark = pytest.mark.anyruntime

# Two maps of 8 x 8, red and green. Warm: 4 red - 2 green, in means; cold: the opposite.
META = {"onnxcam/labels": '["warm", "cold"]', "onnxcam/preprocess": '{"name": "unit"}'}
RED, GREEN = 0, 1


@pytest.fixture
def model(tmp_path):
    kernel = np.eye(2, 3, dtype=np.float32)[:, :, None, None]
    head = np.array([[4, -4], [-2, 2]], np.float32)
    return saved(tmp_path / "m.onnx", maps_and_head(), META, w=kernel, head=head, bias=np.zeros(2, np.float32))


def scene(sky, land=(0, 0), level=200):
    """The upper half in one colour; of the lower one a pixel row in another one."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :, sky] = level
    picture[4 : 4 + land[1], :, land[0]] = level
    return picture


def write(folder, **groups):
    """Pictures by group; a mask of the sky for each."""
    for group, pictures in groups.items():
        for kind in ("data", "masks"):
            (folder / kind / group).mkdir(parents=True, exist_ok=True)
        for k, picture in enumerate(pictures):
            save_image(folder / "data" / group / f"{k}.png", picture)
            mask = np.zeros((8, 8, 3), np.uint8)
            mask[:4] = 255
            save_image(folder / "masks" / group / f"{k}.sky.png", mask)


@pytest.fixture
def scenes(tmp_path):
    """Red skies over two rows of red land are warm, green skies over nothing cold."""
    write(tmp_path, warm=[scene(RED, (RED, 2))] * 6, cold=[scene(GREEN)] * 5)
    return tmp_path


def test_rows_and_shares_by_hand(model, scenes):
    """Of a warm picture 32 of 48 equally red pixels are sky: 2/3 on half of the area. A cold one has all there."""
    found = audit(model, scenes / "data", masks=scenes / "masks", swaps="none", workers=1)
    assert (found.regions, found.accuracy) == ("masks", 1.0)
    assert found.counts == {"pictures": 11, "errors": 0, "blank": 0, "unknown": 0}
    rows = {(r["truth"], r["answer"]): r["regions"] for r in found.rows}
    assert rows["warm", "warm"]["sky"]["energy"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["cold", "cold"]["rest"] == {"area": 0.5, "energy": 0.0, "against": None, "centre": 0.5}
    sky = found.share("sky")
    assert (sky.energy, sky.area, sky.ratio.value) == pytest.approx((9 / 11, 0.5, 18 / 11), abs=1e-5)
    assert found.share("sky", "warm").ratio.value == pytest.approx(4 / 3, abs=1e-5)
    assert not found.swaps
    (group,) = [c for c in found.contrasts if c.region == "sky"]
    assert (group.a, group.b, group.estimate.value) == ("cold", "warm", pytest.approx(1 / 3, abs=1e-5))


def test_evidence_against_the_answer(model, tmp_path):
    """Green land speaks against warm: the counterfactual map has all of it there, Grad-CAM's all in the sky."""
    write(tmp_path, warm=[scene(RED, (GREEN, 2))])
    found = audit(model, tmp_path / "data", masks=tmp_path / "masks", workers=1)
    assert {n: (r["energy"], r["against"]) for n, r in found.rows[0]["regions"].items()} == {
        "sky": (1.0, 0.0), "rest": (0.0, 1.0),
    }  # fmt: skip
    assert "all answers are the same" in found.notes[-1]
    assert found.verdict[-1].startswith("That rests on 1 picture: too few")


def test_swaps_of_each_kind(model, tmp_path):
    """Warm land of three rows outweighs a green sky, 4 * 3 / 8 - 2 * 4 / 8 = 0.5; over none, a red sky makes cold warm.

    So pictures of the cold group flip and no others; blurred, or in the mean colour, a sky keeps its hue.
    """
    write(tmp_path, warm=[scene(RED, (RED, 3))] * 3, cold=[scene(GREEN)] * 2)
    data, masks = tmp_path / "data", tmp_path / "masks"
    other = audit(model, data, masks=masks, workers=1)
    assert {a: e.value for a, e in other.swap("sky").by_answer.items()} == {"cold": 1.0, "warm": 0.0}
    assert other.swap("sky").control is not None
    assert other.swap("sky").control.value == 0.0
    assert other.swap("sky").flips.value == pytest.approx(2 / 5)
    for kind in ("blur", "mean"):
        found = audit(model, data, masks=masks, swaps=kind, workers=1).swap("sky")
        assert (found.by, found.flips.value, found.control) == (kind, 0.0, None)


def test_counterparts_are_taken_as_they_are(model, scenes, tmp_path):
    """One picture of the warm group has a counterpart, which is cold."""
    (tmp_path / "green" / "warm").mkdir(parents=True)
    save_image(tmp_path / "green" / "warm" / "1.png", scene(GREEN))
    green = {"sky": tmp_path / "green"}
    found = audit(model, scenes / "data", masks=scenes / "masks", counterparts=green, swaps="none", workers=1)
    assert [(s.region, s.by, s.flips.value, s.flips.count) for s in found.swaps] == [("sky", "counterpart", 1.0, 1)]
    with pytest.raises(OptionError, match=r"counterparts of 'sky' in '.*masks'"):
        audit(model, scenes / "data", counterparts={"sky": scenes / "masks"}, workers=1)


def test_what_cannot_be_measured_is_counted_and_told(model, scenes):
    """A damaged picture, a black one (no evidence), and one without a mask."""
    (scenes / "data" / "warm" / "9.png").write_bytes(b"no picture")
    save_image(scenes / "data" / "warm" / "7.png", np.zeros((8, 8, 3), np.uint8))
    save_image(scenes / "data" / "warm" / "8.png", scene(RED))
    save_image(scenes / "masks" / "warm" / "7.sky.png", np.full((8, 8, 3), 255, np.uint8))
    found = audit(model, scenes / "data", masks=scenes / "masks", workers=2)
    assert found.counts == {"pictures": 14, "errors": 1, "blank": 1, "unknown": 1}
    assert found.share("sky").ratio.count == 11
    assert [r["index"] for r in found.rows] == list(range(14))


def test_wrong_annotations_are_an_error_of_their_picture(model, tmp_path):
    for k in range(2):
        save_image(tmp_path / f"{k}.png", scene(RED))
    (tmp_path / "t.csv").write_text("path,truth,box\n0.png,warm,0 0 8 2\n1.png,warm,0 0 8 2\n1.png,warm,8 2 0 0\n")
    found = audit(model, tmp_path / "t.csv", regions="detector", workers=1)
    assert found.counts["errors"] == 1
    assert "line 4: the box '8 2 0 0'" in found.rows[1]["error"]


def test_none_can_be_read(model, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="none of the 1 pictures could be explained"):
        audit(model, tmp_path / "data", workers=1)


def test_the_truth_may_be_explained(model, tmp_path):
    """A picture of the cold group that is called warm: its land is what speaks for cold."""
    write(tmp_path, cold=[scene(RED, (GREEN, 2))])
    said, true = (
        audit(model, tmp_path / "data", masks=tmp_path / "masks", explain=e, workers=1) for e in ("predicted", "truth")
    )
    assert (said.rows[0]["answer"], said.share("sky").energy, said.accuracy) == ("warm", 1.0, 0.0)
    assert (true.rows[0]["answer"], true.share("sky").energy, true.accuracy) == ("cold", 0.0, 0.0)


def colours(path, head, labels):
    """Logits are weights of the means of red, green and blue."""
    body = maps_and_head(classes=len(labels))
    kernel, bias = np.eye(3, dtype=np.float32)[:, :, None, None], np.zeros(len(labels), np.float32)
    meta = {**META, "onnxcam/labels": json.dumps(labels)}
    return saved(path, body, meta, w=kernel, head=np.array(head, np.float32), bias=bias)


def test_a_true_class_far_down_is_explained_as_evaluate_does(tmp_path):
    """Of the eight classes 6 and 7 come last, 7 before 6; both are cold to the data."""
    head = [[8, 7, 6, 5, 4, 3, 1, 2], [0] * 8, [0] * 8]
    model = colours(tmp_path / "m.onnx", head, [f"c{k}" for k in range(8)])
    write(tmp_path, warm=[scene(RED)], cold=[scene(RED)])
    (tmp_path / "c.csv").write_text("warm,0-5\ncold,6-7\n")
    given = {"classes": tmp_path / "c.csv", "explain": "truth", "workers": 1}
    found = audit(model, tmp_path / "data", "thirds", swaps="none", **given)
    with Evaluation(model, tmp_path / "data", ["gradcam"], ["complexity"], **given) as job:
        other = {rows[0]["source"]: rows[0]["explained"] for rows in job}
    told = {r["truth"]: (r["explained"], r["answer"], r["predicted"], r["said"], r["correct"]) for r in found.rows}
    assert told == {"warm": (0, "c0", 0, "c0", True), "cold": (7, "c7", 0, "c0", False)}
    assert {r["source"]: r["explained"] for r in found.rows} == other


def test_another_class_of_the_same_kind_is_no_flip(tmp_path):
    """Red and blue are dogs: a red sky in place of a blue one changes nothing, a green one does."""
    model = colours(tmp_path / "m.onnx", np.eye(3), ["red", "green", "blue"])
    (tmp_path / "c.csv").write_text("dog,red,blue\ncat,green\n")
    write(tmp_path, dog=[scene(RED), scene(2)])
    given = {"masks": tmp_path / "masks", "classes": tmp_path / "c.csv", "workers": 1}
    alone = audit(model, tmp_path / "data", **given)
    assert not alone.swaps
    assert "all answers are the same" in alone.notes[-1]
    folder = tmp_path / "changed" / "dog"
    folder.mkdir(parents=True)
    for k, sky in enumerate((2, GREEN)):  # of the red picture, and of the blue one
        save_image(folder / f"{k}.png", scene(sky))
    found = audit(model, tmp_path / "data", counterparts={"sky": tmp_path / "changed"}, **given)
    swaps = [(r["said"], r["swaps"]["sky"]["answer"], r["swaps"]["sky"]["flipped"]) for r in found.rows]
    assert swaps == [("red", "blue", False), ("blue", "green", True)]
    write(tmp_path, cat=[scene(GREEN)])
    mixed = audit(model, tmp_path / "data", **given)
    assert [(r["said"], r["swaps"]["sky"]["answer"]) for r in mixed.rows if r["truth"] == "dog"] == [
        ("red", "green"), ("blue", "green"),
    ]  # fmt: skip


def test_flips_are_counted_by_what_was_said_whatever_is_explained(model, tmp_path):
    """A red sky that the data calls cold: the model says warm, and that is what green turns over."""
    write(tmp_path, cold=[scene(RED), scene(GREEN)])
    data, masks = tmp_path / "data", tmp_path / "masks"
    found = audit(model, data, masks=masks, explain="truth", workers=1)
    assert [(r["answer"], r["said"]) for r in found.rows] == [("cold", "warm"), ("cold", "cold")]
    assert set(found.swap("sky").by_answer) == {"cold", "warm"}


def test_regions_are_chosen_by_what_is_given(model, tmp_path):
    """Thirds where nothing else is known; the boxes of a table where there are any."""
    write(tmp_path, warm=[scene(RED)])
    assert audit(model, tmp_path / "data", workers=1).regions == "thirds"
    (tmp_path / "boxes.csv").write_text("path,class,box\ndata/warm/0.png,warm,0 0 8 2\n")
    found = audit(model, tmp_path / "boxes.csv", workers=1)
    assert (found.regions, found.share("object").energy, found.share("object").area) == ("detector", 0.5, 0.25)
    assert found.share("object").ratio.value == pytest.approx(2.0)


def test_no_known_region_at_all_is_told(model, tmp_path):
    """A mask of black alone tells nothing."""
    write(tmp_path, warm=[scene(RED)])
    (tmp_path / "masks" / "regions.json").write_text('{"9": "sky"}')
    (tmp_path / "masks" / "warm" / "0.sky.png").unlink()
    save_image(tmp_path / "data" / "warm" / "1.png", scene(RED))
    save_image(tmp_path / "masks" / "warm" / "1.png", np.zeros((8, 8, 3), np.uint8))
    found = audit(model, tmp_path / "data", masks=tmp_path / "masks", workers=1)
    assert found.counts["unknown"] == 2
    assert found.verdict == ("No map shows evidence in a known region: there is nothing to say.",)
    assert any("no picture has a known region" in note for note in found.notes)
    found.save(tmp_path / "out")


def test_choices_that_do_not_exist(model, scenes):
    for wrong in ({"regions": "halves"}, {"swaps": "noise"}, {"explain": "nothing"}):
        with pytest.raises(UnknownNameError):
            audit(model, scenes / "data", **wrong)
    with pytest.raises(OptionError, match="limit=0"):
        audit(model, scenes / "data", limit=0)
    assert audit(model, scenes / "data", limit=2, workers=1).counts["pictures"] == 2


class Texts(HTMLParser):
    """What a page says, and its pictures."""

    def __init__(self, page):
        super().__init__()
        self.said, self.pictures, self.rows = [], [], 0
        self.feed(page)

    def handle_data(self, data):
        self.said.append(data)

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.pictures += [dict(attrs)["alt"]] if tag == "img" else []


def test_what_is_saved(model, scenes, tmp_path):
    found = audit(model, scenes / "data", masks=scenes / "masks", workers=1)
    report = found.save(tmp_path / "out")
    told = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert told["verdict"] == list(found.verdict)
    assert told["shares"][0]["ratio"]["value"] == found.shares[0].ratio.value
    assert [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()] == list(found.rows)
    page = Texts(report.read_text())
    assert all(text in page.said for text in found.verdict)
    assert page.rows == 4 + len(found.shares) + len(found.swaps) + len(found.contrasts) + len(found.rows)
    assert {"why cold", "why warm now", "sky replaced", "evidence against", "cold (5)", "warm (6)"} <= set(
        page.pictures
    )
    assert "://" not in report.read_text()


def test_what_something_else_has_written_is_not_replaced(model, scenes, tmp_path):
    found = audit(model, scenes / "data", masks=scenes / "masks", swaps="none", workers=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.jsonl").write_text("of an evaluation")
    with pytest.raises(OptionError, match="of no audit: choose another folder"):
        found.save(out)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("results.jsonl", "of an evaluation")]
    again = tmp_path / "again"
    assert found.save(again).read_bytes() == found.save(again).read_bytes()


def test_the_mean_map_lies_where_the_evidence_does(model, scenes, tmp_path):
    """Cold: the green half is red in the overlay (evidence everywhere there), the black half blue (none)."""
    found = audit(model, scenes / "data", masks=scenes / "masks", swaps="none", workers=1)
    cold = found.means["cold (5)"].astype(int)
    assert (cold[:3, :, 0] > cold[:3, :, 2]).all()
    assert (cold[5:, :, 2] > cold[5:, :, 0]).all()
    found.save(tmp_path / "out")
    assert read_image(tmp_path / "out" / "mean.png").shape[1] == 2 * 224 + 4


def test_names_cannot_break_the_page(model, tmp_path):
    write(tmp_path, **{"<b>&": [scene(RED)]})
    report = audit(model, tmp_path / "data", masks=tmp_path / "masks", workers=1).save(tmp_path / "out")
    assert "<b>" not in report.read_text()
