"""`onnxcam zoo`: list and pull, from a server on this machine."""

from __future__ import annotations

import json

import pytest
from files import BODY, REAL

from onnxcam import zoo

pytestmark = pytest.mark.anyruntime


def test_the_list_tells_every_model_and_where_it_is(run, host, zoo_cache):
    zoo.locate("real")
    done = run("zoo", "list")
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for entry in (*zoo.models().values(), *zoo.public().values()):
        assert entry.description.split("\n")[0] in rows[entry.name]
        assert entry.licence in rows[entry.name]
    assert " 367 kB " in rows["shapes-cnn"]
    assert " 112x112 " in rows["shapes-cnn"]
    assert " bundled " in rows["shapes-cnn"]
    assert " 1.0 MB " in rows["big"]
    assert " to download " in rows["big"]
    assert " cached " in rows["real"]
    assert run("zoo").out == done.out


@pytest.mark.parametrize("command", [("zoo", "--json"), ("zoo", "list", "--json")])
def test_the_list_as_json(run, host, zoo_cache, command):
    zoo.locate("real")
    (rows,) = run(*command).json
    told = {row["name"]: row for row in rows}
    assert list(told) == [*zoo.models(), "big", "real"]
    assert (told["big"]["where"], told["big"]["path"]) == ("to download", None)
    assert (told["real"]["where"], told["real"]["path"]) == ("cached", str(zoo_cache / "real.onnx"))
    assert (told["real"]["classes"], told["real"]["bytes"]) == (4, len(REAL))
    assert told["real"]["url"] == f"{host.url}/deep/real.onnx"
    assert (told["shapes-cnn"]["where"], told["shapes-cnn"]["url"]) == ("bundled", "")


def test_pull_prints_where_each_model_is(run, host, zoo_cache):
    done = run("zoo", "pull", "big", "zoo:real", "big")
    paths = [zoo_cache / "big.onnx", zoo_cache / "real.onnx", zoo_cache / "big.onnx"]
    assert (done.code, done.out.split()) == (0, [str(p) for p in paths])
    assert done.err.splitlines() == [
        f"onnxcam: downloading big, 1.0 MB, to {zoo_cache}",
        f"onnxcam: downloading real, 3 kB, to {zoo_cache}",
    ]
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == (BODY, REAL)


def test_pull_of_a_bundled_model_downloads_nothing(run, monkeypatch):
    monkeypatch.setenv("ONNXCAM_OFFLINE", "1")
    done = run("zoo", "pull", "shapes-cnn")
    assert (done.code, done.out, done.err) == (0, f"{zoo.locate('shapes-cnn')}\n", "")


def test_an_unknown_name_stops_before_the_first_download(fails, host):
    assert "unknown zoo model 'bug'; did you mean 'big'" in fails("zoo", "pull", "big", "bug")
    assert host.asked == []


def test_what_fails_is_told_and_the_exit_code_is_2(fails, host):
    host.status = 404
    assert "big: cannot download" in fails("zoo", "pull", "big")


def test_explain_downloads_on_first_use(run, host, tmp_path, picture):
    done = run("explain", "zoo:real", picture, "-o", tmp_path / "out", "--json", "--target", "dog")
    (told,) = done.json
    assert (done.code, told["label"]) == (0, "dog")
    assert "onnxcam: downloading real, 3 kB" in done.err
    assert json.dumps(told).count("the zoo's entry of real") >= 1
    assert host.asked == [("/deep/real.onnx", None)]
