"""``onnxcam evaluate``: what is printed, kept and told, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import png

from onnxcam.errors import OptionError
from onnxcam.evaluate.metrics import METRICS

pytestmark = pytest.mark.anyruntime
FEW = ("--preprocess", "unit", "--workers", "1", "--methods", "gradcam,layercam", "--metrics", "energy,average_drop")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("onnxcam.evaluate.table.SAMPLES", 100)


@pytest.fixture
def data(tmp_path) -> Path:
    lines = ["path,truth,box"]
    for k in range(4):
        png(tmp_path / "data" / f"{k}.png", k)
        lines.append(f"{k}.png,{k % 3},3 3 12 14")
    (tmp_path / "data" / "t.csv").write_text("\n".join(lines))
    return tmp_path / "data" / "t.csv"


def test_the_table_shows_methods_above_baselines(run, model, data):
    done = run("evaluate", model, data, *FEW)
    assert (done.code, done.err) == (0, "")
    lines = [line.strip() for line in done.out.splitlines() if line.strip()]
    assert lines[0].split() == ["method", "energy", "^", "average_drop", "v"]
    assert [line.split()[0] for line in lines[2:6]] == ["gradcam", "layercam", "random", "centre"]
    asked = run("evaluate", model, data, *FEW, "--json").json[0]["table"]
    for name, line in zip(("gradcam", "layercam", "random", "centre"), lines[2:6], strict=True):
        cells = [asked[name][m] for m in ("energy", "average_drop")]
        told = [f"{c['value']:.3f}{'*' * bool(c.get('beats'))} ({c['low']:.3f} to {c['high']:.3f})" for c in cells]
        assert " ".join(line.split()[1:]) == " ".join(told)
    assert lines[6].startswith("4 samples in 4 pictures, 0 failed; the model is right on ")
    assert lines[-1].startswith("some numbers rest on 4 pictures: below 20,")


def test_a_folder_holds_all_and_is_gone_on_with(run, fails, model, data, tmp_path):
    out = tmp_path / "out"
    done = run("evaluate", model, data, *FEW, "-o", out, "--json")
    assert (done.code, done.err) == (0, f"onnxcam: wrote {out / 'report.html'}\n")
    assert json.loads((out / "evaluation.json").read_text()) == done.json[0]
    rows = (out / "results.jsonl").read_bytes()
    assert rows.count(b"\n") == 4 * 4
    assert "go on with resume (--resume)" in fails("evaluate", model, data, *FEW, "-o", out)
    (out / "results.jsonl").write_bytes(rows[:-20])
    again = run("evaluate", model, data, *FEW, "-o", out, "--resume", "--json")
    assert "goes on: 3 of 4 steps are done" in again.err
    assert (again.json, (out / "results.jsonl").read_bytes()) == (done.json, rows)


def test_failures_are_told_and_counted(run, model, data):
    (data.parent / "2.png").write_bytes(b"")
    done = run("evaluate", model, data, *FEW)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "2.png': cannot read" in done.err
    assert "4 samples in 4 pictures, 1 failed" in done.out
    for k in (0, 1, 3):
        (data.parent / f"{k}.png").write_bytes(b"")
    assert run("evaluate", model, data, *FEW).code == 2


def test_a_check_that_fails_makes_the_exit_code_1(run, model, data, monkeypatch):
    def refuse(*_, **__):
        raise OptionError("it takes integers")

    monkeypatch.setattr("onnxcam.evaluate.sanity.input_shift", refuse)
    done = run("evaluate", model, data, *FEW[:-1], "energy,input_shift", "-o", data.parent / "out")
    assert (done.code, done.err.count("it takes integers")) == (1, 2)  # of both methods
    assert "4 samples in 4 pictures, 0 failed, 2 checks failed; the model" in done.out
    page = (data.parent / "out" / "report.html").read_text()
    assert "<dt>Failed checks</dt><dd>2</dd>" in page


def test_progress_comes_in_lines(run, model, data, monkeypatch):
    monkeypatch.setattr("onnxcam.cli.progress._BETWEEN", 0)
    told = run("evaluate", model, data, *FEW).err.splitlines()
    assert [line.partition(",")[0] for line in told] == [f"onnxcam: {k} of 4" for k in (1, 2, 3, 4)]


def test_classes_that_the_model_lacks_are_told(run, fails, model, data):
    data.write_text(data.read_text() + "\n0.png,unicorn,1 1 2 2")
    assert (
        "1 of 5 samples are left out, of classes that the model does not have: unicorn"
        in run("evaluate", model, data, *FEW).err
    )
    data.write_text("path,truth,box\n0.png,unicorn,1 1 2 2")
    assert "none of the data's classes (unicorn)" in fails("evaluate", model, data, *FEW)


def test_settings_go_to_their_method(run, fails, model, data):
    asked = ("--preprocess", "unit", "--methods", "rise", "--metrics", "energy", "--json")
    done = run("evaluate", model, data, *asked, "--set", "rise.samples=7", "--set", "rise.cells=3").json[0]
    assert done["configuration"]["methods"]["rise"]["options"] == {"samples": 7, "cells": 3}
    assert "METHOD.NAME=VALUE" in fails("evaluate", model, data, "--set", "samples=7")


def test_what_cannot_start_says_why(fails, model, data):
    assert "evaluate takes a model and data" in fails("evaluate", model)
    assert "did you mean 'energy'" in fails("evaluate", model, data, "--metrics", "enery")
    assert "no such file" in fails("evaluate", model, data.parent / "none.csv").lower()
    assert "seed=-1: give a whole number" in fails("evaluate", model, data, "--seed", "-1")
    assert "batch=0: give a whole number" in fails("evaluate", model, data, "--batch", "0")


def test_the_metrics_are_listed(run):
    done = run("evaluate", "--metrics", "list")
    assert done.code == 0
    assert all(f" {name} " in done.out for name in METRICS)
    told = run("evaluate", "--metrics", "list", "--json")
    assert {m["name"]: (m["higher"], m["needs"]) for m in json.loads(told.out)} == {
        m.name: (m.higher, m.needs) for m in METRICS.values()
    }
