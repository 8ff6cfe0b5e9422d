"""Every row of the catalogue, held to what the catalogue promises."""

from __future__ import annotations

import re

import pytest

from onnxcam import Explainer
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.methods import METHODS, NEEDS, find_method, possible
from onnxcam.papers import PAPERS

MODEL = "zoo:shapes-cnn"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_a_row_is_whole(method):
    assert set(method.needs) <= set(NEEDS)
    assert bool(method.terms or method.relu) != bool(method.procedure), "one run, or a procedure"
    assert method.papers or method.name == "randomcam"
    assert method.budget is None or method.budget in method.options
    assert method.has_layer == (method.terms is not None or method.gives == "cam")
    assert re.fullmatch("[a-z0-9_]+", method.name)


def test_names_and_aliases_are_told_apart():
    plain = [re.sub("[-_ ]", "", n) for m in METHODS.values() for n in {m.name, *m.aliases}]
    assert not {n for n in plain if plain.count(n) > 1} - {re.sub("_", "", m) for m in METHODS}
    for method in METHODS.values():
        assert all(find_method(n.upper().replace("_", "-")) is method for n in (method.name, *method.aliases))


def test_every_paper_is_used_and_its_bibtex_is_whole():
    assert {p.key for m in METHODS.values() for p in m.papers} == set(PAPERS)
    for paper in PAPERS.values():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", paper.key)
        assert str(paper.year) in paper.key
        assert paper.bibtex.count("{") == paper.bibtex.count("}")
        assert paper.url.startswith("https://")


def test_options_and_budget_are_checked():
    with pytest.raises(UnknownNameError, match="gradcam"):
        find_method("gradcom")
    with pytest.raises(OptionError, match="no option 'steps'"):
        Explainer(MODEL, options={"steps": 3})
    with pytest.raises(OptionError, match="no budget"):
        Explainer(MODEL, budget=10)


def test_what_a_model_can_give_decides_which_methods_it_gets():
    assert set(possible(["pixels"])) >= {"saliency", "guided_backprop"}
    assert "gradcam" not in possible(["pixels"])
    assert "gradcam" in possible(["layer", "gradient"])
