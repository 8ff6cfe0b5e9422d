"""The two bias stories, as audits of the zoo's models on scenes that none of them was trained on."""

from __future__ import annotations

import pytest

from benchmarks import audit as bench
from onnxcam import zoo
from onnxcam.audit import audit

pytestmark = [pytest.mark.anyruntime, pytest.mark.slow]
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
    story, variant = name.split("-")
    found = bench.audited(story, f"zoo:{name}", scenes / story, swaps="none", workers=1)
    region = bench.STORIES[story].spurious if variant == "biased" else bench.STORIES[story].honest
    assert bench.failures(story, variant, found) == []
    assert found.verdict[0].startswith(f"The model looks at the {region}: ")
    assert found.verdict[0].endswith(f"it judges by the {region}.")


@pytest.mark.parametrize(("name", "region"), [("tanks-biased", "sky"), ("tanks-fair", "tank")])
def test_the_samples_tell_the_story_of_the_tanks(name, region):
    """What a reader is told to run: label images beside the pictures, their names in regions.json."""
    folder = zoo.root() / "samples-tanks"
    found = audit(f"zoo:{name}", folder, masks=folder, workers=1)
    assert {s.region for s in found.overall} == {"sky", "ground", "trees", "tank"}
    assert found.verdict[0].startswith(f"The model looks at the {region}: ")
    assert f": it judges by the {region}" in found.verdict[0]
    assert not any("too few" in said for said in found.verdict)
