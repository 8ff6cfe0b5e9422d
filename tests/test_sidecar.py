"""MODEL.toml: what is written is read back, what people write is understood, and what is wrong is told."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import classifier, write

from onnxcam import Explainer, zoo
from onnxcam.cli import main
from onnxcam.errors import ModelError, OptionError, OutputError
from onnxcam.image import PRESETS, Preprocess
from onnxcam.model import load_model
from onnxcam.sidecar import read_sidecar, sidecar_path, write_sidecar

pytestmark = pytest.mark.anyruntime

NASTY = (
    'say "cat"', "back\\slash", "two\nlines", "tab\there", "C:\\new\\table", "naïve 猫 😀", "#no comment", "]", "'", "",
    "  spaces  ", "\x7f\x00\x1b", "\\u0041", '"""', "x = 1", "carriage\r\nreturn", "\ufeffmark", "\u2028",
)  # fmt: skip


@pytest.fixture
def model(tmp_path) -> Any:
    return load_model(write(tmp_path / "net.v2.onnx", classifier()))


def say(model: Any, text: str) -> Path:
    path = sidecar_path(model.path)
    path.write_text(text, encoding="utf-8")
    return path


def test_its_place_is_the_models_with_another_ending(tmp_path):
    assert sidecar_path(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.toml"
    assert sidecar_path("a/b.ONNX") == Path("a/b.toml")


@pytest.mark.parametrize(
    "preprocess",
    [
        *PRESETS.values(),
        Preprocess.parse("caffe,fit=letterbox,fill=7,align=topleft,size=224x192,antialias=false,crop_ratio=0.5"),
        Preprocess('an "odd"\nname', scale=1e-7, mean=(1e-20, -2.5, 3), std=(0.1, 1e6, 3), interpolation="nearest"),
        None,
    ],
)
@pytest.mark.parametrize("labels", [NASTY, ("a", "b"), None])
def test_what_is_written_is_read_back(model, preprocess, labels):
    path = write_sidecar(sidecar_path(model.path), sha256=model.sha256, preprocess=preprocess, labels=labels)
    assert path.name == "net.v2.toml"
    found = read_sidecar(model)
    assert found is not None
    assert (found.path, found.preprocess, found.labels) == (path, preprocess, labels)
    assert [p.name for p in sorted(path.parent.iterdir())] == ["net.v2.onnx", "net.v2.toml"]


def test_what_nobody_knows_is_written_as_a_comment_to_be_filled_in(model):
    path = write_sidecar(sidecar_path(model.path), sha256=model.sha256)
    text = path.read_text()
    assert '\n# [preprocess]\n# name = "imagenet"' in text
    table = text.partition("# [preprocess]")[2]
    path.write_text(text.replace(table, table.replace("\n# ", "\n")).replace("# [preprocess]", "[preprocess]"))
    found = read_sidecar(model)
    assert found is not None
    assert found.preprocess == Preprocess.parse("imagenet")


def test_a_lone_surrogate_does_not_spoil_the_file(model):
    write_sidecar(sidecar_path(model.path), labels=["\ud800", "b"])
    found = read_sidecar(model)
    assert found is not None
    assert found.labels == ("?", "b")


@pytest.mark.parametrize(
    ("text", "preprocess", "labels"),
    [
        ("", None, None),
        ("# nothing\n", None, None),
        ('preprocess = "caffe,mean=104/117/123"', Preprocess.parse("caffe,mean=104/117/123"), None),
        ('[preprocess]\nname = "caffe"\nfit = "stretch"', Preprocess.parse("caffe,fit=stretch"), None),
        (
            '[preprocess]\nname = "raw"\nscale = "1/255"\nsize = [10, 12]',
            Preprocess.parse("raw,scale=1/255,size=10x12"),
            None,
        ),
        ("[preprocess]\nscale = 2\nmean = 3\nstd = 4", Preprocess("own", scale=2, mean=(3.0,), std=(4.0,)), None),
        ('labels = ["a", "b"]', None, ("a", "b")),
        ('labels = "names.txt"', None, ("cat", "dog")),
        ('labels = "below/../names.txt"', None, ("cat", "dog")),
        ('labels = "below/more.txt"', None, ("emu",)),
        ('\ufefflabels = ["a"]\r\n', None, ("a",)),
    ],
)
def test_what_people_write(model, text, preprocess, labels):
    (model.path.parent / "names.txt").write_text("cat\ndog\n")
    (model.path.parent / "below").mkdir()
    (model.path.parent / "below" / "more.txt").write_text("emu")
    say(model, text)
    found = read_sidecar(model)
    assert found is not None
    assert (found.preprocess, found.labels) == (preprocess, labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("labels = [", "cannot read the sidecar"),
        ("[preprocess\n", "cannot read the sidecar"),
        ('label = ["a"]', "unknown key 'label'; a sidecar holds model_sha256, labels, preprocess"),
        ("[preprocessing]\n", "unknown key 'preprocessing'"),
        ('title = "mine"\npreprocess = "caffe"', "unknown key 'title'"),
        ("preprocess = 3", "preprocess is 3"),
        ("preprocess = [1]", r"preprocess is \[1\]"),
        ('preprocess = "imagnet"', "did you mean 'imagenet'"),
        ('[preprocess]\ncolour = "RGB"', "did you mean 'color'"),
        ('[preprocess]\ncolor = "RBG"', "unknown color 'RBG'"),
        ("[preprocess]\nstd = 0", "std=0"),
        ("[preprocess]\nmean = [1, 2]", r"mean=\[1, 2\]"),
        ("[preprocess]\nmean = {r = 1}", "mean="),
        ("[preprocess]\nscale = nan", "scale=nan"),
        ("[preprocess]\nsize = [0, 4]", r"size=\[0, 4\]"),
        ("[preprocess]\nsize = 1979-05-27", "size="),
        ("[preprocess]\nscale = 0", "scale=0: it must be a number other than 0"),
        ("[preprocess]\nscale = true", "scale=True"),
        ("[preprocess]\nname = 7", "name=7: it must be a text"),
        ('[preprocess]\ncolor = "BGR"', "preprocess has no name, and scale and mean and std not given"),
        ('[preprocess]\nname = "imagnet"', "'imagnet' is no preset"),
        ("[preprocess]", "what becomes of grey levels is open"),
        ("labels = []", r"labels is '\[\]'; write a list of names"),
        ('labels = "../names.txt"', "'../names.txt', outside the sidecar's folder"),
        ('labels = "/etc/hostname"', "outside the sidecar's folder"),
        ('labels = "a\\u0000b"', "cannot read the label file"),
        ("labels = 5", "labels is '5'"),
        ('labels = ["a", 5]', "labels is"),
        ('labels = "none.txt"', "cannot read the label file"),
        ('model_sha256 = "abc"', "model_sha256 is 'abc', not 64"),
        ("model_sha256 = 12", "model_sha256 is 12"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(model, text, said):
    path = say(model, text)
    with pytest.raises(OptionError, match=said) as caught:
        read_sidecar(model)
    assert str(path.parent) in str(caught.value)
    with pytest.raises(OptionError, match=said):
        Explainer(model.path)


def test_bytes_that_are_no_text_and_files_that_are_too_long(model, monkeypatch):
    path = sidecar_path(model.path)
    path.write_bytes(b"labels = ['\xff']")
    with pytest.raises(OptionError, match="cannot read the sidecar"):
        read_sidecar(model)
    monkeypatch.setattr("onnxcam.sidecar._LARGEST", 10)
    path.write_text("# twenty bytes of text")
    with pytest.raises(OptionError, match="more than 10 bytes"):
        read_sidecar(model)


def test_a_sidecar_that_may_not_be_read_is_told_in_words(model, monkeypatch):
    path = say(model, "")
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(OptionError) as caught:
        read_sidecar(model)
    assert str(caught.value) == f"cannot read the sidecar {path}: Permission denied. Make it readable, or move it away"


def denied(path: Path, **_: Any) -> str:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    "text", ['model = "a"\nepochs = 3', '[project]\nname = "net"\n[tool.x]\n', "[training]\nlabels = 4\n"]
)
def test_a_file_of_another_tool_is_passed_over(model, text):
    say(model, text)
    assert read_sidecar(model) is None
    assert "nothing in the model tells" in Explainer(model.path).preprocess_reason


def test_a_broken_sidecar_is_passed_over_and_told_where_the_preprocessing_is_given(tmp_path):
    proto = classifier()
    proto.metadata_props.add(key="onnxcam/labels", value='["p", "q", "r", "s"]')
    opened = load_model(write(tmp_path / "m.onnx", proto))
    for text in ('preprocess = "caffe"\nlabels = [', 'preprocess = "imagnet"', f'model_sha256 = "{"0" * 64}"'):
        path = say(opened, text)
        one = Explainer(opened.path, preprocess="unit")
        assert one.preprocess == Preprocess.parse("unit")
        assert one.labels == ("p", "q", "r", "s")  # the next that tells
        assert "the sidecar is passed over, for the preprocessing is given: " in one.preprocess_reason
        assert str(path) in one.preprocess_reason
        assert Explainer(opened.path, preprocess="unit", labels=["w", "x", "y", "z"]).preprocess_reason == ""
        with pytest.raises((OptionError, ModelError)):
            Explainer(opened.path)


@pytest.mark.parametrize("given", ["auto", "unit"])
def test_sidecar_and_model_are_read_once(model, monkeypatch, given):
    """A model of some 100 MB takes a second to hash."""
    path = write_sidecar(sidecar_path(model.path), sha256=model.sha256.upper(), preprocess=Preprocess.parse("unit"))
    asked: list[tuple[str, Path]] = []

    def counted(name: str, read: Any) -> Any:
        return lambda file, *more, **options: (asked.append((name, file)), read(file, *more, **options))[1]

    for name in ("read_bytes", "read_text", "open"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    assert Explainer(model.path, preprocess=given).preprocess == Preprocess.parse("unit")
    assert asked.count(("open", model.path)) == 1  # by load_model
    assert asked.count(("read_bytes", model.path)) == 0
    assert asked.count(("read_text", path)) == 1


def test_a_sidecar_of_another_model_is_refused(model, tmp_path):
    path = write_sidecar(sidecar_path(model.path), sha256="0" * 64, preprocess=Preprocess.parse("caffe"))
    with pytest.raises(ModelError, match="belongs to another model") as caught:
        read_sidecar(model)
    assert model.sha256 in str(caught.value)
    assert "--write-sidecar" in str(caught.value)
    path.write_text(path.read_text().replace("0" * 64, model.sha256.upper()))
    assert read_sidecar(model) is not None


def test_a_model_that_was_joined_with_another_is_still_its_files(model):
    write_sidecar(sidecar_path(model.path), sha256=model.sha256, labels=["a"])
    joined = replace(model, sha256=hashlib.sha256(b"both").hexdigest())
    found = read_sidecar(joined)
    assert found is not None
    assert found.labels == ("a",)
    assert read_sidecar(replace(model, path=None)) is None


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError) as caught:
        write_sidecar(path := tmp_path / "none" / "m.toml")
    assert str(caught.value) == f"cannot write {str(path)!r}: No such file or directory. Give another folder or name"


# onnxcam inspect MODEL --write-sidecar


def inspect(monkeypatch: Any, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxcam", "inspect", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_inspect_writes_what_is_known(tmp_path, monkeypatch, capsys):
    proto = classifier()
    proto.metadata_props.add(key="onnxcam/preprocess", value='{"name": "unit", "fit": "crop"}')
    proto.metadata_props.add(key="names", value="['a', 'b', 'c', 'd']")
    path = write(tmp_path / "m.onnx", proto)
    assert inspect(monkeypatch, path, "--write-sidecar") == 0
    assert f"wrote {tmp_path / 'm.toml'}" in capsys.readouterr().err
    text = (tmp_path / "m.toml").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    found = read_sidecar(load_model(path))
    assert found is not None
    assert (found.preprocess, found.labels) == (Preprocess.parse("unit,fit=crop"), ("a", "b", "c", "d"))


def test_inspect_writes_no_guess_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "m.onnx", classifier())
    assert inspect(monkeypatch, path, "--write-sidecar") == 0
    found = read_sidecar(load_model(path))
    assert found is not None
    assert (found.preprocess, found.labels) == (None, None)
    before = (tmp_path / "m.toml").read_bytes()
    capsys.readouterr()
    assert inspect(monkeypatch, path, "--write-sidecar") == 2
    out, err = capsys.readouterr()
    assert (out, "delete it to have it written anew" in err) == ("", True)
    assert (tmp_path / "m.toml").read_bytes() == before


def test_inspect_writes_nothing_into_the_zoo(tmp_path, monkeypatch, capsys):
    bundled = zoo.model("shapes-net-torchscript").path
    monkeypatch.setattr("onnxcam.sidecar.write_whole", lambda *_: pytest.fail("written into the zoo"))
    for name in ("zoo:shapes-net-torchscript", bundled):
        assert inspect(monkeypatch, name, "--write-sidecar") == 2
        assert "copy the model to a folder of your own" in capsys.readouterr().err
    monkeypatch.undo()
    copy = shutil.copy(bundled, tmp_path / "mine.onnx")
    assert inspect(monkeypatch, copy, "--write-sidecar") == 0
    assert (tmp_path / "mine.toml").is_file()
