"""Names of channels, and explanations in words: by hand on small models, and on the scenes whose concepts are known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recipes import recipe
from small import maps_and_head, saved

from benchmarks import concepts as bench
from onnxcam import Explainer
from onnxcam.concepts import Example, Named, Names, in_words, load_names, name_channels, naming, read_examples
from onnxcam.errors import ImageError, OptionError
from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime

# Three maps of 8 x 8: red, green, and red less green; two classes, the second the first's opposite.
KERNEL = np.asarray([[1, 0, 0], [0, 1, 0], [1, -1, 0], [0, 0, 0]], np.float32)[:, :, None, None]
HEAD = np.asarray([[4, -4], [-2, 2], [1, -1], [9, -9]], np.float32)


@pytest.fixture
def explainer(tmp_path) -> Explainer:
    path = saved(tmp_path / "m.onnx", maps_and_head(), w=KERNEL, head=HEAD, bias=np.zeros(2, np.float32))
    return Explainer(path, preprocess="unit", labels=["warm", "cold"], threads=1, target_layer="act")


def painted(red=(), green=(), level=255):
    """Black but for a red and a green rectangle, given as slices."""
    picture = np.zeros((8, 8, 3), np.uint8)
    for channel, place in ((0, red), (1, green)):
        if place:
            picture[(*place, channel)] = level
    return picture


LEFT, RIGHT = (slice(0, 8), slice(0, 4)), (slice(0, 8), slice(4, 8))
CORNER = (slice(0, 1), slice(0, 2))


# ---- names ----


def test_iou_over_all_pictures_by_hand(explainer):
    """Of 4 x 64 places 0.5 % is one: the level is the second largest activation, and one place exceeds it."""
    bright = painted(red=(slice(2, 3), slice(3, 4)))
    pictures = [bright, painted(red=LEFT, level=128), painted(green=RIGHT, level=128), painted()]
    one, rest = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    one[2, 3:5] = True  # twice the place that fires
    rest[6, 6] = True
    examples = [
        Example(p, masks={"dot": one, "other": rest} if k == 0 else {"dot": rest}) for k, p in enumerate(pictures)
    ]
    found = name_channels(explainer, examples, at_least=0.0)
    named = {n.channel: n for n in found.channels}
    # Channel 0 fires at (2, 3) of the first picture alone: one pixel shared with "dot", which has 2 + 3 others.
    assert (named[0].name, named[0].how, named[0].score) == ("dot", "iou", pytest.approx(1 / 5, abs=1e-4))
    assert named[0].level == pytest.approx(128 / 255)
    assert named[1].score == 0  # all its places tie: none exceeds the level
    assert (found.count, found.layer, found.concepts) == (4, "act", ("dot", "other"))
    assert found.model_sha256 == explainer.model.sha256
    assert [n.channel for n in name_channels(explainer, examples).channels] == [0, 2]  # 0.04 and more


def test_the_level_is_what_a_share_of_all_places_exceeds(explainer):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(50)]
    mask = np.ones((8, 8), bool)
    found = name_channels(explainer, [Example(p, masks={"all": mask}) for p in pictures], at_least=0.0, batch=7)
    reds = np.sort(np.stack(pictures)[..., 0].ravel() / 255)[::-1]
    assert found.channels[0].level == pytest.approx(reds[16], abs=1e-6)  # 0.5 % of 3200 are 16


def test_masks_are_seen_as_the_model_sees_the_picture(tmp_path):
    """A photo of twice the size: its mask shrinks with it, to whole places."""
    path = saved(tmp_path / "m.onnx", maps_and_head(), w=KERNEL, head=HEAD, bias=np.zeros(2, np.float32))
    explainer = Explainer(path, preprocess="unit,fit=stretch", threads=1, target_layer="act")
    small = painted(red=(slice(2, 3), slice(3, 4)))
    mask = np.zeros((16, 16), bool)
    mask[4:6, 6:8] = True
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    (found,) = [n for n in name_channels(explainer, [Example(large, masks={"dot": mask})]).channels if n.channel == 0]
    assert found.score == 1


def test_a_margin_is_no_part_of_a_concept(tmp_path):
    path = saved(tmp_path / "m.onnx", maps_and_head(), w=KERNEL, head=HEAD, bias=np.zeros(2, np.float32))
    explainer = Explainer(path, preprocess="unit,fit=letterbox", threads=1, target_layer="act")
    tall = painted(red=(slice(2, 3), slice(3, 4)), level=255)[:, 2:6]
    found = name_channels(explainer, [Example(tall, masks={"all": np.ones((8, 4), bool)})], at_least=0.001)
    fires = next(n for n in found.channels if n.channel == 2)  # red less green: the grey margin is dark to it
    assert fires.score == pytest.approx(1 / 32, abs=1e-4)


def test_folders_name_by_how_well_the_peak_tells_them_apart(explainer):
    reds = [painted(red=CORNER, level=v) for v in (200, 180, 160, 90, 150)]
    greens = [painted(green=CORNER, level=v) for v in (200, 180, 100, 160, 140)]
    greens[2] = painted(red=CORNER, green=RIGHT, level=100)  # redder than one of the red ones
    greens[4] = painted(red=LEFT, green=RIGHT, level=50)  # much of it red, but nowhere strongly
    examples = [Example(p, "red") for p in reds] + [Example(p, "green") for p in greens]
    found = {n.channel: n for n in name_channels(explainer, examples, at_least=0.0).channels}
    # Red ones beat all greens but for the fourth, which one green beats: 24 of 25 pairs.
    assert (found[0].name, found[0].how, found[0].score) == ("red", "auc", pytest.approx(24 / 25))
    assert (found[1].name, found[1].score) == ("green", 1)
    assert found[3].score == 0.5  # silent throughout: all ties
    assert [n.channel for n in name_channels(explainer, examples).channels] == [0, 1, 2]  # 0.9 and more


def test_names_that_chance_gives_are_counted_and_doubted(explainer, monkeypatch):
    """Every deal of 5 and 5 pictures, by hand: without ties a channel's AUC of either concept is 0.9 or more in 8."""
    levels = (10, 60, 110, 160, 210, 35, 85, 135, 185, 235)
    examples = [Example(painted(red=CORNER, level=v), "one" if k < 5 else "two") for k, v in enumerate(levels)]
    deals = list(itertools.combinations(range(10), 5))
    places = np.argsort(np.argsort(levels))
    wins = [sum(places[a] > places[b] for a in d for b in set(range(10)) - {*d}) for d in deals]
    share = np.mean([max(w, 25 - w) / 25 >= 0.9 for w in wins])
    assert share == 8 / 252
    monkeypatch.setattr(naming, "_SHUFFLES", 4000)
    found = name_channels(explainer, examples)
    assert found.channels == ()
    firing = 2  # channels that answer to red; the others are all ties
    assert found.by_chance == pytest.approx(firing * share, abs=firing * 4 * (share / 4000) ** 0.5)
    assert found.doubt == ""  # there is no name to doubt
    named = replace(found, channels=(Named(0, "one"),))
    assert named.doubt == replace(named, by_chance=None).doubt == ""
    assert replace(named, by_chance=0.3).doubt.startswith("1 channel has a name, and 0.3 would if")


def test_what_cannot_be_named_is_said(explainer):
    few = [Example(painted(red=CORNER), "red")] * 4 + [Example(painted(), "none")] * 5
    with pytest.raises(OptionError, match=r"'red' has 4: give two folders at least, with 5 pictures each"):
        name_channels(explainer, few)
    with pytest.raises(OptionError, match="there are 1 concepts"):
        name_channels(explainer, [Example(painted(), "one")] * 9)
    mixed = [Example(painted(), "one"), Example(painted(), masks={"two": np.ones((8, 8), bool)})]
    with pytest.raises(OptionError, match="by one kind"):
        name_channels(explainer, mixed)
    with pytest.raises(ImageError, match=r"of 'dot' is \(4, 4\), its picture \(8, 8\)"):
        name_channels(explainer, [Example(painted(), masks={"dot": np.ones((4, 4), bool)})])
    with pytest.raises(OptionError, match="no target layer"):
        name_channels(Explainer(explainer.model, method="saliency"), [*few, few[0]])


# ---- folders and files ----


def test_a_folder_of_pictures_and_masks(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        save_image(tmp_path / f"images/{name}.png", painted(red=LEFT))
    (tmp_path / "masks/wheel").mkdir(parents=True)
    save_image(tmp_path / "masks/wheel/a.png", painted(green=RIGHT, level=1))
    first, second = read_examples(tmp_path)
    np.testing.assert_array_equal(first.mask("wheel", (8, 8)), painted(green=RIGHT)[..., 1] > 0)
    assert second.masks == {}
    assert not second.mask("wheel", (8, 8)).any()
    save_image(tmp_path / "masks/wheel/c.png", painted())
    with pytest.raises(OptionError, match=r"masks/wheel/c.png is a mask of no picture"):
        read_examples(tmp_path)


def test_a_folder_per_concept(tmp_path):
    for name in ("wheel/1.png", "wheel/deep/2.png", "sky/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / name, painted())
    assert [(Path(e.image).name, e.concept) for e in read_examples(tmp_path)] == [
        ("1.png", "sky"), ("1.png", "wheel"), ("2.png", "wheel"),
    ]  # fmt: skip
    save_image(tmp_path / "loose.png", painted())
    with pytest.raises(OptionError, match=r"loose.png lies in no concept's folder"):
        read_examples(tmp_path)
    with pytest.raises(ImageError, match="no such file or folder"):
        read_examples(tmp_path / "nowhere")
    (tmp_path / "bare/masks").mkdir(parents=True)
    with pytest.raises(ImageError, match="no pictures in"):
        read_examples(tmp_path / "bare")


def test_names_are_kept_and_read(tmp_path):
    names = Names((Named(2, "wheel", 0.5, "iou", 1.25),), "act", 4, "abc", ("wheel", "sky"))
    assert load_names(names.save(tmp_path / "names.json")) == names
    (tmp_path / "own.json").write_text('{"12": "wheel", "40": "sky"}')
    (tmp_path / "own.csv").write_text("channel,name\n12,wheel\n40, sky\n")
    given = Names((Named(12, "wheel"), Named(40, "sky")))
    assert load_names(tmp_path / "own.json") == given == load_names(tmp_path / "own.csv")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"wheel": 12}', '{"channels": [{"name": "a"}]}', "{}", '{"-1": "sky"}', '{"1": "a", "01": "b"}',
     '{"1": ""}', '{"1": 7}', *(f'{{"layer": "", "count": 0, "model_sha256": "", "concepts": [], "channels": [{c}]}}'
     for c in ('{"channel": "5", "name": "x"}', '{"channel": 1.5, "name": "x"}', '{"channel": true, "name": "x"}',
               '{"channel": 1, "name": 7}', '{"channel": 1, "name": "x", "level": "2"}'))],
)  # fmt: skip
def test_files_that_hold_no_names_are_refused(text, tmp_path):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(OptionError, match=r"names\.json"):
        load_names(tmp_path / "names.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("12\n", "the line '12' has no name"),
        ("channel,name\n12,wheel\n13\n", "the line '13' has no name"),
        ("12,\n", "channel 12 with the name ''"),
        ("1.5,wheel\n", "invalid literal"),
        ("12,a\n12,b\n", "it names 2 channels"),
    ],
)
def test_tables_that_hold_no_names_are_refused(text, why, tmp_path):
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(OptionError, match=rf"names\.csv.*{why}"):
        load_names(tmp_path / "names.csv")


# ---- words ----

GIVEN = Names((Named(0, "red"), Named(1, "green"), Named(2, "fire"), Named(3, "ghost")))


def test_words_are_ranked_by_grad_cam_weights_of_channels_that_are_there(explainer):
    picture = painted(red=LEFT, green=RIGHT)
    found = in_words(explainer, picture, GIVEN)
    # d(logit)/d(A_k) is head / 64 at every place; the last channel weighs most, but is silent: it is no reason.
    assert [(w.name, w.weight) for w in found.positive] == [
        ("red", pytest.approx(4 / 64)),
        ("fire", pytest.approx(1 / 64)),
    ]
    assert [(w.name, w.weight) for w in found.negative] == [("green", pytest.approx(-2 / 64))]
    assert found.sentence == "said warm because of: red (+), fire (+), not: green (-)"
    assert (found.top, found.unnamed, found.doubt) == ((0, 2), 0, "")
    # Each half has 32 of 64 places at 1: the mean of a map is 1/2.
    assert [w.drop for w in (*found.positive, *found.negative)] == pytest.approx([2, 0.5, -1])
    assert found.drop == pytest.approx(2.5)
    np.testing.assert_array_equal(found.positive[0].seen, picture[..., 0] > 0)
    np.testing.assert_array_equal(found.negative[0].seen, picture[..., 1] > 0)


def test_the_other_class_turns_every_word_round(explainer):
    found = in_words(explainer, painted(red=LEFT, green=RIGHT), GIVEN, "cold")
    assert found.sentence == "cold, which it did not say because of: green (+), not: red (-), fire (-)"


def test_channels_of_one_name_are_one_word_on_the_side_of_their_sum(explainer):
    names = Names((Named(0, "colour"), Named(1, "colour"), Named(2, "fire", level=2.0)))
    found = in_words(explainer, painted(red=LEFT, green=RIGHT), names)
    (colour, fire) = found.positive
    assert (colour.name, colour.channels, colour.weight) == ("colour", (0, 1), pytest.approx(2 / 64))
    assert colour.drop == pytest.approx(1)
    assert (colour.fires, fire.fires) == (True, False)  # its level is 2, and it reaches 1
    assert fire.seen.any()
    assert found.negative == ()
    assert found.sentence == "said warm because of: colour (+), fire (+)"


def test_what_has_no_name_is_said(explainer):
    found = in_words(explainer, painted(red=LEFT, green=RIGHT), Names((Named(1, "green"),)))
    assert found.sentence == "said warm because of nothing that has a name, not: green (-)"
    assert found.doubt == "2 of the 2 channels that speak most for it have no name"
    assert (found.drop, found.positive) == (0, ())
    assert in_words(explainer, painted(red=LEFT), GIVEN, top=1).sentence == "said warm because of: red (+)"
    both = in_words(explainer, painted(red=LEFT, green=RIGHT), GIVEN, top=1)
    assert both.sentence == "said warm because of: red (+), not: green (-)"


def test_names_of_something_else_are_refused(explainer):
    picture = painted(red=LEFT)
    with pytest.raises(OptionError, match="another model"):
        in_words(explainer, picture, Names(GIVEN.channels, model_sha256="abc"))
    with pytest.raises(OptionError, match="target_layer='maps'"):
        in_words(explainer, picture, Names(GIVEN.channels, "maps"))
    with pytest.raises(OptionError, match=r"the layer has 4 channels.* 9"):
        in_words(explainer, picture, Names((Named(9, "x"),)))
    with pytest.raises(OptionError, match="Saliency"):
        in_words(Explainer(explainer.model, method="saliency"), picture, GIVEN)
    with pytest.raises(OptionError, match="top=0"):
        in_words(explainer, picture, GIVEN, top=0)


def test_evidence_is_bright_where_the_word_is_and_dim_elsewhere(explainer, tmp_path):
    picture = np.full((8, 8, 3), 100, np.uint8)
    picture[:, :4, 0] = 200
    found = in_words(explainer, picture, Names((Named(2, "fire"),)))
    files = found.save(tmp_path / "out", "x")
    panel, record = found.picture(), json.loads(files["record"].read_text())
    assert files["evidence"].read_bytes()[:4] == b"\x89PNG"
    tile = panel[-240::30, -240::30]  # the third, behind picture and overlay, 30 times as large
    np.testing.assert_array_equal(tile[:, :4], picture[:, :4])
    np.testing.assert_array_equal(tile[:, 4:], np.full((8, 4, 3), 30))
    assert (record["sentence"], record["evidence"]) == (found.sentence, "x.words.png")
    assert record["positive"][0] == {"name": "fire", "weight": pytest.approx(1 / 64), "channels": [2], "fires": True,
                                     "drop": pytest.approx(100 / 255 / 2, rel=1e-4)}  # fmt: skip
    tensor_words = found.__class__(
        **{**vars(found), "explanation": explainer.explain_tensor(np.zeros((1, 3, 8, 8), np.float32))[0]}
    )
    with pytest.raises(OptionError, match="explain a picture"):
        tensor_words.picture()


# ---- on scenes whose concepts are known ----


def test_words_name_the_object_and_its_channels_carry_the_score():
    """A smaller run of `benchmarks.concepts`: named on 40 scenes, judged on 10 others."""
    explainer = Explainer("zoo:shapes-net-torchscript", threads=1)
    names = name_channels(explainer, [bench.example(3_200_000 + k) for k in range(40)])
    assert len(names.channels) >= 0.8 * names.count
    assert {n.name for n in names.channels} <= set(recipe("scenes").CLASSES)
    found = bench.measure(explainer, names, 10)
    assert found.silenced >= 0.9
    assert found.first >= 0.8
    assert found.channels >= 0.7
    assert found.chance < 0.2
