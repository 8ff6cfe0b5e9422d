"""Which convention labelled photos speak for, and how surely: log-likelihood, and a paired test of the differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
LEVEL = 0.05
_EXACT = 12  # photos, up to which every assignment of signs is counted
_DRAWS = 4095
_FLOOR, _CEILING = 100.0, 0.99  # a photo counts no worse than a hundredth of a guess, and no better than this
ALIKE = 1e-3  # nats of mean log-probability, within which nobody is ahead


def log_likelihood(scores: Numbers, truth: npt.NDArray[np.int64]) -> Numbers:
    """(N,): the log-probability of each photo's class, ``z[y] - logsumexp(z)`` of (N, C) logits.

    Of one logit: ``log sigmoid(z)`` for class 1, ``log sigmoid(-z)`` for class 0. Kept within
    ``log(1 / (100 C))`` and ``log 0.99``: how far the scores of an answer lie apart beyond that tells how large the
    input is, not how right.
    """
    z = np.concatenate([np.zeros_like(scores), scores], axis=1) if scores.shape[1] == 1 else scores
    shifted = z - z.max(axis=1, keepdims=True)
    found = shifted[np.arange(len(z)), truth] - np.log(np.exp(shifted).sum(axis=1))
    return np.asarray(np.clip(found, -np.log(_FLOOR * z.shape[1]), np.log(_CEILING)))


def right(scores: Numbers, truth: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(N,): whether the best class is the photo's; of one logit, whether its sign is."""
    found = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)
    return np.asarray(found == truth)


def sign_flip(differences: Numbers) -> float:
    """P that a mean of N paired differences is as large as theirs, were each as likely to have the other sign.

    Fisher's randomisation test, one-sided (The Design of Experiments, 1935, section 21): exact up to 12 photos, then
    by 4,095 draws of a fixed seed; below 2^-N it cannot go. It asks for no normal distribution, but it assumes that the
    differences are independent, and that each is as likely to have either sign if nobody is ahead.
    """
    count = len(differences)
    if count <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, (_DRAWS, count))
        signs = np.concatenate([np.ones((1, count), np.int64), 1 - 2 * drawn])
    means, own = signs @ differences, float(differences.sum())
    return float(np.mean(means >= own - 1e-12 * np.abs(differences).sum()))


def by_chance(right_ones: int, count: int, chance: float) -> float:
    """P of so many right answers out of ``count`` or more, each right by a chance of that size: the binomial tail."""
    terms = (math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(right_ones, count + 1))
    return min(1.0, math.fsum(terms))


def holm(values: Sequence[float]) -> list[float]:
    """P values of several tests, each raised so that all hold together (Holm, A Simple Sequentially Rejective Multiple
    Test Procedure, 1979): the k-th smallest of m times m - k + 1, and no smaller than the one before.
    """
    order = np.argsort(values)
    raised = [(len(values) - k) * values[i] for k, i in enumerate(order)]
    found = np.empty(len(values))
    found[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [float(p) for p in found]


def compared(best: Numbers, others: Sequence[Numbers]) -> list[float]:
    """P values that each of ``others`` is no worse than ``best``, from log-likelihoods of the same photos."""
    return holm([sign_flip(best - other) for other in others]) if others else []
