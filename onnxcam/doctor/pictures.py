"""The pictures that conventions are tried on: decoded once, and the classes that they show."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxcam.errors import ImageError, OptionError, UnknownNameError
from onnxcam.image import InputSpec, Preprocess, read_image
from onnxcam.labels import Labels, by_name, index_of
from onnxcam.photos import Photo

from .candidates import FITS
from .scenes import scenes

Pixels = npt.NDArray[np.uint8]
_OWN_SIZE = 512  # the longest side at which a model of any size is given pictures as they are
_USUAL = (224, 224)


@dataclass(frozen=True)
class Pictures:
    """N pictures.

    Attributes:
        paths: their files.
        truth: (N,) int, the class that each shows, -1 where nothing tells.
        fits: by name of the fit, N arrays uint8 (H, W, 3 or 1) of the model's input size; ways of resizing that make
            the same of all of them are held once, under the first name.
        size: what ``Preprocess.size`` must be to get them; None: the model's own.
        skipped: what could not be read, with the reason.
    """

    paths: tuple[Path, ...]
    truth: npt.NDArray[np.int64]
    fits: dict[str, list[Pixels]]
    size: tuple[int, int] | None
    skipped: tuple[str, ...]

    @cached_property
    def scenes(self) -> npt.NDArray[np.int64]:
        """(N,): which scene each shows, see `onnxcam.doctor.scenes.scenes`."""
        return scenes(next(iter(self.fits.values())))

    @property
    def distinct(self) -> int:
        """How many scenes they show: near-duplicates are one."""
        return int(self.scenes.max()) + 1


def classes_of(photos: Sequence[Photo], labels: Labels | None, count: int | None, given: bool) -> list[int]:
    """The class index of each photo, -1 where it has none.

    A label is one of the model's class names (or a synonym, of "tench, Tinca tinca"), or else an index.

    Args:
        photos: with the labels as they are written.
        labels: the model's class names.
        count: how many classes it has; None: unknown.
        given: whether the labels were given on purpose: then every one must be known. Names of folders may be others;
            those that are no class are no labels.

    Raises:
        UnknownNameError, OptionError: a label that is no class of the model, or the name of several.
    """
    names = by_name(labels or ())
    found = [-1 if p.label is None else index_of(p.label, names, count) for p in photos]
    unknown = [p.label for p, k in zip(photos, found, strict=True) if p.label is not None and k is None]
    if not unknown or not given:
        return [-1 if k is None else k for k in found]
    if labels is None:
        raise OptionError(
            f"the photos' label {unknown[0]!r} is no class index of the model ({count or 'any number of'} classes), "
            "and it has no class names: give them with --labels, or indices as labels"
        )
    raise UnknownNameError.of("label of a photo", str(unknown[0]), labels, "Class names come from --labels")


def read_pictures(
    photos: Sequence[Photo], truth: Sequence[int], spec: InputSpec, own: Preprocess | None = None, every: bool = True
) -> Pictures:
    """Decode photos and bring them to the model's size; what cannot be read is skipped.

    Args:
        photos: the files.
        truth: their classes.
        spec: the model's input; where its size is free, pictures up to 512 pixels that have one size stay as they
            are, all others become 224 x 224.
        own: a preprocessing that is settled: its way of resizing is the only one, called ``"own"``.
        every: whether to resize in every way, or the first only.

    Raises:
        ImageError: none can be read.
    """
    size = None if own is not None else _size(photos, spec)
    ways = {name: replace(Preprocess(), **fit, size=size) for name, fit in FITS.items()}
    chosen = {"own": own} if own is not None else ways if every else dict([next(iter(ways.items()))])
    fits: dict[str, list[Pixels]] = {name: [] for name in chosen}
    kept, skipped = list[int](), list[str]()
    for k, photo in enumerate(photos):
        try:
            picture = _shrunk(read_image(photo.path), spec)
        except ImageError as error:
            skipped.append(str(error))
            continue
        kept.append(k)
        for name, way in chosen.items():
            fits[name].append(_fitted(picture, way, spec))
    if not kept:
        raise ImageError(f"none of the {len(photos)} pictures can be read: {skipped[0]}")
    indices = np.asarray([truth[k] for k in kept], np.int64)
    return Pictures(tuple(photos[k].path for k in kept), indices, _different(fits), size, tuple(skipped))


def _shrunk(picture: Pixels, spec: InputSpec) -> Pixels:
    """A picture for a model of one channel needs but one."""
    if spec.channels != 1:
        return picture
    grey, _ = Preprocess(color="GRAY").apply(picture, _bytes(replace(spec, height=None, width=None)))
    return np.asarray(grey[0], np.uint8)


def _fitted(picture: Pixels, way: Preprocess, spec: InputSpec) -> Pixels:
    plain = Preprocess(fit=way.fit, crop_ratio=way.crop_ratio, interpolation=way.interpolation,
                       antialias=way.antialias, fill=way.fill, align=way.align, size=way.size)  # fmt: skip
    return np.asarray(plain.apply(picture, _bytes(spec))[0][0], np.uint8)


def _bytes(spec: InputSpec) -> InputSpec:
    return replace(spec, layout="NHWC", dtype=np.uint8)


def _size(photos: Sequence[Photo], spec: InputSpec) -> tuple[int, int] | None:
    if None not in (spec.height, spec.width):
        return None
    sizes = set()
    for photo in photos:
        with suppress(ImageError):
            height, width, _ = read_image(photo.path).shape
            sizes.add((height, width))
    if len(sizes) == 1 and max(max(s) for s in sizes) <= _OWN_SIZE and (spec.height, spec.width) == (None, None):
        return sizes.pop()
    return spec.height or _USUAL[0], spec.width or _USUAL[1]


def _different(fits: dict[str, list[Pixels]]) -> dict[str, list[Pixels]]:
    kept: dict[str, list[Pixels]] = {}
    for name, pictures in fits.items():
        if not any(all(map(np.array_equal, pictures, other)) for other in kept.values()):
            kept[name] = pictures
    return kept
