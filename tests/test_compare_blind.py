"""The page of a blind comparison: what is in it, what is not, and how its votes are counted."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import cv2
import numpy as np
import pytest
from builders import classifier, png, weights, write
from onnx import numpy_helper

from onnxcam.compare import compare
from onnxcam.compare.blind import tally, write_page
from onnxcam.compare.pictures import data_uri, side_by_side
from onnxcam.errors import OptionError
from onnxcam.image import encode_image

pytestmark = pytest.mark.anyruntime
EVIL = "</script><script>alert(1)</script>&<b>"


@pytest.fixture
def duel(tmp_path):
    """Two models that predict the same everywhere, for other reasons; the class's name is an attack."""
    w = weights()
    paths = []
    for name, scale in (("alpha", 1.0), ("omega", 0.2)):
        proto = classifier()
        for tensor in proto.graph.initializer:
            if tensor.name == "wd":
                head = w["wd"] * np.array([scale, *[1] * 7])[:, None]
                tensor.CopyFrom(numpy_helper.from_array(head.astype(np.float32), "wd"))
            if tensor.name == "bd":
                tensor.CopyFrom(numpy_helper.from_array(np.array([0, 9, 0, 0], np.float32), "bd"))
        proto.metadata_props.add(key="onnxcam/labels", value=json.dumps(["a", EVIL, "c", "d"]))
        paths.append(write(tmp_path / f"{name}.onnx", proto))
    photos = [png(tmp_path / "photos" / f"{k}.png", seed=k) for k in range(8)]
    return compare(*paths, photos)


def held(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_the_page_shows_both_without_saying_which_is_which(duel, tmp_path):
    page, key, count = write_page(duel, tmp_path / "page.html")
    text, answers = page.read_text(), json.loads(key.read_text())
    assert key == tmp_path / "page.key.json"
    items = held(text)["items"]
    shown = [p for p in duel.pairs if not p.blank]
    assert len(items) == len(answers["a_is"]) == count == len(shown) > 3
    assert sorted(answers["sources"]) == sorted(p.source for p in shown)
    for item, source, side in zip(items, answers["sources"], answers["a_is"], strict=True):
        a, b = duel.explanations(next(p for p in shown if p.source == source))
        other = {"left": "right", "right": "left"}[side]
        assert (item[side], item[other]) == (data_uri(a.overlay()), data_uri(b.overlay()))
        assert item[side] != item[other]
        assert item["answer"] == EVIL
        assert set(item) == {"answer", "picture", "left", "right"}
    assert set(answers["a_is"]) == {"left", "right"}
    for secret in ("alpha", "omega", ".onnx", "a_is", str(tmp_path)):
        assert secret not in text


def test_nothing_escapes_and_nothing_is_fetched(duel, tmp_path):
    text = write_page(duel, tmp_path / "page.html")[0].read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert EVIL not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(http|//)""", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src &#x27;none&#x27;; img-src data:;")
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inner
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{tag}-src &#x27;sha256-{digest}&#x27;" in policy[1]


def test_the_same_comparison_makes_the_same_page(duel, tmp_path):
    first, second = (write_page(duel, tmp_path / f"{k}.html") for k in "ab")
    assert [f.read_bytes() for f in first[:2]] == [f.read_bytes() for f in second[:2]]


def test_without_common_answers_there_is_no_page(tmp_path, duel):
    path = write(tmp_path / "other.onnx", classifier())
    pairs = [p for p in compare(duel.a["model"], path, tmp_path / "photos", labels=list("abcd")).pairs if p.top_b != 1]
    found = compare(duel.a["model"], path, [p.source for p in pairs], labels=list("abcd"))
    with pytest.raises(OptionError, match="nothing to vote on"):
        write_page(found, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def votes(path, page: str, **answers: str):
    path.write_text(json.dumps({"version": 1, "page": page, "votes": {k[1:]: v for k, v in answers.items()}}))
    return path


def test_votes_are_counted_by_the_key(tmp_path):
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left", "right", "left", "left"]}))
    first = votes(tmp_path / "1.json", "p", _0="left", _1="right", _2="right", _3="neither")
    second = votes(tmp_path / "2.json", "p", _0="left")
    found = tally([first, second], key)
    assert (found.model_a, found.model_b, found.a, found.b, found.undecided) == ("A", "B", 3, 1, 1)
    assert (found.pictures_a, found.pictures_b) == (2, 1)
    assert found.p == 1  # of 3 coins, every outcome is as uneven as 2 to 1
    assert tally([first], key).p == 1


def test_voters_of_the_same_pictures_are_no_more_evidence_than_one(tmp_path):
    """Sides are drawn once per picture: what a picture does to all of its voters is one draw, not five."""
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left", "right", "right", "left"]}))
    all_left = {f"_{k}": "left" for k in range(4)}  # where a hand rests: half of them are A
    for_a = {"_0": "left", "_1": "right", "_2": "right", "_3": "left"}
    alike = [votes(tmp_path / f"{k}.json", "p", **for_a) for k in range(5)]
    assert [(t.a, t.pictures_a, t.p) for t in (tally(alike[:1], key), tally(alike, key))] == [
        (4, 4, 2 / 16),
        (20, 4, 2 / 16),
    ]
    split = [votes(tmp_path / f"s{k}.json", "p", **answers) for k, answers in enumerate([for_a, for_a, all_left])]
    found = tally(split, key)  # 1 and 2: two votes against one; B has 2 votes, and no picture
    assert (found.a, found.b, found.pictures_a, found.pictures_b) == (10, 2, 4, 0)
    even = tally([split[0], split[2]], key)  # 1 and 2 are a draw
    assert (even.a, even.b, even.pictures_a, even.pictures_b, even.p) == (6, 2, 2, 0, 0.5)


@pytest.mark.parametrize("sides", [3, None, ["left", 1], ["up"], [["left"]]])
def test_a_key_without_sides_is_told(tmp_path, sides):
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": sides}))
    with pytest.raises(OptionError, match=r"key\.json is not of a blind comparison: its 'a_is' is"):
        tally([votes(tmp_path / "1.json", "p", _0="left")], key)


def test_votes_of_another_page_are_refused(tmp_path):
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left"]}))
    for name, page, answers, message in (
        ("1", "q", {"_0": "left"}, "votes of another page"),
        ("2", "p", {"_7": "left"}, "picture 7 is none"),
        ("3", "p", {"_0": "up"}, "vote 'up'"),
        ("4", "p", {"_x": "left"}, "vote 'left' on picture x is none"),
        ("5", "p", {"_0": ["left"]}, r"vote \['left'\]"),
        ("6", "p", {}, r"no vote in .*6\.json: answer on the page"),
    ):
        with pytest.raises(OptionError, match=message):
            tally([votes(tmp_path / f"{name}.json", page, **answers)], key)
    with pytest.raises(OptionError, match="has no 'a'"):
        tally([], votes(tmp_path / "5.json", "p"))


def test_files_that_are_no_votes_are_told_apart(tmp_path):
    key, file = tmp_path / "page.key.json", tmp_path / "votes.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left"]}))
    for text, message in (
        ("no", r"cannot read .*votes\.json: it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "it holds no object"),
        ('{"page": "p", "votes": ["left"]}', r"its 'votes' is \['left'\]"),
        ('{"page": "p", "version": 9, "votes": {"0": "left"}}', "its version is 9, and 1 is known"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=message):
            tally([file], key)
    with pytest.raises(OptionError, match=r"nowhere\.json: No such file or directory; give"):
        tally([tmp_path / "nowhere.json"], key)


def test_nobody_votes_twice(tmp_path):
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left"]}))
    first, second = (votes(tmp_path / f"{k}.json", "p", _0="left") for k in "12")
    assert tally([first, second], key).a == 2  # two files without a voter are two people's
    with pytest.raises(OptionError, match=r"1\.json and .*1\.json hold the votes of the same voter"):
        tally([first, tmp_path / "." / "1.json"], key)
    for path, name in ((first, "7"), (second, "7")):
        path.write_text(json.dumps({**json.loads(path.read_text()), "voter": name}))
    with pytest.raises(OptionError, match="the same voter"):
        tally([first, second], key)


def test_a_page_of_photos_is_smaller_than_with_png():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :400]
    scene = 128 + 60 * np.sin(x / 40) + 50 * np.cos(y / 25) + rng.normal(0, 4, y.shape)  # smooth, with a camera's noise
    photo = np.repeat(np.clip(scene, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    kind, _, text = data_uri(photo).partition(";base64,")
    assert kind == "data:image/jpeg"
    assert len(base64.b64decode(text)) < 0.6 * len(encode_image(photo))
    seen = as_image_of(base64.b64decode(text)).astype(int)
    assert np.abs(seen - photo).mean() < 2


def as_image_of(data: bytes):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_panels_put_the_models_side_by_side(duel):
    pair = next(p for p in duel.pairs if not p.blank)
    a, b = duel.explanations(pair)
    sheet = side_by_side(a, b)
    height = sheet.shape[0]
    width = (sheet.shape[1] - 3 * 4) // 4
    tiles = [sheet[:, k * (width + 4) : k * (width + 4) + width] for k in range(4)]
    grown = [np.repeat(np.repeat(e.overlay(), 11, 0), 11, 1) for e in (a, b)]  # 20 x 16 pixels, to 224 high
    for found, want in zip(tiles[1:3], grown, strict=True):
        body = found[height - 224 :].astype(int)
        centre = np.abs(body[112, width // 2] - want[110, want.shape[1] // 2].astype(int)).max()
        assert centre <= 1
    assert np.array_equal(side_by_side(a, a)[height - 224 :, -width:].max(axis=2) < 130, np.ones((224, width), bool))
