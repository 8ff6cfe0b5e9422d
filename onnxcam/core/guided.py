"""Pixel gradients: from a signed (N, C, H, W) gradient to a map, and Guided Grad-CAM's product."""

from __future__ import annotations

from typing import Any

Array = Any


def magnitude(xp: Any, gradient: Array) -> Array:
    """max over channels of |gradient|: (N, C, H, W) -> (N, H, W).

    Simonyan et al., "Deep Inside Convolutional Networks", https://arxiv.org/abs/1312.6034, section 3.1.
    """
    return xp.max(xp.abs(gradient), axis=1)


def guided_gradcam(xp: Any, gradient: Array, heatmap: Array) -> Array:
    """Guided gradient times Grad-CAM heatmap, pixel by pixel: (N, C, H, W) and (N, H, W) -> (N, C, H, W).

    Selvaraju et al., https://arxiv.org/abs/1610.02391, section 3.2.
    """
    return gradient * xp.expand_dims(heatmap, axis=1)
