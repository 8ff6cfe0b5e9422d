"""`onnxcam methods`, and tables."""

from __future__ import annotations

import json

import pytest

from onnxcam.cli.listing import say, table
from onnxcam.methods import METHODS


def test_methods_are_the_catalogue(run):
    done = run("methods")
    assert (done.code, done.err) == (0, "")
    for method in METHODS.values():
        assert method.name in done.out
        assert method.formula in done.out
        assert method.paper in done.out
    rows = json.loads(run("methods", "--json").out)
    assert {r["name"]: (r["formula"], r["paper"], r["runs"]) for r in rows} == {
        m.name: (m.formula, m.paper, m.runs) for m in METHODS.values()
    }


def test_square_brackets_are_no_markup(capsys):
    table(("name", "what"), [("[red]x[/red]", "[y > 0]")])
    assert "[red]x[/red]" in (out := capsys.readouterr().out)
    assert "[y > 0]" in out


NASTY, HARMLESS = "\x1b[31mred\n\x9bZ\x7f\r\u202e", r"\x1b[31mred\n\x9bZ\x7f\r\u202e"


def test_names_do_not_steer_the_terminal(capsys):
    table(("a", "b"), [(NASTY, "naïve 猫 👩‍🚀")])
    say(f"cat {NASTY}")
    out, err = capsys.readouterr()
    assert HARMLESS in out
    assert "naïve 猫 👩‍🚀" in out
    assert err == "onnxcam: cat " + HARMLESS.replace(r"\n", "\n") + "\n"


@pytest.mark.parametrize("length", [10, 300])
def test_a_row_stays_one_line_where_stdout_is_no_terminal(capsys, length):
    table(("a", "b"), [("x" * length, "y" * length)])
    assert sum("x" * length in line and "y" * length in line for line in capsys.readouterr().out.splitlines()) == 1
