"""A score whose gradients and integrals are known, behind a probe that remembers how much it was asked at a time."""

from __future__ import annotations

import numpy as np

SHAPE = (2, 3, 4)


class Cubic:
    """f(x) = sum(a x^3) + (sum(b x))^2 with its gradient; ``relu`` policies give other, known answers."""

    def __init__(self, batch=3, x=None, a=None, b=None):
        rng = np.random.default_rng(7)
        self.a, self.b = rng.normal(size=SHAPE) if a is None else a, rng.normal(size=SHAPE) if b is None else b
        self.x = rng.normal(size=(1, *SHAPE)).astype(np.float32) if x is None else x
        self.batch, self.asked, self.told = batch, [], []

    def score(self, x):
        return np.array([(self.a * i**3).sum() + (self.b * i).sum() ** 2 for i in x.astype(np.float64)])

    def gradient(self, x, relu="plain"):
        self.asked.append(len(x))
        found = np.stack([self.at(i) for i in x.astype(np.float64)])
        return {"plain": found, "guided": np.maximum(found, 0), "deconvnet": 5 * found}[relu].astype(np.float32)

    def at(self, image):
        return 3 * self.a * image**2 + 2 * (self.b * image).sum() * self.b

    def advance(self, done, total):
        self.told.append((done, total))


class Broken(Cubic):
    """Gives NaN once the image is far enough from where the path starts."""

    def gradient(self, x, relu="plain"):
        found = super().gradient(x, relu)
        found[np.abs(x).sum(axis=(1, 2, 3)) > 0.5 * np.abs(self.x).sum()] = np.nan
        return found


def by_hand(probe, start):
    """The integral of the cubic's gradient along the straight line, term by term."""
    s, d = start.astype(np.float64), (probe.x[0] - start).astype(np.float64)
    cubic = 3 * probe.a * (s**2 + s * d + d**2 / 3)
    square = 2 * probe.b * ((probe.b * s).sum() + (probe.b * d).sum() / 2)
    return d * (cubic + square)
