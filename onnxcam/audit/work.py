"""The work on one picture of an audit: explained, measured region by region, and explained again with each replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.audit import swap
from onnxcam.audit.regions import Finder, Mask, Picture
from onnxcam.audit.result import Case, Row
from onnxcam.core.localize import energy_inside
from onnxcam.errors import GradientError, ImageError, MissingPackageError, OnnxcamError, RuntimeUnavailableError
from onnxcam.evaluate.baselines import centre_gaussian, heatmap_of
from onnxcam.evaluate.classes import Answers, logits_of
from onnxcam.explainer import Explainer, Prepared
from onnxcam.explanation import Explanation

Pixels = NDArray[np.uint8]
OTHER, COUNTERPART = "other", "counterpart"
_OF_THE_JOB = (GradientError, MissingPackageError, RuntimeUnavailableError)


@dataclass(frozen=True, eq=False)
class Auditing:
    """What is done to each picture.

    Attributes:
        explainer: of the audited model.
        counterfactual: the same model's evidence against an answer; None where there is no such map.
        pictures: all of them; rows are known by their place here.
        find: their regions.
        answers: which class is explained, and which answers are right, or the same.
        by: what regions are replaced by, one of :data:`onnxcam.audit.swap.KINDS`.
        counterparts: by region, by picture: the same picture with that region changed.
        seed: of what is drawn.
    """

    explainer: Explainer
    counterfactual: Explainer | None
    pictures: Sequence[Picture]
    find: Finder
    answers: Answers
    by: str
    counterparts: Mapping[str, Mapping[str, str]]
    seed: int

    # The first look

    def measured(self, index: int) -> tuple[Row, Explanation | None]:
        """The row of a picture, and its explanation; of a picture that cannot be read the row has an ``error``.

        Raises:
            GradientError, MissingPackageError, RuntimeUnavailableError: no picture can be explained.
        """
        picture = self.pictures[index]
        head: Row = {"index": index, "source": picture.source, "truth": picture.truth}
        try:
            if wrong := next((s.error for s in picture.samples if s.error), None):
                raise ImageError(wrong)
            prepared, e, against = self._explained(picture)
            found = self._visible(picture, prepared)
        except _OF_THE_JOB:
            raise
        except Exception as error:  # whatever it is, it is about this picture
            return {**head, "error": _why(error)}, None
        return {**head, **self._told(picture, e), "regions": _evidence(e, against, found)}, e

    def _explained(self, picture: Picture) -> tuple[Prepared, Explanation, Explanation | None]:
        prepared = self.explainer.prepare(picture.source)
        asked = None  # the predicted one, without a run of its own
        if self.answers.explain == "truth":
            asked = self.answers.explained(picture.truth, logits_of(self.explainer, prepared.tensor))
        (e,) = self.explainer.explain_prepared([prepared], asked)
        if self.counterfactual is None:
            return prepared, e, None
        return prepared, e, self.counterfactual.explain_prepared([prepared], e.class_index)[0]

    def _visible(self, picture: Picture, prepared: Prepared) -> dict[str, Mask]:
        """The regions that the model sees something of."""
        seen = prepared.placement.mask()
        found = {name: mask & seen for name, mask in self.find(picture, prepared).items()}
        return {name: mask for name, mask in found.items() if mask.any()}

    def _told(self, picture: Picture, e: Explanation) -> Row:
        best = e.top[0][0]
        shown = [s.truth for s in picture.samples if s.truth is not None and s.truth in self.answers.classes]
        return {
            "answer": named(e), "explained": e.class_index, "predicted": best, "said": self._called(best),
            "blank": e.is_blank, "correct": self.answers.right(best, shown) if shown else None,
        }  # fmt: skip

    def _called(self, index: int) -> str:
        labels = self.explainer.labels
        return labels[index] if labels else f"class {index}"

    # The second look

    def swapped(self, index: int, rows: Mapping[int, Row]) -> Row:
        """The row with what the model says once each of its regions is replaced; or why that cannot be told.

        Raises:
            GradientError, MissingPackageError, RuntimeUnavailableError: no picture can be explained.
        """
        try:
            return self._swapped(index, rows)
        except _OF_THE_JOB:
            raise
        except Exception as error:
            return {**rows[index], "swap_error": _why(error)}

    def _swapped(self, index: int, rows: Mapping[int, Row]) -> Row:
        row, picture = rows[index], self.pictures[index]
        prepared = self.explainer.prepare(picture.source)
        found = self._visible(picture, prepared)
        edited = {(n, part): p for n in row["regions"] for part, p in self._edits(index, n, found, prepared, rows)}
        if not edited:
            return row
        ready = [self.explainer.prepare(p) for p in edited.values()]
        answers = dict(zip(edited, self.explainer.explain_prepared(ready), strict=True))
        return {**row, "swaps": {n: self._answered(row, n, answers) for n, part in edited if part != "control"}}

    def _answered(self, row: Row, region: str, answers: Mapping[tuple[str, str], Explanation]) -> Row:
        by = next(part for name, part in answers if name == region and part != "control")
        e, control = answers[region, by], answers.get((region, "control"))
        return {
            "by": by, "answer": named(e), "flipped": self._flipped(row, e),
            "control": None if control is None else self._flipped(row, control),
        }  # fmt: skip

    def _flipped(self, row: Row, e: Explanation) -> bool:
        return not self.answers.same(e.class_index, row["predicted"])

    def _edits(
        self, index: int, region: str, found: Mapping[str, Mask], prepared: Prepared, rows: Mapping[int, Row]
    ) -> list[tuple[str, Pixels]]:
        """What the region is replaced by, and the picture with that."""
        known = self.counterparts.get(region)
        if known is not None:
            other = known.get(self.pictures[index].source)
            return [] if other is None else [(COUNTERPART, self.explainer.prepare(other).picture)]
        if self.by == "none":
            return []
        if self.by != OTHER:
            return [(self.by, swap.filled(prepared.picture, found[region], self.by))]
        donors = {part: self._donor(index, region, rows, part == "control") for part in (OTHER, "control")}
        return [
            (part, self._pasted(prepared.picture, found[region], region, donor))
            for part, donor in donors.items()
            if donor is not None and donors[OTHER] is not None
        ]

    def _donor(self, index: int, region: str, rows: Mapping[int, Row], alike: bool) -> int | None:
        """A random other picture with the same answer, which then has the region too; or with another one."""
        own = rows[index]["predicted"]
        others = [k for k, r in rows.items() if k != index and self.answers.same(r["predicted"], own) == alike]
        fitting = [k for k in others if not alike or region in rows[k]["regions"]]
        if not fitting:
            return None
        rng = np.random.default_rng((self.seed, index, *region.encode(), alike))
        return fitting[int(rng.integers(len(fitting)))]

    def _pasted(self, picture: Pixels, mask: Mask, region: str, donor: int) -> Pixels:
        other = self.pictures[donor]
        prepared = self.explainer.prepare(other.source)
        return swap.replaced(picture, mask, prepared.picture, self._visible(other, prepared).get(region))

    # Pictures

    def look(self, row: Row, rows: Mapping[int, Row]) -> Case:
        """The picture of a row, its maps, and what became of it where its answer flipped, made again."""
        picture = self.pictures[row["index"]]
        prepared, e, against = self._explained(picture)
        shown = {"picture": prepared.picture, f"why {named(e)}": e.overlay()}
        if against is not None:
            shown["evidence against"] = against.overlay()
        flipped = [n for n, s in row.get("swaps", {}).items() if s["flipped"]]
        for name in flipped[:1]:
            found = self._visible(picture, prepared)
            _, edited = self._edits(row["index"], name, found, prepared, rows)[0]
            after = self.explainer.explain(edited)
            shown |= {f"{name} replaced": edited, f"why {named(after)} now": after.overlay()}
        return Case(row, shown)


def named(e: Explanation) -> str:
    """The explained class by its name, or its number."""
    return e.label if e.label is not None else f"class {e.class_index}"


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, OnnxcamError) else f"unexpected {type(error).__name__}: {error}"


def _evidence(e: Explanation, against: Explanation | None, found: Mapping[str, Mask]) -> dict[str, dict[str, Any]]:
    assert e.placement is not None
    whole, other = e.heatmap_on_image(), None if against is None else against.heatmap_on_image()
    centre = e.placement.to_image(heatmap_of(centre_gaussian((e.cam.shape[0], e.cam.shape[1])), e.placement.size))
    seen = int(e.placement.mask().sum())
    return {
        name: {
            "area": round(float(mask.sum()) / seen, 6), "energy": round(energy_inside(whole, mask), 6),
            "against": None if other is None or not other.any() else round(energy_inside(other, mask), 6),
            "centre": round(energy_inside(centre, mask), 6),
        }
        for name, mask in found.items()
    }  # fmt: skip
