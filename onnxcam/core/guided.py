"""Pixel gradients: from a signed (N, C, H, W) gradient to a map, and Guided Grad-CAM's product."""

from __future__ import annotations

from typing import Any

Array = Any


def magnitude(xp: Any, gradient: Array) -> Array:
    """max over channels of |gradient|: (N, C, H, W) -> (N, H, W).

    Simonyan et al., "Deep Inside Convolutional Networks", https://arxiv.org/abs/1312.6034, section 3.1.
    """
    return xp.max(xp.abs(gradient), axis=1)


def input_x_gradient(xp: Any, gradient: Array, x: Array) -> Array:
    """x * dy/dx, both (N, C, H, W): the share of the score that each value carries if the model is linear.

    Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
    2016, https://arxiv.org/abs/1605.01713.
    """
    return x * gradient


def guided_gradcam(xp: Any, gradient: Array, heatmap: Array) -> Array:
    """Guided gradient times Grad-CAM heatmap, pixel by pixel: (N, C, H, W) and (N, H, W) -> (N, C, H, W).

    Selvaraju et al., https://arxiv.org/abs/1610.02391, section 3.2.
    """
    return gradient * xp.expand_dims(heatmap, axis=1)
