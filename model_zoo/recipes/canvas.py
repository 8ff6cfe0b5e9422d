"""Painting a scene of named parts: outlines with soft edges, and which part each pixel shows."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scenes
from scenes import Array, Mask, Rng

STREAMS = ("texture", "sky", "ground", "trees", "tank", "bushes", "room", "person", "head", "trimmings", "tool", "plan")
Point = tuple[float, float]
Window = tuple[slice, slice]


class BiasScene(NamedTuple):
    """A picture, uint8 (H, W, 3) RGB, and which pixels show each part: bool (H, W) by name, one part a pixel."""

    image: npt.NDArray[np.uint8]
    masks: dict[str, Mask]


class Shape(NamedTuple):
    """An outline: the distance of the pixels of a window to it, in image units, negative inside."""

    window: Window
    distance: Array


class Canvas:
    """A picture under way: colours (H, W, 3) in [0, 1] and the part that each pixel shows.

    Places are in image units, 0 to 1, x to the right and y down; ``x`` and ``y`` hold the pixels' centres (H, W).
    """

    def __init__(self, seed: int, size: int, parts: tuple[str, ...]) -> None:
        self.seed, self.size, self.parts = seed, size, parts
        self.y, self.x = (np.mgrid[:size, :size] + 0.5) / size
        self.colours, self.shown = np.zeros((size, size, 3)), np.zeros((size, size), np.uint8)
        self.grain = 2 * scenes.grain(self.stream("texture"), self.x, self.y)[..., None] - 1

    def stream(self, part: str) -> Rng:
        """The random numbers of one part of this seed."""
        return np.random.default_rng((self.seed, STREAMS.index(part)))

    def textured(self, colour: Array, depth: float) -> Array:
        """``colour``, lighter and darker by up to ``depth``: (H, W, 3)."""
        return colour * (1 + depth * self.grain)

    def paint(self, part: str, shape: Shape, colour: Array) -> None:
        """Cover what lies inside ``shape`` by ``colour``, (3,) or (H, W, 3), with soft edges."""
        window, cover = shape.window, np.clip(0.5 - shape.distance * self.size, 0, 1)
        fill = colour[window] if colour.ndim == 3 else colour
        self.colours[window] += cover[..., None] * (fill - self.colours[window])
        self.shown[window][cover > 0.5] = self.parts.index(part)

    def scene(self) -> BiasScene:
        pixels = np.round(np.clip(self.colours, 0, 1) * 255).astype(np.uint8)
        return BiasScene(pixels, {part: self.shown == k for k, part in enumerate(self.parts)})

    # ---- outlines

    def _around(self, low: Array, high: Array) -> tuple[Window, Array, Array]:
        """The pixels of a rectangle and of a border around it, with their x and y."""
        (x0, y0), (x1, y1) = np.clip((np.stack([low, high]) * self.size + [[-2], [3]]).astype(int), 0, self.size)
        window = slice(y0, y1), slice(x0, x1)
        return window, self.x[window], self.y[window]

    def everywhere(self) -> Shape:
        return Shape((slice(None), slice(None)), np.full(self.x.shape, -1.0))

    def ellipse(self, centre: Point, radii: Point) -> Shape:
        middle, reach = np.array(centre), np.array(radii)
        window, x, y = self._around(middle - reach, middle + reach)
        return Shape(window, (np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1]) - 1) * min(radii))

    def polygon(self, *corners: Point) -> Shape:
        outline = np.array(corners)
        window, x, y = self._around(outline.min(0), outline.max(0))
        return Shape(window, scenes.signed_distance(outline, x, y))

    def stroke(self, width: float, *points: Point) -> Shape:
        """A line of ``width`` through ``points``, with round ends."""
        line = np.array(points)
        window, x, y = self._around(line.min(0) - width, line.max(0) + width)
        nearest = np.full(x.shape, np.inf)
        for (ax, ay), (bx, by) in pairwise(points):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        return Shape(window, nearest - width / 2)
