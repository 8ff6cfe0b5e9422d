"""How a command starts: what it does not need is not loaded, and what is put off comes when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import classifier, png, write

pytestmark = pytest.mark.anyruntime
START = "import atexit, sys; from onnxcam.cli import run; "


def test_explaining_a_picture_loads_neither_sympy_nor_the_reference_evaluator(tmp_path):
    """Together they take as long to import as all the rest."""
    model, picture = write(tmp_path / "m.onnx", classifier()), png(tmp_path / "a.png")
    script = START + (
        "sys.argv = ['onnxcam', *sys.argv[1:]]; "
        "atexit.register(lambda: print(sorted({'sympy.core', 'onnx.reference', 'cv2'} & set(sys.modules)))); "
        "raise SystemExit(run())"
    )
    arguments = [sys.executable, "-c", script, "explain", model, picture, "-o", tmp_path / "out", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "['cv2']"  # of the process that did it, before that of its guard


def test_what_is_put_off_comes_when_it_is_used():
    script = (
        "import sys; from onnxcam.cli import _start_quickly; _start_quickly(); import onnx_ir as ir; "
        "early = 'sympy.core' in sys.modules; n = ir.SymbolicDim('n') * 2 + 1; "
        "import sympy; from sympy import Symbol; "
        "print(early, n.value, n.evaluate({'n': 3}), sympy.expand((Symbol('a') + 1) ** 2))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False 2*n + 1 7 a**2 + 2*a + 1\n"


def test_a_program_that_imports_onnxcam_finds_its_interpreter_as_it_was():
    script = (
        "import gc, sys; before = (gc.get_threshold(), list(sys.meta_path)); "
        "import onnxcam.cli, onnxcam.explainer; print((gc.get_threshold(), list(sys.meta_path)) == before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
