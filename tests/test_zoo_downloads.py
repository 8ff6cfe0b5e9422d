"""Public models: pulled from a server on this machine, good and bad; the tables."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from builders import png
from files import BODY, REAL, file_server

from onnxcam import Explainer, Preprocess, download, load_model, zoo
from onnxcam.conventions import known
from onnxcam.errors import ModelError, OutputError, UnknownNameError
from onnxcam.image import InputSpec

pytestmark = pytest.mark.anyruntime


def left(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir())


def refused(name: str = "big") -> str:
    with pytest.raises(ModelError) as caught:
        zoo.locate(f"zoo:{name}")
    assert str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


# ---------------------------------------------------------------- good


def test_a_model_is_fetched_once(host, zoo_cache, capsys):
    assert zoo.model("big").place == "to download"
    path = zoo.locate("zoo:big")
    assert path == zoo_cache / "big.onnx"
    assert path.read_bytes() == BODY
    assert "downloading big, 1.0 MB" in capsys.readouterr().err
    assert zoo.locate("big") == zoo.verify("big") == path
    assert (host.asked, left(zoo_cache)) == ([("/deep/big.onnx", None)], ["big.onnx"])
    assert zoo.model("big").place == "cached"
    assert capsys.readouterr() == ("", "")


def test_a_damaged_file_is_fetched_again(host, zoo_cache):
    zoo.locate("big").write_bytes(BODY[:-1] + b"x")
    with pytest.raises(ModelError, match=r"damaged .*onnxcam zoo pull big"):
        zoo.verify("big")
    assert zoo.locate("big").read_bytes() == BODY
    assert len(host.asked) == 2


def test_redirects_to_another_host_are_followed_with_the_range(host, zoo_cache, monkeypatch):
    host.breaks_after = 300_000
    refused()
    with file_server() as front:
        front.redirect = host.url.replace("127.0.0.1", "localhost")
        monkeypatch.setenv("ONNXCAM_ZOO_URL", f"{front.url}/")
        assert zoo.locate("big").read_bytes() == BODY
        assert front.asked == host.asked[1:]
    assert front.asked[0][1].startswith("bytes=")


def test_the_bar_counts_from_where_it_broke_off(host, zoo_cache, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    host.breaks_after = 500_000
    refused()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    zoo.locate("big")
    assert "big" in shown.getvalue()
    assert "1.0/1.0 MB" in shown.getvalue()


def test_a_pulled_model_explains_with_the_tables_preprocessing_and_labels(host, tmp_path):
    explainer = Explainer("zoo:real", threads=1)
    assert explainer.preprocess == Preprocess.from_dict({"name": "unit", "color": "BGR"})
    assert "the zoo's entry of real" in explainer.preprocess_reason
    picture = png(tmp_path / "picture.png")
    found = explainer.explain(picture, "cat")
    assert (found.class_index, found.label) == (2, "cat")
    np.testing.assert_array_equal(found.cam, Explainer("zoo:real", preprocess="unit,color=BGR").explain(picture, 2).cam)
    assert host.asked == [("/deep/real.onnx", None)]


def test_a_copy_is_recognised_and_a_sidecar_goes_before(host, tmp_path):
    copy = tmp_path / "mine.onnx"
    shutil.copy(zoo.locate("real"), copy)
    assert known(load_model(copy)).labels == ("ant", "bee", "cat", "dog")
    copy.with_suffix(".toml").write_text('labels = ["a", "b", "c", "d"]\npreprocess = "tf"\n')
    told = known(load_model(copy))
    assert (told.labels, told.preprocess) == (("a", "b", "c", "d"), Preprocess.parse("tf"))
    assert zoo.recognise("0" * 64) is None
    assert zoo.recognise("") is None


# ---------------------------------------------------------------- broken off


def test_what_broke_off_is_continued(host, zoo_cache):
    host.breaks_after = 600_000
    told = refused()
    part = (zoo_cache / "big.onnx.part").read_bytes()
    assert BODY.startswith(part)
    assert len(part) > 500_000
    assert "broke off; " in told
    assert "the next pull continues there" in told
    assert zoo.locate("big").read_bytes() == BODY
    assert host.asked[1] == ("/deep/big.onnx", f"bytes={len(part)}-")
    assert host.sent <= len(BODY) + 2 * (1 << 16)
    assert left(zoo_cache) == ["big.onnx"]


def test_a_killed_process_leaves_what_it_had(host, zoo_cache):
    host.pace = 0.05
    process = child()
    part = zoo_cache / "big.onnx.part"
    wait(lambda: part.exists() and part.stat().st_size > 100_000)
    process.kill()
    process.wait()
    have, host.pace = part.stat().st_size, 0
    assert zoo.locate("big").read_bytes() == BODY
    assert host.asked[-1] == ("/deep/big.onnx", f"bytes={have}-")
    assert left(zoo_cache) == ["big.onnx"]


def test_a_body_that_ends_early_without_a_stated_length_is_continued(host, zoo_cache):
    host.length, host.breaks_after = None, 400_000
    assert "stopped early" in refused()
    assert zoo.locate("big").read_bytes() == BODY
    assert host.asked[1][1] == "bytes=400000-"


@pytest.mark.parametrize(("ranges", "asked"), [(False, 1), ("refuse", 2), ("wrong", 2)])
def test_without_ranges_it_starts_again(host, zoo_cache, ranges, asked):
    host.breaks_after, host.ranges = 600_000, ranges
    refused()
    assert zoo.locate("big").read_bytes() == BODY
    assert [r for _, r in host.asked[1:]] == [host.asked[1][1], None][:asked]


@pytest.mark.parametrize("rest", [b"junk" * 1000, b"x" * len(BODY), b"x" * (len(BODY) + 1)])
def test_a_foreign_part_costs_another_start_and_no_more(host, zoo_cache, rest):
    zoo_cache.mkdir()
    (zoo_cache / "big.onnx.part").write_bytes(rest)
    assert zoo.locate("big").read_bytes() == BODY
    assert host.asked[-1] == ("/deep/big.onnx", None)
    assert left(zoo_cache) == ["big.onnx"]


def test_a_complete_part_needs_no_server(host, zoo_cache):
    zoo_cache.mkdir()
    (zoo_cache / "big.onnx.part").write_bytes(BODY)
    assert zoo.locate("big").read_bytes() == BODY
    assert host.asked == []


# ---------------------------------------------------------------- refused


def test_another_file_of_that_size_is_refused_and_not_kept(host, zoo_cache):
    host.files["/deep/big.onnx"] = BODY[:-1] + b"x"
    told = refused()
    assert f"its SHA-256 is not {hashlib.sha256(BODY).hexdigest()[:12]}" in told
    assert "Nothing was kept" in told
    assert left(zoo_cache) == []


def test_another_length_is_refused_before_it_is_read(host, zoo_cache):
    host.files["/deep/big.onnx"] = b"version https://git-lfs.github.com/spec/v1"
    assert "42 bytes are offered instead of 1000000" in refused()
    host.files["/deep/big.onnx"] = BODY * 5
    assert "5000000 bytes are offered" in refused()
    assert left(zoo_cache) == []


def test_a_body_without_end_is_cut(host, zoo_cache):
    host.files["/deep/big.onnx"], host.length = BODY * 20, None
    assert "SHA-256" in refused()
    assert host.sent < 20 * len(BODY)
    assert left(zoo_cache) == []


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "answers 404 Not Found. Check ONNXCAM_ZOO_URL"), (503, "answers 503 Service Unavailable. Try later")],
)
def test_the_server_says_no(host, zoo_cache, status, told):
    host.status = status
    assert told in (found := refused())
    assert f"{host.url}/deep/big.onnx" in found
    assert f"put the file at {zoo_cache / 'big.onnx'} yourself" in found
    assert left(zoo_cache) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://nowhere.invalid", "the name nowhere.invalid is not found: no network"),
        ("nowhere", "that is no address of the web; ONNXCAM_ZOO_URL begins with http"),
        ("http://nowhere.invalid", "Check the network and ONNXCAM_ZOO_URL, and pull again"),
        ("file:///srv/zoo", "that is no address of the web"),
        ("file:///srv/zoo", "http:// or https://. Correct or unset it, or put the file at"),
        ("http://a..b", "that is no address of the web"),
    ],
)
def test_no_such_place(zoo_cache, monkeypatch, url, told):
    monkeypatch.setenv("ONNXCAM_ZOO_URL", url)
    assert told in refused()
    assert left(zoo_cache) == []


def test_nobody_listens(zoo_cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ONNXCAM_ZOO_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "no connection to 127.0.0.1:" in refused()


def test_a_server_that_falls_silent(host, zoo_cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1.0, 0.2))
    host.pace = 0.6
    assert "127.0.0.1" in (told := refused())
    assert "does not answer in time" in told


def test_offline_takes_what_is_there_and_asks_for_nothing(host, zoo_cache, monkeypatch):
    zoo.locate("real")
    monkeypatch.setenv("ONNXCAM_OFFLINE", "1")
    assert zoo.locate("real").read_bytes() == REAL
    assert "ONNXCAM_OFFLINE is set, and it is not in the cache. Unset it, or put the file at" in refused()
    (zoo_cache / "big.onnx").write_bytes(b"x")
    other = hashlib.sha256(b"x").hexdigest()[:12]
    assert f"the file that lies in the cache is another one, or damaged (SHA-256 {other}..., not" in refused()
    assert len(host.asked) == 1
    monkeypatch.setenv("ONNXCAM_OFFLINE", "0")
    assert zoo.locate("big").read_bytes() == BODY


def test_a_cache_that_cannot_be_written_to(host, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ONNXCAM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OutputError, match=r"big: the cache .*file/below' cannot be written to: Not a directory\. Set"):
        zoo.locate("big")
    assert host.asked == []


def test_a_read_only_cache_serves_what_it_has(host, zoo_cache):
    zoo.locate("real")
    zoo_cache.chmod(0o500)
    if os.access(zoo_cache, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        assert zoo.locate("real").read_bytes() == REAL
        with pytest.raises(OutputError, match="Permission denied"):
            zoo.locate("big")
    finally:
        zoo_cache.chmod(0o700)


def test_a_full_disk_is_the_caches_fault(host, zoo_cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_save", full)
    with pytest.raises(OutputError, match=r"No space left on device\. Set ONNXCAM_CACHE"):
        zoo.locate("big")


# ---------------------------------------------------------------- two at once


def child() -> subprocess.Popen[str]:
    """Another process that pulls ``big``."""
    script = "import sys, pathlib; from onnxcam import zoo; zoo.root = lambda: pathlib.Path(sys.argv[1])"
    script += "; print(zoo.locate('big'))"
    command = [sys.executable, "-c", script, str(zoo.root())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait(until) -> None:
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_two_processes_download_it_once(host, zoo_cache):
    host.pace = 0.1
    one = child()
    wait(lambda: host.asked)
    two = child()
    told = [process.communicate() for process in (one, two)]
    assert [out for out, _ in told] == [f"{zoo_cache / 'big.onnx'}\n"] * 2
    assert "being downloaded by another process" in told[1][1]
    assert host.asked == [("/deep/big.onnx", None)]
    assert left(zoo_cache) == ["big.onnx"]


# ---------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("", r"entry 'big' has no sha256\. "),
        ('sha256 = ""', r"entry 'big' has sha256 = '', which is no SHA-256"),
        ('sha256 = "d41d8cd98f00b204e9800998ecf8427e"', "which is no SHA-256"),
        (f'sha256 = "{"0" * 64}"\nmd5 = "x"', "has the unknown key 'md5'"),
    ],
)
def test_an_entry_without_a_hash_is_refused_when_the_table_is_read(zoo_cache, broken, told):
    table = zoo.root() / "public.toml"
    whole = table.read_text()
    line = next(part for part in whole.splitlines() if part.startswith("sha256"))
    table.write_text(whole.replace(line, broken, 1))
    with pytest.raises(ModelError, match=told):
        zoo.locate("big")


def test_a_table_that_is_no_toml(zoo_cache):
    (zoo.root() / "public.toml").write_text("[[family")
    with pytest.raises(ModelError, match=r"public\.toml is not understood: .*reinstall onnxcam"):
        zoo.locate("big")


def test_unknown_names_are_not_asked_for(host):
    with pytest.raises(UnknownNameError, match=r"unknown zoo model 'bigg'; did you mean 'big'\?.*onnxcam zoo list"):
        zoo.locate("zoo:bigg")
    assert host.asked == []


def test_public_names_and_hashes_are_distinct():
    found = [*zoo.models().values(), *zoo.public().values()]
    assert len({m.name for m in found}) == len({m.sha256 for m in found}) == len(found)
    for one in zoo.public().values():
        assert one.url == f"https://github.com/onnx/models/raw/main/{one.source}"
        assert one.source.endswith(f"/model/{one.name}.onnx")


def test_imagenet_has_a_thousand_names():
    (labels,) = {m.labels for m in zoo.public().values()}
    assert len(labels) == len(set(labels)) == 1000
    assert all(name == name.strip().lower() for name in labels)
    known = {0: "tench", 281: "tabby", 340: "zebra", 134: "crane (bird)", 517: "crane (machine)", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


RED = np.full((256, 256, 3), (255, 0, 0), np.uint8)


@pytest.mark.parametrize(
    ("name", "layout", "pixel"),
    [
        ("resnet50-v1-12", "NCHW", [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]),
        ("efficientnet-lite4-11-qdq", "NHWC", [1.0, -127 / 128, -127 / 128]),
        ("googlenet-12-int8", "NCHW", [-103.939, -116.779, 255 - 123.68]),
        ("squeezenet1.0-13-qdq", "NCHW", [-103.939, -116.779, 255 - 123.68]),
        ("densenet-12", "NCHW", [-103.94 * 0.017, -116.78 * 0.017, (255 - 123.68) * 0.017]),
    ],
)
def test_a_red_picture_in_the_models_own_levels(name, layout, pixel):
    """By hand, from the formula that each model's origin states."""
    settings = Preprocess.from_dict(zoo.model(name).preprocess)
    x, _ = settings.apply(RED, InputSpec(layout, 3, 224, 224))
    got = x[0, :, 100, 100] if layout == "NCHW" else x[0, 100, 100]
    np.testing.assert_allclose(got, pixel, rtol=1e-5)
    assert settings.fit == "crop"
    assert settings.crop_ratio == 0.875
