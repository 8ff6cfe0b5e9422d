"""The page of a blind comparison: what is in it, what is not, and how its votes are counted."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from builders import classifier, png, weights, write
from onnx import numpy_helper

from onnxcam.compare import compare
from onnxcam.compare.blind import tally, write_page
from onnxcam.compare.pictures import data_uri, side_by_side
from onnxcam.errors import OptionError

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
    assert found.p == pytest.approx(10 / 16)  # of 16 outcomes of 4 coins, 10 are 3 to 1 or more uneven


def test_votes_of_another_page_are_refused(tmp_path):
    key = tmp_path / "page.key.json"
    key.write_text(json.dumps({"page": "p", "a": "A", "b": "B", "a_is": ["left"]}))
    for name, page, answers, message in (
        ("1", "q", {"_0": "left"}, "votes of another page"),
        ("2", "p", {"_7": "left"}, "picture 7 is none"),
        ("3", "p", {"_0": "up"}, "vote 'up'"),
        ("4", "p", {"_x": "left"}, "holds no votes"),
    ):
        with pytest.raises(OptionError, match=message):
            tally([votes(tmp_path / f"{name}.json", page, **answers)], key)
    with pytest.raises(OptionError, match="has no 'a'"):
        tally([], votes(tmp_path / "5.json", "p"))
    (tmp_path / "6.json").write_text("no")
    with pytest.raises(OptionError, match=r"cannot read .*6\.json"):
        tally([tmp_path / "6.json"], key)


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
