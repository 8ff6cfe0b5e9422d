"""The report of a job: its figures against sums by hand, its pictures, its words, and what happens where some lack."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re

import numpy as np
import pytest
from builders import classifier, png, write
from jobs import RED, explained, failed, grid, job, plain
from pages import Page

import onnxcam.batch
import onnxcam.batch.report as report
from onnxcam.batch.report import write_report
from onnxcam.batch.report.page import visible
from onnxcam.batch.report.tally import Spread, gather
from onnxcam.errors import ImageError, OptionError, OutputError
from onnxcam.image import encode_image, read_image

pytestmark = pytest.mark.anyruntime

LEFT, RIGHT = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
LEFT[:, :8], RIGHT[:, 8:] = 255, 255
EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "a\u2028b\u2029c",
    "caf\udce9",
    "bell\x07 null\x00 escape\x1b[31m line\nbreak",
    "gpj.\u202exe",
    "&lt;b&gt; ]]> <!-- {data} %s",
]


def only(out, **changes) -> Page:
    """The one page of a job's report."""
    pages = write_report(out)
    assert [p.name for p in pages] == ["report.html"]
    return Page(pages[0])


def dog(index, **changes):
    return explained(
        index, **{"class_index": 1, "label": "dog", "top": [{"class_index": 1, "label": "dog"}], **changes}
    )


# ---- figures ----


def test_the_summary_counts_what_the_rows_say(tmp_path):
    rows = [
        explained(0, truth="cat", correct=True, score=2.0, probability=0.5),
        explained(1, truth="dog", correct=False, score=4.0, probability=0.75),
        explained(2, blank=True),
        dog(3, truth="dog", correct=True, score=-1.0, warnings=["dark", "small"]),
        dog(4, truth="emu", warnings=["dark"]),
        failed(5, "it is empty"),
        failed(6, "no such file", kind="OutputError"),
        failed(7, "it is empty, too"),
    ]
    page = only(job(tmp_path, rows))
    assert page.stats["Images"] == ["8"]
    assert page.stats["Explained"] == ["5", "62.5\xa0%"]
    assert page.stats["Errors"] == ["3", "37.5\xa0%"]
    assert page.stats["Flagged"] == ["3", "1 blank map"]
    assert page.stats["Accuracy"] == ["66.7\xa0%", "2 of 3 known"]
    assert page.stats["Rate"] == ["2.0/s", "4.0 s"]
    heads, first, second = page.tables["Classes"]
    assert dict(zip(heads, first, strict=True)) == {
        "Mean map": "", "Class": "cat", "Index": "0", "Images": "3", "Right": "1 of 2", "Accuracy": "50.0\xa0%",
        "Mean score": "2.5", "Mean probability": "0.5833", "Peak": "0.00", "Flagged": "1",
    }  # fmt: skip
    assert second[1:6] + second[6:7] == ["dog", "1", "2", "1 of 1", "100.0\xa0%", "0.25"]
    assert page.tables["True classes"][1:] == [
        ["dog", "2", "1", "50.0\xa0%", "cat 1"],
        ["cat", "1", "1", "100.0\xa0%", "–"],
        ["emu", "1", "no class of the model", "–", "–"],
    ]
    assert page.tables["Flags"][1:] == [["dark", "2"], ["blank map: nothing speaks for the score", "1"], ["small", "1"]]
    assert page.tables["Errors"][1:] == [
        ["5.png", "ImageError", "it is empty"],
        ["6.png", "OutputError", "no such file"],
        ["7.png", "ImageError", "it is empty, too"],
    ]
    assert "ImageError 2, OutputError 1" in page.words


def test_a_picture_of_several_targets_is_one_picture(tmp_path):
    """One that is wrong and explained four times, and one that is right; scores of two kinds have no mean."""
    of = {"source": "one.png", "truth": "dog", "correct": False}
    rows = [
        explained(0, **of, score=1.0),
        explained(1, **of, score=3.0, target="margin of cat over dog"),
        dog(2, **of, score=1.0, top=[{"class_index": 0, "label": "cat"}]),
        dog(3, **of, score=4.0, top=[{"class_index": 0, "label": "cat"}], warnings=["dark"]),
        failed(4, source="one.png"),
        dog(5, truth="dog", correct=True, score=1.0),
    ]
    page = only(job(tmp_path, rows))
    assert page.stats["Images"] == ["2", "6 targets"]
    assert page.stats["Explained"] == ["5", "83.3\xa0%"]
    assert page.stats["Accuracy"] == ["50.0\xa0%", "1 of 2 known"]
    heads, first, second = page.tables["Classes"]
    names = ("Class", "Images", "Right", "Accuracy", "Mean score")
    assert [first[heads.index(name)] for name in names] == ["dog", "2", "1 of 2", "50.0\xa0%", "2"]
    assert [second[heads.index(name)] for name in names] == ["cat", "1", "0 of 1", "0.0\xa0%", "–"]
    assert page.tables["True classes"][1:] == [["dog", "2", "1", "50.0\xa0%", "cat 1"]]
    assert page.tables["Flags"] == [["What", "Targets"], ["dark", "1"]]


@pytest.mark.parametrize(
    ("truth", "words"), [(None, "no true class is known"), ("set 1", "no true label is a class of the model")]
)
def test_without_known_classes_there_is_no_accuracy(tmp_path, truth, words):
    assert only(job(tmp_path, [explained(0, truth=truth)])).stats["Accuracy"] == ["–", words]


def test_the_settings_of_the_job_are_told(tmp_path):
    page = only(job(tmp_path, [explained(0), dog(1, target="logit of dog", layer="layer3")]))
    assert page.settings["Model"] == "/models/net.onnx"
    assert page.settings["SHA-256"] == "ab" * 32
    assert page.settings["Configuration"] == "cd" * 32
    assert page.settings["Method"] == "gradcam"
    assert page.settings["Layer"] == "layer4, layer3"
    assert page.settings["Target"] == "the predicted class"
    others = [explained(0), explained(1, target="logit of dog", class_index=1, label="dog")]  # a list's own targets
    assert only(job(tmp_path / "2", others)).settings["Target"] == "logit of cat, logit of dog"
    assert page.settings["Preprocessing"] == "name unit"
    assert page.settings["Provider"] == "CPUExecutionProvider"
    assert page.settings["Versions"] == "onnxcam 0.1.0"
    assert page.settings["Mean time"] == "read 1.0 ms, explain 2.0 ms, write 3.0 ms per image"
    assert page.settings["method"] == '"gradcam"'
    assert "net.onnx: explanation report" in page.words


@pytest.mark.parametrize(
    ("changes", "words", "kind"),
    [
        ({}, "complete", "good"),
        (
            {"complete": False, "counts": {"planned": 1200, "explained": 1, "errors": 0}},
            "incomplete: 1 of 1,200",
            "bad",
        ),
        ({"counts": {"planned": 1, "explained": 0, "errors": 1}}, "complete, with errors", "warn"),
    ],
)
def test_an_unfinished_job_says_so(tmp_path, changes, words, kind):
    page = only(job(tmp_path, [explained(0)], **changes))
    assert [t["class"] for t in page.of("p") if t.get("class", "").startswith("status")] == [f"status {kind}"]
    assert words in page.words


def test_mean_maps_are_the_means_of_the_rows_maps():
    """Against loops over single cells."""
    rng = np.random.default_rng(4)
    maps = rng.integers(0, 256, (7, 16, 16), dtype=np.uint8)
    rows = [explained(k, class_index=k % 2, label="ab"[k % 2], map=grid(m)) for k, m in enumerate(maps)]
    figures, _ = gather([*rows, explained(7, map="no map"), failed(8)], 100)
    for name, members in (((0, "a"), (0, 2, 4, 6)), ((1, "b"), (1, 3, 5))):
        mean = figures.classes[name].mean_map
        for y in range(16):
            for x in range(16):
                wanted = sum(int(maps[k][y, x]) / 255 for k in members) / len(members)
                assert mean[y, x] == pytest.approx(wanted, abs=1e-12)
    assert figures.whole.mean_map == pytest.approx(maps.astype(float).mean(axis=0) / 255)
    assert figures.whole.count == 8


def test_mean_maps_are_painted_up_to_their_peak(tmp_path):
    """Left 2/3, right 1/3 of the maximum: the colour map's end, and its middle. The other class: all the same."""
    rows = [
        explained(0, map=grid(LEFT)),
        explained(1, map=grid(RIGHT)),
        explained(2, map=grid(LEFT)),
        dog(3, map=grid(51)),
    ]
    page = only(job(tmp_path, rows))
    whole, cat, other = [picture for _, picture in page.images]
    assert whole.shape == (192, 192, 3)
    assert cat.shape == (96, 96, 3)
    # jet in 256 steps: 1.0 is a dark red, 0.5 a green between blue and red
    assert np.abs(cat[48, 20].astype(int) - (128, 0, 0)).max() <= 6
    assert np.abs(cat[48, 75].astype(int) - (130, 255, 126)).max() <= 6
    assert np.abs(other.astype(int) - (128, 0, 0)).max() <= 6
    assert [row[-2] for row in page.tables["Classes"][1:]] == ["0.67", "0.20"]
    # over all four: left (2 + 0.2) / 4, right (1 + 0.2) / 4
    assert "Mean map of 4 images; peak 0.55" in page.words


def test_blank_maps_stay_blank(tmp_path):
    page = only(job(tmp_path, [explained(0, blank=True)]))
    assert np.abs(page.images[0][1].astype(int) - (0, 0, 128)).max() <= 6  # jet's 0


def test_numbers_that_are_none_spoil_no_mean(tmp_path):
    page = only(job(tmp_path, [explained(0, score=float("nan")), explained(1, score=3.0, probability=None)]))
    assert page.tables["Classes"][1][4:6] == ["3", "0.5"]
    assert [f["score"] for f in page.facts] == [None, 3.0]


# ---- words ----


def test_foreign_words_stay_words(tmp_path):
    rows = []
    for k, evil in enumerate(EVIL):
        top = [{"class_index": k, "label": evil, "logit": 1.0}]
        words = {"truth": evil, "name": evil, "target": evil, "layer": evil, "method": evil, "warnings": [evil]}
        rows.append(explained(2 * k, class_index=k, label=evil, top=top, correct=False, files={evil: evil}, **words))
        rows.append(failed(2 * k + 1, evil, name=evil, kind=evil, source=evil))
    out = job(
        tmp_path, rows, model=f"/m/{EVIL[5]}", source=EVIL[1], configuration={EVIL[2]: EVIL[0], "preprocess": EVIL}
    )
    page = only(out)
    assert [t.get("type", "") for t in page.of("script")] == ["application/json", ""]
    assert all(set(t) <= {"class", "alt", "src"} and t["src"].startswith("data:image/jpeg;") for t in page.of("img"))
    assert not [name for _, told in page.tags for name in told if name.startswith("on") or name == "style"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202e\ud800-\udfff]", page.text)
    for k, evil in enumerate(EVIL):
        card, broken = page.cards[2 * k], page.cards[2 * k + 1]
        fact, error = page.facts[2 * k], page.facts[2 * k + 1]
        shown = visible(evil)
        assert card["words"][:2] == [shown, shown]
        assert shown in broken["words"]
        assert fact["name"] == fact["class"] == fact["truth"] == fact["warnings"][0] == fact["top"][0]["label"] == shown
        assert error["error"] == error["source"] == shown
        assert page.tables["True classes"][1 + sorted(EVIL).index(evil)][0] == shown


def test_what_cannot_be_seen_is_escaped():
    assert [visible(t) for t in EVIL[3:7]] == [
        "a\\u2028b\\u2029c",
        "caf\\udce9",
        "bell\\x07 null\\x00 escape\\x1b[31m line\\nbreak",
        "gpj.\\u202exe",
    ]
    assert visible("Zürich 東京 \U0001f469\u200d\U0001f52c") == "Zürich 東京 \U0001f469\u200d\U0001f52c"


def test_only_the_pages_own_style_and_script_may_run(tmp_path):
    page = only(job(tmp_path, [explained(0)]))
    policy = next(t["content"] for t in page.of("meta") if t.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, block in (("style-src", "style"), ("script-src", "script")):
        digest = base64.b64encode(hashlib.sha256(page.blocks[block].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"https?://|//|@import|url\(", html.unescape(page.blocks["style"]))
    assert not [t for name, t in page.tags if name in ("link", "iframe", "object", "base", "form")]


# ---- cards ----


def test_cards_say_what_the_rows_say(tmp_path):
    rows = [
        explained(0, truth="cat", correct=True, score=12.3456, probability=0.987),
        explained(1, truth="dog", correct=False, blank=True),
        explained(2, label="", class_index=17, probability=None, truth="emu", warnings=["dark"]),
        explained(3, label=None, class_index=18, probability=None),
        failed(4),
    ]
    page = only(job(tmp_path, rows))
    assert [c["kind"][1] for c in page.cards] == ["right", "wrong", "unknown", "unknown", "error"]
    assert [f["state"] for f in page.facts] == ["right", "wrong", "unknown", "unknown", "error"]
    assert [f["flagged"] for f in page.facts] == [False, True, True, False, False]
    assert page.cards[0]["words"] == ["photo 0.png", "cat", "12.35 · p 0.987", "✓ cat"]
    assert page.cards[1]["words"] == ["photo 1.png", "cat", "1.5 · p 0.5", "✗ dog", "blank map"]
    assert page.cards[2]["words"] == ["photo 2.png", "class 17", "1.5", "emu", "warning"]
    assert page.cards[3]["words"] == ["photo 3.png", "class 18", "1.5"]
    assert page.cards[4]["words"] == ["ImageError", "4.png", "it cannot be read"]
    assert not page.cards[4]["images"]
    assert page.facts[0]["sha256"] is None
    assert page.facts[0]["timings"] == rows[0]["timings"]


def test_a_card_holds_the_picture_and_the_jobs_overlay(tmp_path):
    """Of 600 x 300 pixels, at 112 x 224, right way up: the one black at the top, the other one white at the left."""
    picture, over = np.full((300, 600, 3), 90, np.uint8), np.full((300, 600, 3), 90, np.uint8)
    picture[:150], over[:, :300] = 0, 255
    (tmp_path / "a.png").write_bytes(encode_image(picture))
    out = job(
        tmp_path / "out", [explained(0, tmp_path / "a.png", size=[300, 600], files={"overlay": "sub/a.overlay.jpg"})]
    )
    (out / "sub").mkdir()
    titled = np.concatenate([np.full((40, 600, 3), 7, np.uint8), over])  # a head line above it
    (out / "sub/a.overlay.jpg").write_bytes(encode_image(titled, ".jpg"))
    found = only(out).cards[0]["images"]
    assert list(found) == ["picture", "overlay"]
    for name, wanted in (("picture", picture), ("overlay", over)):
        assert found[name].shape == (112, 224, 3)
        corners = found[name][[10, 10, 100, 100], [10, 210, 10, 210]].astype(int)
        assert np.abs(corners - wanted[[10, 10, 290, 290], [10, 590, 10, 590]]).max() <= 4


def test_small_pictures_are_not_enlarged(tmp_path):
    source = plain(tmp_path / "a.png", RED)
    found = only(job(tmp_path / "out", [explained(0, source)])).cards[0]["images"]
    assert found["picture"].shape == (30, 40, 3)
    assert np.abs(found["picture"].astype(int) - RED).max() <= 4


def test_without_an_overlay_file_the_rows_map_is_painted(tmp_path):
    """Half and half of picture and colour: jet's ends are (128, 0, 0) and (0, 0, 128)."""
    row = explained(0, plain(tmp_path / "a.png", (100, 100, 100)), map=grid(LEFT), files={"overlay": "gone.jpg"})
    found = only(job(tmp_path / "out", [row])).cards[0]["images"]["overlay"]
    assert np.abs(found[15, 5].astype(int) - (114, 50, 50)).max() <= 6
    assert np.abs(found[15, 35].astype(int) - (50, 50, 114)).max() <= 6


def test_the_jobs_colour_map_is_used(tmp_path):
    row = explained(0, map=grid(0))
    out = job(tmp_path, [row], configuration={"saving": {"colormap": "viridis"}})
    assert np.abs(only(out).cards[0]["images"]["overlay"].astype(int) - (68, 1, 84)).max() <= 6


@pytest.mark.parametrize("how", ["gone", "changed", "damaged"])
def test_a_picture_that_is_not_what_it_was_is_left_out(tmp_path, how):
    source = plain(tmp_path / "a.png")
    row = explained(0, source, size=[400, 800], map=grid(RIGHT))
    if how == "gone":
        source.unlink()
    elif how == "changed":
        plain(source, RED)
    else:
        source.write_bytes(b"no picture")
        row["sha256"] = hashlib.sha256(b"no picture").hexdigest()
    page = only(job(tmp_path / "out", [row]))
    assert list(page.cards[0]["images"]) == ["overlay"]
    assert page.cards[0]["images"]["overlay"].shape == (112, 224, 3)
    words = {"gone": "no such file", "changed": "has changed", "damaged": "cannot read"}
    assert words[how] in page.facts[0]["without"]


def test_addresses_that_do_not_answer_are_given_up(tmp_path, monkeypatch):
    asked = []

    def read(source: str) -> bytes:
        asked.append(source)
        if "down" in source:
            raise ImageError(f"cannot read {source}: no answer")
        return source_bytes

    source_bytes = plain(tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("onnxcam.batch.sources.read", read)
    monkeypatch.setattr(report, "cores", lambda: 1)
    near, far = str(tmp_path / "a.png"), "https://up.example/a.png"
    down = [f"https://down.example/{k}" for k in range(20)]
    order = [*down[:7], far, *down[:8], near, *down[8:], far]
    page = only(job(tmp_path / "out", (explained(k, s, sha256=None) for k, s in enumerate(order))))
    assert len(asked) == 7 + 1 + 8 + 1
    assert [k for k, card in enumerate(page.cards) if "picture" in card["images"]] == [7, 16]
    assert "no answer" in page.facts[15]["without"]
    assert "8 addresses in a row had failed" in page.facts[17]["without"]


def test_pictures_as_large_as_the_jobs_limit_are_shown(tmp_path):
    row = explained(0, plain(tmp_path / "a.png"))
    assert "picture" in only(job(tmp_path / "a", [row], configuration={"max_pixels": 1200})).cards[0]["images"]
    page = only(job(tmp_path / "b", [row], configuration={"max_pixels": 1199}))
    assert "more than the limit of 1,199" in page.facts[0]["without"]


def test_a_row_without_any_picture_has_its_card(tmp_path):
    page = only(job(tmp_path, [explained(0, map="?")]))
    assert page.cards[0]["words"][0] == "no picture"
    assert not page.images


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "sub/../../secret.png"])
def test_nothing_outside_of_the_job_is_shown(tmp_path, name):
    plain(tmp_path / "secret.png", RED)
    page = only(job(tmp_path / "out", [explained(0, files={"overlay": name}, map="?")]))
    assert page.cards[0]["words"][0] == "no picture"
    assert page.facts[0]["links"] == {}


def test_links_lead_to_files_of_any_name(tmp_path):
    names = {"overlay": "a b/c#1?.jpg", "json": "javascript:alert(1)", "raw": os.fsdecode(b"caf\xe9 %.npz")}
    page = only(job(tmp_path, [explained(0, files=names)]))
    assert page.facts[0]["links"] == {
        "overlay": "./a%20b/c%231%3F.jpg",
        "json": "./javascript%3Aalert%281%29",
        "raw": "./caf%E9%20%25.npz",
    }


# ---- pages ----


def test_past_a_thousand_images_there_are_pages(tmp_path):
    out = job(tmp_path, (failed(k) if k % 2 else explained(k, map="?") for k in range(1001)))
    first, second = map(Page, write_report(out))
    assert len(first.cards) == len(first.facts) == 1000
    assert [f["index"] for f in [*first.facts, *second.facts]] == list(range(1001))
    assert second.cards[0]["words"][1] == "photo 1000.png"
    assert first.stats["Images"] == ["1,001"]
    assert first.tables["Classes"][1][3] == "501"
    assert not second.stats
    for at, page in enumerate((first, second)):
        assert page.links == ["report.html", "report-2.html"] * 2
        assert [t["href"] for t in page.of("a") if "aria-current" in t] == [("report.html", "report-2.html")[at]] * 2
        assert page.blocks["style"] == first.blocks["style"]
    job(out, [explained(0)])
    (out / "report-21.html").write_text("somebody's own")
    assert write_report(out) == [out / "report.html"]
    assert sorted(p.name for p in out.glob("report*")) == ["report-21.html", "report.html"]


def test_of_very_many_the_notable_ones_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PER_PAGE", 3)
    monkeypatch.setattr(report, "MOST_PAGES", 2)
    notable = {5: failed(5), 11: explained(11, correct=False, map="?"), 17: explained(17, blank=True, map="?")}
    out = job(tmp_path, (notable.get(k, explained(k, map="?")) for k in range(30)))
    pages = [Page(p) for p in write_report(out)]
    assert [len(p.cards) for p in pages] == [3, 3]
    shown = [f["index"] for p in pages for f in p.facts]
    assert shown == sorted(shown)
    assert {5, 11, 17} <= set(shown)
    others = [k for k in shown if k not in notable]
    assert [k // 10 for k in others] == [0, 1, 2] or np.diff(others).min() >= 7
    words = "6 of 30 images are shown: 3 of the 3 that are errors, flagged or wrong, and 3 of the others"
    assert all(any(words in w for w in p.words) for p in pages)
    assert pages[0].stats["Images"] == ["30"]


def test_more_notable_ones_than_places_are_spread_over_the_job():
    _, shown = gather([*(explained(k) for k in range(50)), *(failed(k) for k in range(50, 150))], 10)
    assert shown.count == 10
    chosen = sorted(shown.indexes)
    assert chosen[0] == 50
    assert 150 - chosen[-1] <= 16
    assert set(np.diff(chosen)) <= {8, 16}  # of each fourth one that was kept, 10 of 25
    assert (shown.first, shown.of_first) == (10, 100)


@pytest.mark.parametrize("length", [0, 7, 200, 201, 1000, 12345])
def test_a_spread_is_even_and_bounded(length):
    spread, largest = Spread(100), 0
    for k in range(length):
        spread.add(k)
        largest = max(largest, len(spread._kept))
    taken = spread.take(100)
    assert largest <= 201
    assert len(taken) == min(length, 100)
    gaps = np.diff([*taken, length])
    if length:
        assert taken[0] == 0
        assert gaps.max() <= max(2 * length / 100, 1) + 1


# ---- where things lack ----


def test_a_job_of_errors_alone(tmp_path):
    page = only(job(tmp_path, [failed(0), failed(1)]))
    assert page.stats["Accuracy"] == ["–", "no true class is known"]
    assert [c["kind"] for c in page.cards] == [["card", "error"]] * 2
    assert "Classes" not in page.tables


def test_a_job_that_has_just_begun(tmp_path):
    out = job(tmp_path, [], complete=False, sessions=[])
    (out / "results.jsonl").unlink()
    page = only(out)
    assert page.stats["Images"] == ["0"]
    assert page.facts == []


@pytest.mark.parametrize("content", [None, "[]", "{", "\x00"])
def test_a_folder_that_holds_no_job(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(OptionError, match=r"run\.json.*Give the folder of a job"):
        write_report(tmp_path)


def test_a_report_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    out = job(tmp_path, [explained(0)])
    (out / "report.html").write_text("the old one")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        write_report(out)
    assert (out / "report.html").read_text() == "the old one"
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "results.jsonl", "run.json"]


# ---- a real job ----


def test_the_report_of_a_job_tells_its_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proto = classifier()
    proto.metadata_props.add(key="onnxcam/labels", value=json.dumps(["ant", EVIL[0], "cat", "dog"]))
    model = write(tmp_path / "m.onnx", proto)
    for k in range(5):
        png(tmp_path / "photos" / ("ant" if k < 3 else "cat") / f"{k}.png", seed=k)
    (tmp_path / "photos" / "dog").mkdir()
    (tmp_path / "photos" / "dog" / "5.png").write_bytes(b"no picture")
    onnxcam.batch.run(model, "photos", "out", image_format="png", workers=1, report=True).finish()
    out = tmp_path / "out"
    page = Page(out / "report.html")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(page.facts) == 6
    for row, fact, card in zip(rows, page.facts, page.cards, strict=True):
        assert [fact[k] for k in ("index", "name", "truth", "sha256")] == [
            row[k] for k in ("index", "name", "truth", "sha256")
        ]
        if "error" in row:
            assert row["error"] in card["words"]
            continue
        assert fact["class"] == row["label"]
        assert fact["score"] == row["score"]
        overlay = read_image(out / row["files"]["overlay"]).astype(int)
        assert np.abs(card["images"]["overlay"].astype(int).mean(axis=(0, 1)) - overlay.mean(axis=(0, 1))).max() < 2
        assert (out / fact["links"]["overlay"]).is_file()
    known = [r for r in rows if r.get("correct") is not None]
    assert page.stats["Accuracy"][1] == f"{sum(r['correct'] for r in known)} of {len(known)} known"
    before = write_report(out)[0].read_bytes()
    write_report(out)
    assert (out / "report.html").read_bytes() == before
