"""Methods that read a transformer's attention maps: LeGrad and attention rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import OptionError
from .probe import Array, Attention, Probe

FUSIONS: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max, "min": np.min}


def legrad(probe: Probe, *, blocks: int = 0) -> Array:
    """LeGrad: mean over blocks l of mean_{heads, queries} relu(ds^l / dP^l), at the patches among the keys.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    2025, https://arxiv.org/abs/2404.03214, equations 5 to 8. P^l (heads, T, T) are the attention probabilities of
    block l; s^l is the score that the model's own head gives to the mean of all tokens behind block l, class and
    register tokens among them, as in the authors' code. Where the head pools by attention, s^l is its score of these
    tokens as they are, and P^l the probabilities of the pool. No attention value enters, only gradients.

    Args:
        probe: the model, on one image.
        blocks: how many of the last blocks count; 0 for all, as in the paper.

    Returns:
        (h, w), of the size of the token grid; >= 0.

    Raises:
        OptionError: blocks is negative, or more than there are.
    """
    found = probe.attention(probe.x, gradient=True)
    gradients = _last(found.gradients, blocks, "blocks")
    maps = [_at_patches(np.maximum(g, 0).mean(axis=(0, 1)), found) for g in gradients]
    return np.asarray(np.mean(maps, axis=0))


def rollout(probe: Probe, *, fusion: str = "mean", discard: float = 0.0, start: int = 0) -> Array:
    """Attention rollout: R = A^L ... A^1 with A^l = (P^l + I) / 2, read in the rows of the tokens that the head reads.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, https://arxiv.org/abs/2005.00928, section
    3: P^l (T, T) is block l's attention, averaged over heads; the identity stands for the residual connection; rows
    sum to 1. It does not depend on the class. The rows read are those of the class token, or the mean over all tokens
    that the head averages; a head that pools by attention reads with its own probabilities.

    Other than in the paper, heads can be fused by their maximum or minimum, small entries be left out, and the first
    blocks be passed over; rows are brought back to the sum 1.

    Args:
        probe: the model, on one image.
        fusion: of heads: ``"mean"``, ``"max"`` or ``"min"``.
        discard: the share of each block's entries, the smallest ones, that count as 0; in [0, 1). Columns of class and
            register tokens are kept.
        start: the first block that counts, from 0.

    Returns:
        (h, w), of the size of the token grid; >= 0, its sum at most 1.

    Raises:
        OptionError: an option outside its range.
    """
    found = probe.attention(probe.x)
    if fusion not in FUSIONS:
        raise OptionError(f"fusion={fusion!r}: heads are fused by {', '.join(FUSIONS)}")
    if not 0 <= discard < 1:
        raise OptionError(f"discard={discard}: give a share of the entries from 0 to below 1")
    if not 0 <= start < len(found.maps):
        raise OptionError(f"start={start}: the model has blocks 0 to {len(found.maps) - 1}")
    whole = np.eye(found.maps[0].shape[-1])
    for probabilities in found.maps[start:]:
        mixed = _without_small(_fused(probabilities, fusion), discard, found) + np.eye(len(whole))
        whole = (mixed / mixed.sum(axis=1, keepdims=True)) @ whole
    return _at_patches(found.reads @ whole, found)


def _fused(probabilities: Array, fusion: str) -> Array:
    """(heads, T, T) -> (T, T)."""
    return np.asarray(FUSIONS[fusion](probabilities.astype(np.float64), axis=0))


def _without_small(a: Array, share: float, found: Attention) -> Array:
    """The smallest entries set to 0, but for the columns of tokens that are no patches."""
    count = int(a.size * share)
    if not count:
        return a
    kept = a.copy()
    smallest = np.argsort(a, axis=None, kind="stable")[:count]
    kept.reshape(-1)[smallest] = 0
    others = np.setdiff1d(np.arange(len(a)), found.patches)
    kept[:, others] = a[:, others]
    return kept


def _at_patches(keys: Array, found: Attention) -> Array:
    """(T,) -> (h, w)."""
    return np.asarray(keys[found.patches], dtype=np.float32)


def _last(maps: tuple[Array, ...], count: int, name: str) -> tuple[Array, ...]:
    if not 0 <= count <= len(maps):
        raise OptionError(f"{name}={count}: the model has {len(maps)} blocks; 0 takes all")
    return maps[-count:] if count else maps
