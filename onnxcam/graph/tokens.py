"""Token grids of transformers: how (N, T, D) folds back to the picture, read from the graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """The layout of a value (N, T, D): tokens before the patches (class, register), patches row by row, tokens behind.

    Attributes:
        height, width: of the grid of patches.
        before: tokens in front of the patches.
        after: tokens behind them.
    """

    height: int
    width: int
    before: int = 0
    after: int = 0
