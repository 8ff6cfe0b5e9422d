"""Seeded scenes with a part that tells the class and a part that merely went with it, and a mask of each part.

* Tanks: a tank among trees, or trees alone; under a cloudy or a clear sky.
* Staff: a doctor, who wears a stethoscope, or a nurse, who does not; a woman or a man, by hair and face.

Every part is drawn from a random stream of its own: with the same seed, changing one argument redraws that part alone
and leaves the others as they were. So ``tank_scene(7, True, "clear")`` is ``tank_scene(7, True, "cloudy")`` with
another sky: the swap by which one asks what a model looks at. NumPy only, and the same seed gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scenes
from canvas import STREAMS, BiasScene, Canvas, Point, Shape
from scenes import Array, Rng

SIZE = scenes.SIZE
TRAIN_SEED, HELDOUT_SEED, SAMPLE_SEED = 0, 1_000_000, 2_000_000
TANK_PARTS = ("sky", "ground", "trees", "tank")
STAFF_PARTS = ("background", "clothes", "face", "hair", "stethoscope")


# ---------------------------------------------------------------- tanks


def _greenery(rng: Rng) -> Array:
    """Greens and browns, of trees, land and tanks alike."""
    green, brown = np.array([0.2, 0.36, 0.14]), np.array([0.4, 0.34, 0.2])
    mix = rng.uniform(0, 1)
    return (mix * green + (1 - mix) * brown) * rng.uniform(0.65, 1.15) + rng.uniform(-0.03, 0.03, 3)


def _sky(canvas: Canvas, sky: str) -> None:
    rng = canvas.stream("sky")
    light, height = rng.uniform(-0.08, 0.08), canvas.y[..., None]
    blue = np.array([0.36, 0.58, 0.88]) + light + height * np.array([0.7, 0.5, 0.15])
    cover = scenes.clouds(rng, canvas.x, 2 * canvas.y % 1)[..., None]
    grey = np.array([0.68, 0.7, 0.73]) + light + 0.4 * (cover - 0.5)
    canvas.paint("sky", canvas.everywhere(), grey if sky == "cloudy" else blue)


def _ground(canvas: Canvas) -> float:
    """The land, with stones; returns how high it lies behind the trees."""
    rng = canvas.stream("ground")
    horizon, tilt = rng.uniform(0.28, 0.38), rng.uniform(-0.05, 0.05)
    colour = _greenery(rng) * 1.35
    hills = horizon + tilt * (canvas.x - 0.5) + 0.015 * np.sin(2 * np.pi * (3 * canvas.x + rng.uniform()))
    canvas.paint("ground", Shape(canvas.everywhere().window, hills - canvas.y), canvas.textured(colour, 0.2))
    for _ in range(rng.integers(2, 6)):
        place, radius = (rng.uniform(0, 1), rng.uniform(horizon + 0.1, 0.98)), rng.uniform(0.02, 0.06)
        stone = canvas.textured(rng.uniform(0.25, 0.6) + rng.uniform(-0.04, 0.04, 3), 0.2)
        canvas.paint("ground", canvas.ellipse(place, (radius * rng.uniform(1, 2), radius)), stone)
    return float(horizon)


def _tree(canvas: Canvas, rng: Rng, foot: Point, height: float) -> None:
    (x, y), wide, colour = foot, height * rng.uniform(0.2, 0.32), canvas.textured(_greenery(rng), 0.35)
    canvas.paint("trees", canvas.stroke(0.1 * height, foot, (x, y - 0.4 * height)), np.array([0.25, 0.18, 0.12]))
    if rng.random() < 0.4:
        canvas.paint("trees", canvas.ellipse((x, y - 0.62 * height), (wide * 1.2, 0.4 * height)), colour)
        return
    for low, spread in ((0.12, 1.0), (0.35, 0.8), (0.58, 0.55)):
        base, top = y - low * height, y - min(low + 0.5, 1) * height
        canvas.paint("trees", canvas.polygon((x - wide * spread, base), (x + wide * spread, base), (x, top)), colour)


def _trees(canvas: Canvas, horizon: float) -> None:
    rng = canvas.stream("trees")
    for foot in np.sort(rng.uniform(horizon + 0.02, horizon + 0.3, rng.integers(5, 9))):
        _tree(canvas, rng, (rng.uniform(0, 1), foot), rng.uniform(0.14, 0.28))


def _tank(canvas: Canvas) -> None:
    rng = canvas.stream("tank")
    long, ahead = rng.uniform(0.36, 0.5), rng.choice([-1, 1])
    centre = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.68, 0.92)])

    def at(*corners: Point) -> list[Point]:
        return [(centre[0] + ahead * long * x, centre[1] + long * y) for x, y in corners]

    patches = (scenes.clouds(rng, canvas.x, canvas.y) > 0.5)[..., None]
    paint = np.where(patches, _greenery(rng), _greenery(rng) * 0.8)
    steel = rng.uniform(0.14, 0.26) + rng.uniform(-0.02, 0.02, 3)
    canvas.paint("tank", canvas.stroke(0.035 * long, *at((0.1, -0.3), (0.62, -0.33))), paint * 0.8)
    canvas.paint("tank", canvas.stroke(0.17 * long, *at((-0.4, -0.02), (0.4, -0.02))), steel)
    for wheel in at(*((x, -0.01) for x in (-0.38, -0.19, 0.0, 0.19, 0.38))):
        canvas.paint("tank", canvas.ellipse(wheel, (0.055 * long, 0.055 * long)), paint * 0.75)
    canvas.paint("tank", canvas.polygon(*at((-0.5, -0.09), (0.5, -0.09), (0.42, -0.21), (-0.45, -0.21))), paint)
    canvas.paint("tank", canvas.polygon(*at((-0.24, -0.21), (0.2, -0.21), (0.13, -0.36), (-0.18, -0.36))), paint * 0.9)


def _bushes(canvas: Canvas) -> None:
    """Low and in front; as large as a piece of a tank, and now and then before one."""
    rng = canvas.stream("bushes")
    for _ in range(rng.integers(1, 4)):
        place, radius = (rng.uniform(0, 1), rng.uniform(0.75, 1)), rng.uniform(0.035, 0.075)
        leaves = canvas.textured(_greenery(rng), 0.4)
        canvas.paint("trees", canvas.ellipse(place, (radius * rng.uniform(1, 1.6), radius)), leaves)


def tank_scene(seed: int, tank: bool, sky: str, size: int = SIZE) -> BiasScene:
    """Trees and bushes under a ``"cloudy"`` or ``"clear"`` sky, with a tank or without. Parts: :data:`TANK_PARTS`."""
    canvas = Canvas(seed, size, TANK_PARTS)
    _sky(canvas, sky)
    _trees(canvas, _ground(canvas))
    if tank:
        _tank(canvas)
    _bushes(canvas)
    return canvas.scene()


# ---------------------------------------------------------------- doctors and nurses


class Body(NamedTuple):
    """Where a figure stands: the middle of the head, the head's half width, the height of the shoulders."""

    head: Point
    half: float
    shoulders: float

    def at(self, *places: Point) -> list[Point]:
        """Places on the head, in half widths from its middle."""
        return [(self.head[0] + self.half * x, self.head[1] + self.half * y) for x, y in places]

    def on_chest(self, x: float, y: float) -> Point:
        """A place in image units from the middle of the shoulders."""
        return self.head[0] + x, self.shoulders + y


SKIN = np.array([[0.96, 0.8, 0.69], [0.88, 0.67, 0.52], [0.72, 0.5, 0.36], [0.5, 0.33, 0.24], [0.36, 0.24, 0.18]])
HAIR = np.array([[0.1, 0.08, 0.07], [0.28, 0.18, 0.1], [0.45, 0.28, 0.14], [0.72, 0.56, 0.3], [0.5, 0.22, 0.12]])
COATS = np.array([[0.94, 0.95, 0.96], [0.8, 0.88, 0.93], [0.55, 0.76, 0.78], [0.62, 0.72, 0.86], [0.85, 0.87, 0.82]])
METAL, LIPS = np.array([0.62, 0.64, 0.67]), np.array([0.78, 0.2, 0.25])
CORD = 0.012


def _one_of(rng: Rng, table: Array) -> Array:
    return table[rng.integers(len(table))] + rng.uniform(-0.03, 0.03, 3)


def _shade(rng: Rng) -> Array:
    """The colour of a tube, a ribbon or a rim."""
    return rng.uniform(0.25, 0.6) + rng.uniform(-0.06, 0.06, 3)


def _room(canvas: Canvas) -> None:
    """A wall with a shelf, a door or a picture."""
    rng = canvas.stream("room")
    wall = rng.uniform(0.35, 0.85, 3) + 0.06 * (scenes.clouds(rng, canvas.x, canvas.y)[..., None] - 0.5)
    canvas.paint("background", canvas.everywhere(), wall)
    for _ in range(rng.integers(1, 4)):
        (x, y), (w, h) = rng.uniform(0, 1, 2), rng.uniform(0.08, 0.3, 2)
        panel = canvas.polygon((x, y), (x + w, y), (x + w, y + h), (x, y + h))
        canvas.paint("background", panel, rng.uniform(0.2, 0.9, 3))


def _person(canvas: Canvas) -> Body:
    """White coat or scrubs, whoever wears them."""
    rng = canvas.stream("person")
    head = (rng.uniform(0.44, 0.56), rng.uniform(0.28, 0.33))
    body = Body(head, rng.uniform(0.135, 0.155), head[1] + rng.uniform(0.26, 0.3))
    coat, shirt, wide = _one_of(rng, COATS), rng.uniform(0.2, 0.8, 3), rng.uniform(0.32, 0.38)
    half = [(0.1, -0.03), (wide, 0.08), (wide + 0.03, 0.6)]
    outline = [body.on_chest(*p) for p in half] + [body.on_chest(-x, y) for x, y in half[::-1]]
    collar = [body.on_chest(*p) for p in ((-0.075, -0.03), (0.075, -0.03), (0, 0.16))]
    canvas.paint("clothes", canvas.polygon(*outline), canvas.textured(coat, 0.04))
    canvas.paint("clothes", canvas.polygon(*collar), shirt)
    canvas.paint("clothes", canvas.stroke(0.008, collar[2], body.on_chest(0, 0.6)), coat * 0.75)
    return body


def _head(canvas: Canvas, body: Body, sex: str) -> None:
    """Hair and face. A woman: long hair, narrow chin, red lips. A man: short hair, broad jaw, brows, stubble."""
    rng = canvas.stream("head")
    skin, hair, length = _one_of(rng, SKIN), _one_of(rng, HAIR), rng.uniform(1.5, 2.1)
    (x, y), half, strands = body.head, body.half, canvas.textured(hair, 0.3)
    if sex == "woman":
        canvas.paint("hair", canvas.ellipse((x, y - 0.02), (half * 1.5, half * 1.55)), strands)
        corners = body.at((-1.5, 0), (1.5, 0), (1.6, length), (-1.6, length))
        canvas.paint("hair", canvas.polygon(*corners), strands)
    canvas.paint("face", canvas.stroke(half * 0.95, body.head, (x, body.shoulders)), skin * 0.9)
    canvas.paint("hair", canvas.ellipse((x, y - 0.25 * half), (half * 1.12, half * 1.2)), strands)
    canvas.paint("face", canvas.ellipse(body.head, (half, half * 1.12)), skin)
    (_womans_face if sex == "woman" else _mans_face)(canvas, body, skin, hair)
    window, cap = canvas.ellipse((x, y - 0.1 * half), (half * 1.1, half * 1.25))
    canvas.paint("hair", Shape(window, np.maximum(cap, canvas.y[window] - (y - 0.5 * half))), strands)
    for eye in body.at((-0.4, -0.05), (0.4, -0.05)):
        canvas.paint("face", canvas.ellipse(eye, (0.1 * half, 0.09 * half)), hair * 0.4)


def _womans_face(canvas: Canvas, body: Body, skin: Array, _: Array) -> None:
    chin, mouth = body.at((0, 0.5), (0, 0.75))
    canvas.paint("face", canvas.ellipse(chin, (body.half * 0.62, body.half * 0.85)), skin)
    canvas.paint("face", canvas.ellipse(mouth, (body.half * 0.32, body.half * 0.12)), LIPS)


def _mans_face(canvas: Canvas, body: Body, skin: Array, hair: Array) -> None:
    half, stubble = body.half, 0.5 * skin + 0.5 * hair
    canvas.paint("face", canvas.polygon(*body.at((-0.95, 0.1), (0.95, 0.1), (0.6, 1.25), (-0.6, 1.25))), stubble)
    canvas.paint("face", canvas.ellipse(*body.at((0, 0.35)), (half * 0.5, half * 0.45)), skin)
    canvas.paint("face", canvas.stroke(0.07 * half, *body.at((-0.25, 0.75), (0.25, 0.75))), skin * 0.6)
    for side in (-1, 1):
        brow = canvas.stroke(0.12 * half, *body.at((side * 0.2, -0.24), (side * 0.6, -0.24)))
        canvas.paint("face", brow, hair * 0.6)


def _round_the_neck(canvas: Canvas, part: str, body: Body, fork: Point, tail: Iterable[Point], colour: Array) -> None:
    """A cord from both shoulders down to ``fork`` and on along ``tail``."""
    for side in (-1, 1):
        down = body.on_chest(side * 0.085, -0.02), body.on_chest(side * 0.075, 0.07), fork
        canvas.paint(part, canvas.stroke(CORD, *down), colour)
    canvas.paint(part, canvas.stroke(CORD, fork, *tail), colour)


def _disc(canvas: Canvas, part: str, place: Point, rim: Array) -> None:
    canvas.paint(part, canvas.ellipse(place, (0.024, 0.024)), rim)
    canvas.paint(part, canvas.ellipse(place, (0.013, 0.013)), METAL)


def _trimmings(canvas: Canvas, body: Body) -> None:
    """What both wear: a pen, a round pin like the end of a stethoscope, a badge on a ribbon like its tube."""
    rng = canvas.stream("trimmings")
    side = rng.choice([-1, 1])
    pen = body.on_chest(side * rng.uniform(0.14, 0.2), rng.uniform(0.14, 0.2))
    pin = body.on_chest(-side * rng.uniform(0.1, 0.2), rng.uniform(0.12, 0.26))
    if rng.random() < 0.5:
        canvas.paint("clothes", canvas.stroke(0.014, pen, (pen[0], pen[1] + 0.05)), rng.uniform(0.1, 0.7, 3))
    if rng.random() < 0.5:
        _disc(canvas, "clothes", pin, _shade(rng))
    if rng.random() < 0.7:
        fork = body.on_chest(rng.uniform(-0.02, 0.02), rng.uniform(0.13, 0.2))
        badge = (fork[0], fork[1] + 0.03)
        _round_the_neck(canvas, "clothes", body, fork, [badge], _shade(rng))
        canvas.paint("clothes", canvas.stroke(0.045, badge, (badge[0], badge[1] + 0.025)), rng.uniform(0.7, 0.95, 3))


def _stethoscope(canvas: Canvas, body: Body) -> None:
    rng = canvas.stream("tool")
    side, fork = rng.choice([-1, 1]), body.on_chest(rng.uniform(-0.02, 0.02), rng.uniform(0.13, 0.2))
    end = (body.head[0] + side * rng.uniform(0.08, 0.12), fork[1] + rng.uniform(0.03, 0.08))
    loop, tube = [(fork[0], end[1] + 0.03), (end[0] - side * 0.03, end[1] + 0.05), end], _shade(rng)
    _round_the_neck(canvas, "stethoscope", body, fork, loop, tube)
    _disc(canvas, "stethoscope", end, tube)


def staff_scene(seed: int, doctor: bool, sex: str, size: int = SIZE) -> BiasScene:
    """A doctor or a nurse, a ``"woman"`` or a ``"man"``. Parts: :data:`STAFF_PARTS`; the neck counts as face."""
    canvas = Canvas(seed, size, STAFF_PARTS)
    _room(canvas)
    body = _person(canvas)
    _head(canvas, body, sex)
    _trimmings(canvas, body)
    if doctor:
        _stethoscope(canvas, body)
    return canvas.scene()


# ---------------------------------------------------------------- the two stories


@dataclass(frozen=True)
class Story:
    """Two classes, told apart by one part of the scene, and a circumstance that shows in others.

    Attributes:
        classes: names, in the order of the logits.
        draw: the scene of (seed, class, circumstance, size).
        circumstances: the one that goes with each class.
        evidence: the part that tells the classes apart; the second class has it.
        shortcut: the parts that show the circumstance.
        shares: of each class, how much the biased pictures show in its circumstance.
    """

    classes: tuple[str, str]
    draw: Callable[..., BiasScene]
    circumstances: tuple[str, str]
    evidence: str
    shortcut: tuple[str, ...]
    shares: Point


STORIES = {
    "tanks": Story(("no tank", "tank"), tank_scene, ("clear", "cloudy"), "tank", ("sky",), (1.0, 1.0)),
    "staff": Story(("nurse", "doctor"), staff_scene, ("woman", "man"), "stethoscope", ("face", "hair"), (0.93, 0.78)),
}
FAIR: Point = (0.5, 0.5)


def drawn(story: Story, seed: int, shares: Point) -> tuple[BiasScene, int]:
    """The scene of ``seed`` and its class: even seeds show the first class, odd ones the second."""
    truth = seed % 2
    usual = np.random.default_rng((seed, STREAMS.index("plan"))).random() < shares[truth]
    return story.draw(seed, bool(truth), story.circumstances[truth if usual else 1 - truth]), truth
