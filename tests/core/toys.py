"""Probes that remember how much they were asked at a time: a small network in NumPy, and any function of images."""

from __future__ import annotations

import numpy as np


class Toy:
    """Block means of mixed colours, ReLU, then a head that is not linear; 3 classes, one of which is explained.

    A constant channel (the 4th) and a dead one (the 5th) come on request, and NaN where the image is dark.
    """

    def __init__(self, kind="plain", batch=4, seed=0, channels=6, block=(3, 2), size=(4, 5), bias=0.0):
        rng = np.random.default_rng(seed)
        self.kind, self.batch, self.block, self.bias = kind, batch, block, bias
        self.mix = rng.normal(size=(channels, 2))
        self.shift = rng.normal(size=channels) * 0.3
        self.first, self.second = rng.normal(size=(channels, 7)), rng.normal(size=7)
        self.where = rng.normal(size=size)
        self._x = rng.normal(size=(1, 2, size[0] * block[0], size[1] * block[1])).astype(np.float32)
        self.asked, self.told = [], []

    @property
    def x(self):
        return self._x

    def features(self, image):
        """(2, H, W) -> (K, h, w), in float64."""
        c, (bh, bw) = image.shape[0], self.block
        means = image.astype(np.float64).reshape(c, image.shape[1] // bh, bh, -1, bw).mean(axis=(2, 4))
        maps = np.maximum(np.einsum("kc,chw->khw", self.mix, means) + self.shift[:, None, None], 0)
        if self.kind == "constant":
            maps[3], maps[4] = 0.7, 0.0
        return maps

    def answer(self, maps):
        """(K, h, w) -> the score: pooled with a place's own weight, then two layers."""
        if self.kind == "flat":
            return 1.5
        pooled = (maps * (1 + 0.5 * self.where)).mean(axis=(1, 2))
        score = float(np.tanh(pooled @ self.first) @ self.second) + self.bias
        return np.nan if self.kind == "nan" and np.abs(maps).sum() < 30 else score

    def activations(self, x):
        return np.stack([self.features(i) for i in x]).astype(np.float32)

    def score(self, x):
        self.asked.append(len(x))
        return np.array([self.answer(self.features(i)) for i in x], np.float32)

    def head(self, A):
        self.asked.append(len(A))
        return np.array([self.answer(a) for a in A.astype(np.float64)], np.float32)

    def gradient(self, x, relu="plain"):
        raise NotImplementedError

    def layer(self, x):
        raise NotImplementedError

    def advance(self, done, total):
        self.told.append((done, total))


class Scored:
    """A probe of a function (B, C, H, W) -> (B,)."""

    def __init__(self, function, x, batch=4):
        self.function, self.x, self.batch = function, np.asarray(x, np.float32), batch
        self.calls, self.progress, self.notes = [], [], []

    def score(self, x):
        assert x.dtype == np.float32
        self.calls.append(len(x))
        return np.asarray(self.function(x), np.float32)

    def advance(self, done, total):
        self.progress.append((done, total))

    def note(self, text):
        self.notes.append(text)
