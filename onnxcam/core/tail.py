"""Methods that edit the target layer and run only what lies behind it: Ablation-CAM and Recipro-CAM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import maps
from .probe import Array, Probe, chunks, features_at_once, finite


def ablationcam(probe: Probe) -> Array:
    """Ablation-CAM: L = sum_k w_k A_k, w_k = (y - y_k) / |y|, y_k the score when channel k is 0 everywhere.

    Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", 2020, https://doi.org/10.1109/WACV45572.2020.9093360. The paper divides by y, which is positive
    there; |y| is the same for y > 0 and does not turn the map round for y < 0. For y = 0 the drop itself weighs.
    Channels that are 0 anyway cost no run. Of tokens, the patches are ablated.

    Deviations of others: where a layer has negative values, pytorch-grad-cam sets channels to 1e7 below the smallest
    value (the paper: 0), and for tokens it also ablates the class token.

    Args:
        probe: the model, on one image.

    Returns:
        (h, w), raw.

    Raises:
        ModelError: a score that is no finite number.
    """
    A = probe.activations(probe.x)
    alive = np.flatnonzero(np.any(A[0], axis=(1, 2)))

    def ablated(part: slice) -> Array:
        edited = np.repeat(A, part.stop - part.start, axis=0)
        edited[np.arange(len(edited)), alive[part]] = 0
        return edited

    score = float(finite(probe.head(A))[0])
    drops = score - _behind(probe, A, len(alive), ablated)
    return np.tensordot(drops / (abs(score) or 1.0), A[0, alive], axes=1).astype(np.float32)


def reciprocam(probe: Probe, *, gaussian: bool = False) -> Array:
    """Recipro-CAM: at (i, j) the score when only the features at (i, j) are left, brought to [0, 1] over the map.

    Byun and Lee, "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc Explanations", 2024,
    https://arxiv.org/abs/2209.14074. One run of the head per position, of all positions in batches; the score is the
    class probability. A map whose scores are all equal is 0 everywhere.

    On a transformer this is ViT-ReciproCAM (Byun and Lee, 2023, https://arxiv.org/abs/2310.02588): the patch tokens
    are masked, class and register tokens kept. Its masks lie behind a LayerNorm, which would undo their scale: the
    target layer is the output of the last block's first LayerNorm, as it is where none is named. Where a class token
    carries the score nothing else of the patches reaches it, so that the residual branch, which the paper masks too,
    makes no difference.

    Deviations of others: the authors' CNN code spreads the features of (i, j) over its neighbours with the gaussian's
    weights, where here, as in the code for transformers and in OpenVINO XAI, the mask multiplies the features of each
    position. OpenVINO XAI takes logits where the model has no Softmax.

    Args:
        probe: the model, on one image.
        gaussian: leave the 3 x 3 neighbours too, with weights (1, 2, 1) x (1, 2, 1) / 16.

    Returns:
        (h, w), in [0, 1].

    Raises:
        ModelError: a score that is no finite number.
    """
    A = probe.activations(probe.x)
    h, w = A.shape[-2:]
    down, across = bands(h, gaussian), bands(w, gaussian)

    def left(part: slice) -> Array:
        rows, columns = np.divmod(np.arange(part.start, part.stop), w)
        return np.asarray(A * (down[rows, None, :, None] * across[columns, None, None]))

    found = _behind(probe, A, h * w, left).reshape(h, w)
    return np.asarray(maps.normalize(np, found, "minmax"), np.float32)


def bands(n: int, gaussian: bool) -> Array:
    """(n, n) float32: in row i the weights of an axis around i; what lies beyond the edge is cut off."""
    if not gaussian:
        return np.eye(n, dtype=np.float32)
    sides = np.eye(n, k=1, dtype=np.float32) + np.eye(n, k=-1, dtype=np.float32)
    return np.asarray(np.eye(n, dtype=np.float32) / 2 + sides / 4)  # (1, 2, 1) / 4 along each axis: 3 x 3, sum 1


def _behind(probe: Probe, A: Array, total: int, features: Callable[[slice], Array]) -> Array:
    """(total,): the head's scores of features as large as A, which are made as they are needed."""
    found = [probe.head(features(part)) for part in chunks(probe, total, features_at_once(probe, A))]
    return finite(np.concatenate([np.zeros(0, np.float32), *found]))
