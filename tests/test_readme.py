"""The examples of the README and of the documents run as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import audit
from onnxcam.methods import METHODS

pytestmark = pytest.mark.anyruntime
ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line[2:] for line in re.findall(r"^\$ onnxcam .*", README, re.M)]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{k}")
    for path in (ROOT / "README.md", *DOCUMENTS)
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, tmp_path, monkeypatch, capsys):
    from onnxcam.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_zoo").symlink_to(ROOT / "model_zoo")
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", BLOCKS)
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "example", "exec"), {})


def test_pictures_are_what_the_printed_commands_and_the_benchmark_make(tmp_path, monkeypatch):
    """Within a grey level or two: runtimes differ in the last bits."""
    import numpy as np

    from onnxcam.cli import main
    from onnxcam.image import read_image, save_image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_zoo").symlink_to(ROOT / "model_zoo")
    for command in [c for c in COMMANDS if "-o docs/images" in c]:
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit):
            main()
    for story in audit.STORIES:
        audit.write_scenes(story, tmp_path / story, 2)
        models = {f"{story}-{variant}": f"zoo:{story}-{variant}" for variant in ("biased", "fair")}
        save_image(tmp_path / f"docs/images/audit-{story}.png", audit.panel_of(story, models, tmp_path / story))
    shown = re.findall(r"\((docs/images/[^)]*)\)", README)
    assert len(shown) == 5
    for name in shown:
        made, kept = read_image(tmp_path / name).astype(int), read_image(ROOT / name).astype(int)
        assert made.shape == kept.shape
        assert np.abs(made - kept).max() <= 2


def test_the_readme_names_every_method():
    families = re.search(r"## Methods\n(.*?)\n## ", README, re.S)[1]
    assert set(re.findall(r"`([a-z0-9_]+)`", families)) >= set(METHODS)


def test_the_catalogue_in_the_documents_is_the_catalogue(capsys):
    from onnxcam.cli.listing import methods

    methods(as_json=False, bibtex=False, markdown=True)
    kept = (ROOT / "docs" / "methods.md").read_text()
    assert kept.split("--markdown` -->\n")[1].split("\n<!-- end -->")[0].strip() == capsys.readouterr().out.strip()


def test_the_migration_table_names_methods_that_exist():
    text = (ROOT / "docs" / "migration.md").read_text()
    rows = [line.split("|")[2] for line in text.splitlines() if line.startswith("| `") or line.startswith("| a box")]
    plain = {n for row in rows for n in re.findall(r"`([a-z][a-z0-9_]+)`", row)}
    assert plain - set(METHODS) <= {"box"}
    assert {"scorecam", "legrad", "aise"} <= plain


def test_links_within_the_project_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
