"""Every method against what pytorch-grad-cam, torch-cam, captum and the papers' formulas give, on two tiny networks.

The answers were made in double precision by ``python -m benchmarks.peers_golden``; what is random is replayed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import Peers, compare, counterpart
from onnxcam.methods import METHODS

pytestmark = pytest.mark.anyruntime
GOLDEN = Path(__file__).parent / "golden"
CLOSE = 1e-4
NETWORKS = {path.stem: Peers(path) for path in sorted(GOLDEN.glob("*.npz"))}
KEYS = [pytest.param(name, key, id=f"{name}/{key}") for name, peers in NETWORKS.items() for key in peers.about]


def test_both_networks_are_there():
    assert sorted(NETWORKS) == ["tiny_cnn", "tiny_vit"]


@pytest.mark.parametrize(("network", "key"), KEYS)
def test_same_map(network, key):
    """Equal where the peer follows its paper, and different where the list of departures says that it does not."""
    our = counterpart(key)
    assert our is not None, f"{key} has no counterpart in benchmarks/peers_table.py"
    far = compare(NETWORKS[network], key)
    if our.departs_on(network):
        assert far > CLOSE, f"{key} is listed as a departure, and is none: {far:.1e}"
    else:
        assert far <= CLOSE


def test_every_method_with_a_peer_is_asked():
    asked = {counterpart(key).method for peers in NETWORKS.values() for key in peers.about}
    alone = {"counterfactual", "faster_scorecam", "reciprocam", "deconv_gradcam", "rise", "aise", "rollout"}
    assert set(METHODS) - alone == asked
