"""Seeded scenes of coloured shapes on textured grounds, with one mask per object.

A scene holds three to five objects, each of another class, none overlapping, each 2.2 to 5.6 % of the image.
Area, colour, place and rotation are drawn without regard to the class: only the outline tells classes apart, so an
explanation of a class can point to one object only. Objects have a rim: pixel gradients straddle an outline, and
with the rim most of their energy lies on the object, inside its mask.

Everything is drawn from functions of continuous coordinates: the same seed gives the same scene at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator

SIZE = 112
AREA_SHARE = (0.022, 0.056)
GAP = 0.02
COLOUR_DISTANCE = 0.45
RIM = 0.02
TRAIN_SEED, HELDOUT_SEED, SAMPLE_SEED = 0, 1_000_000, 2_000_000


class Object(NamedTuple):
    """One shape of a scene: its class and the pixels that it covers, bool (H, W)."""

    class_index: int
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3) RGB, and the objects in it."""

    image: npt.NDArray[np.uint8]
    objects: tuple[Object, ...]


class Placement(NamedTuple):
    """Where an object goes: outline in image units (0 to 1), centre and reach (largest radius) in the same."""

    class_index: int
    outline: Array
    centre: Array
    reach: float


# ---------------------------------------------------------------- outlines: (V, 2) vertices, any scale


def _ring(radii: Array) -> Array:
    turn = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(turn), radii * np.sin(turn)], axis=1)


def _heart() -> Array:
    t = 2 * np.pi * np.arange(28) / 28
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _mirrored(half: list[tuple[float, float]]) -> Array:
    upper = np.array(half)
    return np.concatenate([upper, upper[::-1] * [1, -1]])


def _cross() -> Array:
    arm = np.array([(1.0, -0.36), (1.0, 0.36), (0.36, 0.36)])
    quarter_turns = [np.array([[c, s], [-s, c]]) for c, s in [(1, 0), (0, 1), (-1, 0), (0, -1)]]
    return np.concatenate([arm @ turn for turn in quarter_turns])


OUTLINES: dict[str, Callable[[], Array]] = {
    "circle": lambda: _ring(np.ones(40)),
    "square": lambda: _ring(np.ones(4)),
    "triangle": lambda: _ring(np.ones(3)),
    "star": lambda: _ring(np.tile([1.0, 0.45], 5)),
    "cross": _cross,
    "heart": _heart,
    "arrow": lambda: _mirrored([(-1.0, 0.27), (0.05, 0.27), (0.05, 0.75), (1.0, 0.0)]),
}
CLASSES = tuple(OUTLINES)


def _area_and_centroid(outline: Array) -> tuple[float, Array]:
    after = np.roll(outline, -1, axis=0)
    cross = outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1]
    area = cross.sum() / 2
    return abs(area), ((outline + after) * cross[:, None]).sum(0) / (6 * area)


def unit_outline(name: str) -> Array:
    """The outline (V, 2) of class ``name``, of area 1 with its centroid at the origin."""
    outline = OUTLINES[name]()
    area, centroid = _area_and_centroid(outline)
    return (outline - centroid) / np.sqrt(area)


def signed_distance(outline: Array, x: Array, y: Array) -> Array:
    """Distance of the points (x, y) to a polygon's edge, negative inside; shape of ``x``."""
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)


# ---------------------------------------------------------------- grounds: x, y -> a texture in [0, 1]


def _direction(rng: Rng, x: Array, y: Array) -> Array:
    turn = rng.uniform(0, 2 * np.pi)
    return np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5)


def _wave(rng: Rng, x: Array, y: Array) -> Array:
    cycles, phase, edge = rng.uniform(2, 9), rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 4)
    return np.tanh(edge * np.sin(2 * np.pi * cycles * _direction(rng, x, y) + phase)) / np.tanh(edge)


def _lattice_noise(rng: Rng, x: Array, y: Array, cells: int) -> Array:
    grid = rng.random((cells + 2, cells + 2))
    column, row = np.floor(x * cells).astype(int), np.floor(y * cells).astype(int)
    fx, fy = x * cells - column, y * cells - row
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    top = grid[row, column] * (1 - fx) + grid[row, column + 1] * fx
    bottom = grid[row + 1, column] * (1 - fx) + grid[row + 1, column + 1] * fx
    return top * (1 - fy) + bottom * fy


def gradient(rng: Rng, x: Array, y: Array) -> Array:
    return np.clip(0.5 + _direction(rng, x, y), 0, 1)


def stripes(rng: Rng, x: Array, y: Array) -> Array:
    return 0.5 + 0.5 * _wave(rng, x, y)


def checker(rng: Rng, x: Array, y: Array) -> Array:
    return 0.5 + 0.5 * _wave(rng, x, y) * _wave(rng, x, y)


def clouds(rng: Rng, x: Array, y: Array) -> Array:
    return 0.6 * _lattice_noise(rng, x, y, 3) + 0.4 * _lattice_noise(rng, x, y, 7)


def grain(rng: Rng, x: Array, y: Array) -> Array:
    return 0.4 * _lattice_noise(rng, x, y, 9) + 0.6 * _lattice_noise(rng, x, y, 28)


GROUNDS = (gradient, stripes, checker, clouds, grain)


# ---------------------------------------------------------------- composition


def _turned(outline: Array, angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return outline @ np.array([[c, s], [-s, c]])


def _place(rng: Rng, class_index: int, taken: list[Placement]) -> Placement | None:
    """A free place for one object, or None after 40 tries."""
    scale = np.sqrt(rng.uniform(*AREA_SHARE))
    outline = _turned(unit_outline(CLASSES[class_index]), rng.uniform(0, 2 * np.pi)) * scale
    reach = float(np.hypot(outline[:, 0], outline[:, 1]).max())
    for _ in range(40):
        centre = rng.uniform(reach + GAP, 1 - reach - GAP, 2)
        if all(np.hypot(*(centre - p.centre)) > reach + p.reach + GAP for p in taken):
            return Placement(class_index, outline + centre, centre, reach)
    return None


def layout(rng: Rng) -> list[Placement]:
    """Three to five objects of distinct classes that keep clear of each other and of the border."""
    wanted = rng.permutation(len(CLASSES))[: rng.integers(3, 6)]
    while True:
        taken: list[Placement] = []
        for class_index in wanted:
            if (found := _place(rng, int(class_index), taken)) is None:
                break
            taken.append(found)
        else:
            return taken


def _ground_colours(rng: Rng) -> Array:
    first = rng.uniform(0.08, 0.92, 3)
    return np.stack([first, np.clip(first + rng.uniform(-0.28, 0.28, 3), 0, 1)])


def _object_colours(rng: Rng, ground: Array) -> Iterator[Array]:
    """Colours that stand out from both of the ground's, without end."""
    while True:
        colour = rng.uniform(0, 1, 3)
        if np.linalg.norm(ground - colour, axis=1).min() > COLOUR_DISTANCE:
            yield colour


def _rim_colour(colour: Array) -> Array:
    """Half-way to black or white, whichever is farther."""
    return 0.5 * colour + (0.5 if colour.mean() < 0.5 else 0.0)


def _paint(canvas: Array, place: Placement, colour: Array, light: Array) -> Mask:
    """Draw one object into ``canvas`` (H, W, 3), lit from one side, with soft edges; returns its mask (H, W)."""
    size = canvas.shape[0]
    low = np.floor((place.centre - place.reach) * size).astype(int) - 1
    high = np.ceil((place.centre + place.reach) * size).astype(int) + 2
    columns, rows = slice(max(low[0], 0), high[0]), slice(max(low[1], 0), high[1])
    y, x = (np.mgrid[rows, columns] + 0.5)[:, : size - rows.start, : size - columns.start] / size
    distance = signed_distance(place.outline, x, y) * size
    shade = ((x - place.centre[0]) * light[0] + (y - place.centre[1]) * light[1]) / place.reach
    core = np.clip(0.5 - distance - RIM * size, 0, 1)[..., None]
    base = core * colour + (1 - core) * _rim_colour(colour)
    fill = np.clip(base * (1 + 0.18 * shade[..., None]), 0, 1)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[rows, columns] = cover * fill + (1 - cover) * canvas[rows, columns]
    mask = np.zeros((size, size), bool)
    mask[rows, columns] = distance < 0
    return mask


Palette = Callable[[Rng, Array], Iterator[Array]]


def render(seed: int, size: int = SIZE, palette: Palette = _object_colours) -> Scene:
    """The scene of ``seed`` at ``size`` x ``size`` pixels; same seed, size and palette, same pixels.

    ``palette(rng, ground colours)`` yields the objects' colours, in the order of ``Scene.objects``.
    """
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    ground = _ground_colours(rng)
    texture = GROUNDS[rng.integers(len(GROUNDS))](rng, x, y)[..., None]
    canvas = ground[0] + texture * (ground[1] - ground[0])
    light, colours = rng.uniform(-1, 1, 2), palette(rng, ground)
    objects = [Object(p.class_index, _paint(canvas, p, next(colours), light)) for p in layout(rng)]
    return Scene(np.round(canvas * 255).astype(np.uint8), tuple(objects))


def presence(scene: Scene) -> npt.NDArray[np.float32]:
    """Which classes the scene shows: 0 or 1, float32 (K,)."""
    shown = [o.class_index for o in scene.objects]
    return np.isin(np.arange(len(CLASSES)), shown).astype(np.float32)
