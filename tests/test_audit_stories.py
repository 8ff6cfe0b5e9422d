"""The two bias stories, as audits of the zoo's models on scenes that none of them was trained on."""

from __future__ import annotations

import pytest

from benchmarks import audit as bench
from onnxcam import zoo

NAMES = [f"{story}-{variant}" for story in bench.STORIES for variant in ("biased", "fair")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Forty of each story, drawn once."""
    folder = tmp_path_factory.mktemp("scenes")
    for story in bench.STORIES:
        bench.write_scenes(story, folder / story, 40)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_audit_tells_the_story(name, scenes):
    if name not in zoo.models():
        pytest.skip(f"the zoo has no model {name}; model_zoo/recipes/train_bias.py makes it")
    story, variant = name.split("-")
    found = bench.audited(story, f"zoo:{name}", scenes / story, swaps="none", workers=1)
    region = bench.STORIES[story].spurious if variant == "biased" else bench.STORIES[story].honest
    assert bench.failures(story, variant, found) == []
    assert found.verdict[0].startswith(f"The model looks at the {region}: ")
    assert found.verdict[0].endswith(f"it judges by the {region}.")
