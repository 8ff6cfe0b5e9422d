"""What DESIGN says of the house: who imports whom, what is lazy, how long files are, what is documented."""

from __future__ import annotations

import ast
import functools
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import classifier, write

import onnxcam

pytestmark = pytest.mark.anyruntime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(onnxcam.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("onnxcam", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES
}

# Each part, and the parts of onnxcam that it may import besides itself. What joins the others may import them all.
ON_TOP = ("onnxcam", "onnxcam.__main__", "onnxcam.cli", "onnxcam.explainer")
MAY_IMPORT = {
    "onnxcam.errors": (),
    "onnxcam.files": ("onnxcam.errors",),
    "onnxcam.integrity": ("onnxcam.errors",),
    "onnxcam.outputs": ("onnxcam.errors",),
    "onnxcam.constants": (),
    "onnxcam.inference": ("onnxcam.integrity", "onnxcam.isolation"),
    "onnxcam.isolation": ("onnxcam.errors",),
    "onnxcam.shapes": ("onnxcam.constants", "onnxcam.errors", "onnxcam.inference", "onnxcam.integrity"),
    "onnxcam.lowering": ("onnxcam.errors", "onnxcam.integrity", "onnxcam.shapes"),
    "onnxcam.branches": ("onnxcam.shapes",),
    "onnxcam.model": (
        "onnxcam.branches",
        "onnxcam.errors",
        "onnxcam.files",
        "onnxcam.inference",
        "onnxcam.integrity",
        "onnxcam.lowering",
        "onnxcam.outputs",
        "onnxcam.shapes",
    ),
    "onnxcam.graph": ("onnxcam.constants", "onnxcam.errors", "onnxcam.model", "onnxcam.shapes"),
    "onnxcam.quiet": (),
    "onnxcam.signals": (),
    "onnxcam.gradients": ("onnxcam.errors", "onnxcam.model", "onnxcam.graph", "onnxcam.quiet"),
    "onnxcam.targets": ("onnxcam.core", "onnxcam.errors", "onnxcam.graph", "onnxcam.model"),
    "onnxcam.inputs": ("onnxcam.errors", "onnxcam.model"),
    "onnxcam.core": ("onnxcam.errors",),
    "onnxcam.papers": (),
    "onnxcam.methods": ("onnxcam.errors", "onnxcam.core", "onnxcam.papers"),
    "onnxcam.explanation": ("onnxcam.errors", "onnxcam.core", "onnxcam.files", "onnxcam.image"),
    "onnxcam.record": (
        "onnxcam.errors",
        "onnxcam.model",
        "onnxcam.graph",
        "onnxcam.gradients",
        "onnxcam.core",
        "onnxcam.layers",
        "onnxcam.methods",
        "onnxcam.targets",
        "onnxcam.runtime",
        "onnxcam.explanation",
    ),
    "onnxcam.probe": (
        "onnxcam.core",
        "onnxcam.graph",
        "onnxcam.layers",
        "onnxcam.programs",
        "onnxcam.runtime",
        "onnxcam.targets",
    ),
    "onnxcam.finding": (
        "onnxcam.errors",
        "onnxcam.core",
        "onnxcam.graph",
        "onnxcam.layers",
        "onnxcam.methods",
        "onnxcam.probe",
        "onnxcam.programs",
        "onnxcam.record",
        "onnxcam.runtime",
        "onnxcam.targets",
    ),
    "onnxcam.offers": ("onnxcam.errors", "onnxcam.model", "onnxcam.graph", "onnxcam.gradients", "onnxcam.methods"),
    "onnxcam.layers": ("onnxcam.errors", "onnxcam.model", "onnxcam.graph"),
    "onnxcam.cache": ("onnxcam.files", "onnxcam.gradients", "onnxcam.model", "onnxcam.runtime"),
    "onnxcam.programs": (
        "onnxcam.cache",
        "onnxcam.errors",
        "onnxcam.isolation",
        "onnxcam.model",
        "onnxcam.graph",
        "onnxcam.gradients",
        "onnxcam.targets",
        "onnxcam.runtime",
    ),
    "onnxcam.image": ("onnxcam.errors", "onnxcam.core", "onnxcam.files"),
    "onnxcam.labels": ("onnxcam.errors",),
    "onnxcam.published": ("onnxcam.errors", "onnxcam.image", "onnxcam.labels"),
    "onnxcam.sidecar": ("onnxcam.errors", "onnxcam.files", "onnxcam.image", "onnxcam.labels", "onnxcam.model"),
    "onnxcam.conventions": (
        "onnxcam.errors",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.labels",
        "onnxcam.model",
        "onnxcam.published",
        "onnxcam.sidecar",
        "onnxcam.zoo",
    ),
    "onnxcam.runtime": ("onnxcam.errors", "onnxcam.isolation", "onnxcam.model"),
    "onnxcam.looks": ("onnxcam.core", "onnxcam.image", "onnxcam.programs", "onnxcam.runtime", "onnxcam.targets"),
    "onnxcam.opening": (
        "onnxcam.conventions",
        "onnxcam.errors",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.isolation",
        "onnxcam.labels",
        "onnxcam.model",
        "onnxcam.sidecar",
        "onnxcam.zoo",
    ),
    "onnxcam.blackbox": (
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.explanation",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.labels",
        "onnxcam.methods",
        "onnxcam.record",
        "onnxcam.targets",
    ),
    "onnxcam.frameworks": ("onnxcam.errors", "onnxcam.explainer", "onnxcam.integrity", "onnxcam.model"),
    "onnxcam.video": ("onnxcam.errors", "onnxcam.quiet", "onnxcam.signals"),
    "onnxcam.live": (
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.video",
    ),
    "onnxcam.serving": ("onnxcam.errors", "onnxcam.image"),
    "onnxcam.photos": ("onnxcam.errors",),
    "onnxcam.batch": (
        "onnxcam.core",
        "onnxcam.doctor",
        "onnxcam.errors",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.files",
        "onnxcam.image",
        "onnxcam.inputs",
        "onnxcam.labels",
        "onnxcam.methods",
        "onnxcam.model",
        "onnxcam.opening",
        "onnxcam.pages",
        "onnxcam.photos",
        "onnxcam.quiet",
        "onnxcam.record",
        "onnxcam.runtime",
        "onnxcam.targets",
    ),
    "onnxcam.download": ("onnxcam.errors", "onnxcam.files"),
    "onnxcam.pages": ("onnxcam.image",),
    "onnxcam.compare": (
        "onnxcam.pages",
        "onnxcam.files",
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.layers",
        "onnxcam.model",
        "onnxcam.opening",
        "onnxcam.photos",
        "onnxcam.programs",
        "onnxcam.targets",
    ),
    "onnxcam.doctor": (
        "onnxcam.conventions",
        "onnxcam.errors",
        "onnxcam.explanation",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.labels",
        "onnxcam.model",
        "onnxcam.opening",
        "onnxcam.photos",
        "onnxcam.runtime",
        "onnxcam.sidecar",
    ),
    "onnxcam.evaluate": (
        "onnxcam.batch",
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.files",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.inputs",
        "onnxcam.labels",
        "onnxcam.methods",
        "onnxcam.model",
        "onnxcam.opening",
        "onnxcam.pages",
        "onnxcam.photos",
        "onnxcam.probe",
        "onnxcam.programs",
        "onnxcam.targets",
    ),
    "onnxcam.concepts": (
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.evaluate",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.files",
        "onnxcam.image",
        "onnxcam.layers",
        "onnxcam.photos",
        "onnxcam.probe",
        "onnxcam.programs",
        "onnxcam.targets",
    ),
    "onnxcam.audit": (
        "onnxcam.batch",
        "onnxcam.compare",
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.evaluate",
        "onnxcam.explainer",
        "onnxcam.explanation",
        "onnxcam.files",
        "onnxcam.image",
        "onnxcam.inputs",
        "onnxcam.looks",
        "onnxcam.model",
        "onnxcam.pages",
        "onnxcam.photos",
        "onnxcam.targets",
    ),
    "onnxcam.zoo": ("onnxcam.errors", "onnxcam.files", "onnxcam.download"),
    "onnxcam.endpoint": ("onnxcam.errors", "onnxcam.image"),
    "onnxcam.export": (
        "onnxcam.core",
        "onnxcam.errors",
        "onnxcam.explainer",
        "onnxcam.gradients",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.integrity",
        "onnxcam.layers",
        "onnxcam.methods",
        "onnxcam.model",
        "onnxcam.programs",
        "onnxcam.runtime",
        "onnxcam.targets",
    ),
    "onnxcam.web": (
        "onnxcam.core",
        "onnxcam.download",
        "onnxcam.errors",
        "onnxcam.export",
        "onnxcam.files",
        "onnxcam.graph",
        "onnxcam.image",
        "onnxcam.labels",
        "onnxcam.methods",
        "onnxcam.model",
        "onnxcam.opening",
    ),
}
ONLY_IN = {
    "cv2": ("onnxcam.image", "onnxcam.core", "onnxcam.video"),
    "onnxruntime": ("onnxcam.runtime", "onnxcam.gradients.training"),
    "fsspec": ("onnxcam.batch.remote",),
    "ray": ("onnxcam.batch.ray",),
}
ELSEWHERE = {
    "cv2": "opencv_python_headless",
    "google": "protobuf",
    "skimage": "scikit_image",
    "sklearn": "scikit_learn",
}
FOREIGN = ("torch", "tensorflow", "keras", "tf2onnx")  # a network of theirs is given by a caller who has them
NEVER_IN = {
    "onnxcam.core": ("onnx", "onnx_ir", "onnxruntime"),
    "onnxcam.methods": ("onnx", "onnx_ir", "onnxruntime"),
    "onnxcam.image": ("onnx", "onnx_ir", "onnxruntime"),
}


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@functools.cache
def imports(module: str, text: str) -> set[str]:
    """Every module that ``text`` imports, at any depth; names of packages are resolved to modules where they are."""
    found: set[str] = set()
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(full if (full := f"{base}.{a.name}") in MODULES else base for a in node.names)
    return found


def test_relative_and_nested_imports_are_seen():
    text = "from .core.maps import x\ndef f():\n    import cv2\n    from . import errors\nfrom onnxcam import model"
    assert imports("onnxcam.image", text) == {"onnxcam.core.maps", "cv2", "onnxcam.errors", "onnxcam.model"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_row(module):
    on_top = [part for part in ON_TOP if module == part or (part == "onnxcam.cli" and within(module, part))]
    assert len(on_top) + sum(within(module, part) for part in MAY_IMPORT) == 1


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_below_it(part):
    modules = [m for m in MODULES if within(m, part)]
    assert modules, f"{part} is gone: correct the table"
    for module in modules:
        own = {i for i in imports(module, MODULES[module].read_text()) if within(i, "onnxcam") and i != "onnxcam"}
        bad = {i for i in own if not any(within(i, allowed) for allowed in (part, *MAY_IMPORT[part]))}
        assert not bad, f"{module} imports {bad}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_in_its_places_only(library):
    users = {m for m, p in MODULES.items() if any(within(i, library) for i in imports(m, p.read_text()))}
    assert users
    assert all(any(within(m, place) for place in ONLY_IN[library]) for m in users), users


@pytest.mark.parametrize("part", NEVER_IN)
def test_array_maths_knows_no_graph_and_no_runtime(part):
    for module in (m for m in MODULES if within(m, part)):
        found = imports(module, MODULES[module].read_text())
        assert not [i for i in found if any(within(i, bad) for bad in NEVER_IN[part])]


def test_nothing_imports_the_command_line():
    for module, path in MODULES.items():
        if not within(module, "onnxcam.cli") and module != "onnxcam.__main__":
            assert not [i for i in imports(module, path.read_text()) if within(i, "onnxcam.cli")], module


def test_import_is_lazy():
    script = "import sys, onnxcam; print(sorted({'onnxruntime', 'cv2', 'onnx', 'onnx_ir', 'typer'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_model_is_opened_without_the_network(tmp_path):
    """What downloads is imported by what is downloaded, not by a model of one's own."""
    path = write(tmp_path / "m.onnx", classifier())
    network = {"requests", "pooch", "urllib3", "onnxcam.download"}
    script = f"import sys, onnxcam; onnxcam.Explainer({str(path)!r}); print(sorted({network} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_is_imported_is_declared():
    """A library that comes along with another one today may be gone with it tomorrow."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[^\w-]", text)[0].lower().replace("-", "_") for text in declared}
    found = {i.partition(".")[0] for m, p in MODULES.items() for i in imports(m, p.read_text())}
    foreign = found - set(sys.stdlib_module_names) - {"onnxcam", *FOREIGN}
    assert {ELSEWHERE.get(i, i) for i in foreign} <= names


def test_every_public_name_has_its_home():
    assert all(getattr(onnxcam, name) is not None for name in onnxcam.__all__)
    assert set(dir(onnxcam)) == set(onnxcam.__all__)
    with pytest.raises(AttributeError, match=r"Explainr.*Explainer"):
        onnxcam.Explainr  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 500


def undocumented(text: str) -> Iterator[str]:
    tree = ast.parse(text)
    if tree.body and not ast.get_docstring(tree):
        yield "the module"
    yield from _undocumented(tree.body, "")


def _undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not any(map(_is_row, node.decorator_list)):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{node.name}.")


def _is_row(decorator: ast.expr) -> bool:
    """A row of a table of operators, such as @vjp("Relu"), is told by its operator."""
    first = decorator.args[0] if isinstance(decorator, ast.Call) and decorator.args else None
    return isinstance(first, ast.Constant) and isinstance(first.value, str)


def test_a_missing_docstring_is_seen():
    text = '"""m"""\nclass A:\n    """a"""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...'
    assert list(undocumented(text)) == ["A.f", "h"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_documented(path):
    private = path.stem.startswith("_") and path.name != "__init__.py"
    assert private or not list(undocumented(path.read_text()))


def seconds(*arguments: str) -> float:
    """The processor's time, which other work hardly changes."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def test_help_comes_at_once():
    script = "import sys; sys.argv = ['onnxcam', '--help']; from onnxcam.cli import main; main()"
    took = statistics.median(seconds("-c", script) for _ in range(5))
    if took >= 0.5:  # a slow machine: hold it against what an empty interpreter takes there
        empty = statistics.median(seconds("-c", "pass") for _ in range(5))
        assert took < 20 * empty, f"--help takes {took:.2f} s, an empty interpreter {empty:.2f} s"
