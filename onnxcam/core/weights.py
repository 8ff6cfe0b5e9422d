"""The channel weights of every CAM method, written once for both worlds.

``xp`` is the array namespace (NumPy, or the symbolic one that writes ONNX nodes); ``A`` are the activations of the
target layer and ``G`` the gradient of the score with respect to them, both (N, C, H, W). A function returns weights
that broadcast to A; the map is the sum over channels of weights * A.
"""

from __future__ import annotations

from typing import Any

Array = Any


def gradcam(xp: Any, A: Array, G: Array) -> Array:
    """alpha_k = mean over pixels of G_k: (N, C, 1, 1). Selvaraju et al., https://arxiv.org/abs/1610.02391, eq. 1."""
    return xp.mean(G, axis=(2, 3), keepdims=True) * A


def hirescam(xp: Any, A: Array, G: Array) -> Array:
    """G itself, pixel by pixel: (N, C, H, W). Draelos and Carin, https://arxiv.org/abs/2011.08891, eq. 5."""
    return G * A


def counterfactual(xp: Any, A: Array, G: Array) -> Array:
    """-alpha_k, for what speaks against the class: (N, C, 1, 1). https://arxiv.org/abs/1610.02391, section 3.3."""
    return -gradcam(xp, A, G)
