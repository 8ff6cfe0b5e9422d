"""Pictures that show concepts: with a mask per concept, or in a folder per concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import ImageError, OptionError
from onnxcam.image import as_image
from onnxcam.photos import find_photos, is_picture

Source = str | Path | NDArray[Any]
PICTURES, MASKS = "images", "masks"


@dataclass(frozen=True)
class Example:
    """A picture, and what it shows.

    Attributes:
        image: a path, or uint8 (H, W, 3).
        concept: what it shows as a whole; "" where masks tell.
        masks: by concept, where it is: bool (H, W) of the picture's size, or a picture's path whose pixels above 0
            count. A concept that is not there has none.
    """

    image: Source
    concept: str = ""
    masks: Mapping[str, Source] = field(default_factory=dict)

    def mask(self, concept: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Where a concept is: bool (H, W).

        Raises:
            ImageError: a mask that cannot be read, or is of another size than ``size``, the picture's.
        """
        given = self.masks.get(concept)
        if given is None:
            return np.zeros(size, np.bool_)
        mask = np.asarray(given if isinstance(given, np.ndarray) and given.ndim == 2 else as_image(given).max(axis=2))
        if mask.shape != size:
            where = "a mask" if isinstance(given, np.ndarray) else str(given)
            raise ImageError(f"{where} of {concept!r} is {mask.shape}, its picture {size}: give them one size")
        return np.asarray(mask > 0)


def read_examples(folder: str | Path) -> list[Example]:
    """The examples of a folder.

    Either ``images/`` with pictures and ``masks/CONCEPT/`` with a mask of the same name (without its suffix) for each
    picture that shows the concept; or a folder of pictures per concept.

    Raises:
        ImageError: no such folder, or no pictures in it.
        OptionError: masks without a picture, or pictures outside of the concepts' folders.
    """
    root = Path(folder)
    if (root / MASKS).is_dir():
        return _masked(root)
    photos = find_photos(root)
    loose = [p.path for p in photos if p.label is None]
    if loose:
        raise OptionError(
            f"{loose[0]} lies in no concept's folder: give {root}/CONCEPT/PICTURE, or {root}/{PICTURES}/PICTURE with "
            f"{root}/{MASKS}/CONCEPT/PICTURE"
        )
    return [Example(p.path, str(p.label)) for p in photos]


def _masked(root: Path) -> list[Example]:
    pictures = {p.stem: p for p in _pictures(root / PICTURES)}
    if not pictures:
        raise ImageError(f"no pictures in {root / PICTURES}, which the masks in {root / MASKS} are of")
    found: dict[str, dict[str, Source]] = {stem: {} for stem in pictures}
    for concept in sorted(p for p in (root / MASKS).iterdir() if p.is_dir() and not p.name.startswith(".")):
        for mask in _pictures(concept):
            if mask.stem not in found:
                raise OptionError(f"{mask} is a mask of no picture: there is no {root / PICTURES / mask.stem}.*")
            found[mask.stem][concept.name] = mask
    return [Example(pictures[stem], masks=masks) for stem, masks in found.items()]


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_picture(p.name)) if folder.is_dir() else []
