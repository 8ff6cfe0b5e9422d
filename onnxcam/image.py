"""Files to tensors and heatmaps back to pictures: decode, orient, resize, crop, normalise, lay out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .core.bands import INTERPOLATIONS
from .core.headers import UnreadableError, read_header
from .core.jpeg import looks_filled, with_more
from .core.localize import Placement
from .core.maps import split
from .errors import ImageError, OptionError, OutputError, UnknownNameError, reason
from .files import write_whole

Pixels = NDArray[np.uint8]
PathLike = str | os.PathLike[str]

MAX_PIXELS = 178_956_970
"""Pictures larger than this are refused; the same limit as Pillow's."""


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV works in the thread that calls it: where pictures are worked on side by side, more threads only wait."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# ---- reading and writing files ----


def _decode(data: bytes) -> Pixels:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # read at import; what is wrong is raised instead
    import cv2

    try:
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise UnreadableError(f"it cannot be decoded ({str(error).splitlines()[0]})") from error
    if rgb is None or rgb.dtype not in (np.uint8, np.uint16):
        raise UnreadableError("it is damaged, or of a kind that OpenCV does not decode: convert it to PNG or JPEG")
    return np.asarray(rgb if rgb.dtype == np.uint8 else rgb >> 8, np.uint8)


def _decode_checked(data: bytes, max_pixels: int) -> Pixels:
    if not data:
        raise UnreadableError("the file is empty")
    name, width, height = read_header(data)
    if width < 1 or height < 1:
        raise UnreadableError(f"{name} of {width} x {height} pixels: there is nothing to see")
    if width * height > max_pixels:
        raise UnreadableError(
            f"{name} of {width} x {height} pixels, more than the limit of {max_pixels:,}: "
            "give a higher max_pixels (--max-pixels) if you trust the file"
        )
    try:
        rgb = _decode(data)
        if name == "JPEG" and looks_filled(rgb) and _lacks_data(data, rgb):
            raise UnreadableError("a part of its data is missing. Copy or download it again")
    except UnreadableError as why:
        raise UnreadableError(f"{name} of {width} x {height} pixels: {why}") from why
    return rgb


def _lacks_data(jpeg: bytes, rgb: Pixels) -> bool:
    """Whether the decoder filled a part: then more data would make another picture of it, or none."""
    try:
        return not np.array_equal(_decode(with_more(jpeg)), rgb)
    except UnreadableError:
        return True


def read_image(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a picture as the usual pipelines do (Pillow's ``convert("RGB")``, with EXIF orientation applied).

    JPEG, PNG, GIF (its first frame), BMP, TIFF (its first page), WebP and binary PNM, told by content, not by
    name. Grey is repeated in three channels. Transparency is dropped, not laid over white: what the model sees
    is the stored colour, as with Pillow, OpenCV and TensorFlow (TIFF: laid over black by libtiff). CMYK is
    converted without a profile, within 2 grey levels of Pillow. Of 16 bits the upper 8 are kept. Files that are
    cut off are refused, not filled up with grey. The size is read from the header before anything is decoded.

    Args:
        path: A file.
        max_pixels: The largest width x height that is decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: No such file, no picture, empty, damaged, cut off, or too large.
    """
    return decode_image(read_file(path), path, max_pixels=max_pixels)


def read_file(path: PathLike) -> bytes:
    """The bytes of a picture's file.

    Raises:
        ImageError: No such file, no ordinary one (a folder, a pipe), or it cannot be opened.
    """
    where = Path(path)
    try:
        if not where.is_file():
            with suppress(FileNotFoundError, NotADirectoryError):
                where.stat()  # it may be a link to itself, or in a folder that may not be entered
                folder = f"a folder, not a picture; name the pictures in it, such as {where / '*.jpg'}"
                raise UnreadableError(folder if where.is_dir() else "no ordinary file, not a picture")
            raise UnreadableError("there is no such file")
        return where.read_bytes()
    except (UnreadableError, OSError, ValueError) as why:
        raise _unread(path, why) from why


def decode_image(data: bytes, name: PathLike, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture in a file's bytes, as `read_image` reads it; ``name`` is what messages call it.

    Raises:
        ImageError: As `read_image`.
    """
    try:
        return _decode_checked(data, max_pixels)
    except (UnreadableError, OSError, ValueError) as why:
        raise _unread(name, why) from why


def _unread(name: PathLike, why: Exception) -> ImageError:
    return ImageError(f"cannot read {os.fspath(name)!r}: {reason(why)}")


def as_image(source: PathLike | NDArray[Any]) -> Pixels:
    """A picture, from a path (see `read_image`) or from an array.

    Args:
        source: A path, or uint8 (H, W, 3) RGB, (H, W, 4) RGBA (alpha is dropped), (H, W) or (H, W, 1) grey.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: Anything else.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if not isinstance(source, np.ndarray):
        raise ImageError(f"a picture is a path or a uint8 array, not {type(source).__name__}")
    if source.dtype != np.uint8:
        raise ImageError(
            f"a picture has dtype uint8 (0..255), not {source.dtype}: convert it, or use explain_tensor for an "
            "input that is already preprocessed"
        )
    grey = source[..., None] if source.ndim == 2 else source
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise ImageError(f"a picture has shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), not {source.shape}")
    return np.ascontiguousarray(np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[..., :3])


_ENCODERS = {".png": (), ".jpg": (1,), ".jpeg": (1,), ".webp": (64,)}  # IMWRITE_..._QUALITY, where there is one


def encode_image(rgb: Pixels, suffix: str = ".png", quality: int = 95) -> bytes:
    """The bytes of a picture file: uint8 (H, W, 3) RGB as PNG, JPEG or WebP, by suffix; PNG heeds no ``quality``."""
    import cv2

    settings = [value for setting in _ENCODERS[suffix] for value in (setting, quality)]
    ok, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    if not ok:
        raise ValueError(f"OpenCV cannot encode {rgb.shape[1]} x {rgb.shape[0]} pixels as {suffix}")
    return bytes(data)


def encode_grey(levels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """The bytes of a grey PNG file: (H, W), of 8 or 16 bits."""
    import cv2

    return bytes(cv2.imencode(".png", levels)[1])


def save_image(path: PathLike, rgb: NDArray[Any]) -> None:
    """Write a picture, whole or not at all: a temporary file in the same folder, then a rename.

    Args:
        path: Ends in .png, .jpg, .jpeg or .webp (JPEG and WebP: quality 95).
        rgb: uint8 (H, W, 3), RGB, or what else `as_image` takes.

    Raises:
        OptionError: Another suffix.
        ImageError: No picture.
        OutputError: It cannot be written there.
    """
    where = Path(path)
    if where.suffix.lower() not in _ENCODERS:
        raise OptionError(f"cannot save {str(where)!r}: the name must end in {', '.join(_ENCODERS)}")
    picture = as_image(rgb)
    try:
        data = encode_image(picture, where.suffix.lower())
    except Exception as error:
        raise OutputError(f"cannot write {str(where)!r}: {error}. Give another format") from error
    write_whole(where, data)


# ---- preprocessing ----


@dataclass(frozen=True)
class InputSpec:
    """The image input of a model.

    Attributes:
        layout: ``"NCHW"`` or ``"NHWC"``.
        channels: 1 or 3.
        height, width: Pixels; None where the model takes any.
        dtype: The element type.
    """

    layout: str
    channels: int
    height: int | None
    width: int | None
    dtype: DTypeLike = np.float32


def _choice(kind: str, known: Sequence[str]) -> Callable[[Any], str]:
    folded = {name.lower(): name for name in known}

    def read(given: Any) -> str:
        if str(given).lower() not in folded:
            raise UnknownNameError.of(kind, str(given), known)
        return folded[str(given).lower()]

    return read


def _number(given: Any, low: float = -math.inf, high: float = math.inf) -> float:
    value = float(Fraction(given) if isinstance(given, str) else given)
    if isinstance(given, bool) or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(given)
    return value


def _factor(given: Any) -> float:
    value = _number(given)
    if value == 0:  # every picture would be the same
        raise ValueError(given)
    return value


def _numbers(given: Any, low: float = -math.inf) -> tuple[float, ...]:
    parts = given.split("/") if isinstance(given, str) else np.atleast_1d(given).tolist()
    if len(parts) not in (1, 3):
        raise ValueError(given)
    return tuple(_number(part, low) for part in parts)


def _size(given: Any) -> tuple[int, int] | None:
    if given is None or given == "model":
        return None
    parts = given.lower().split("x") if isinstance(given, str) else np.atleast_1d(given).tolist()
    height, width = map(int, parts * 2 if len(parts) == 1 else parts)
    if min(height, width) < 1 or not all(type(part) in (int, str) for part in parts):
        raise ValueError(given)
    return height, width


_SETTINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "color": (_choice("color", ("RGB", "BGR", "GRAY")), ""),
    "scale": (_factor, "a number other than 0, or a fraction such as 1/255"),
    "mean": (_numbers, "one number, or three such as 104/117/123"),
    "std": (lambda given: _numbers(given, 1e-9), "one number above 0, or three such as 58.4/57.1/57.4"),
    "fit": (_choice("fit", ("stretch", "crop", "squash", "letterbox")), ""),
    "crop_ratio": (lambda given: _number(given, 0.01, 1), "a number from 0.01 to 1"),
    "interpolation": (_choice("interpolation", INTERPOLATIONS), ""),
    "antialias": (lambda given: {"true": True, "false": False}[str(given).lower()], "true or false"),
    "fill": (lambda given: round(_number(given, 0, 255)), "a grey level from 0 to 255"),
    "align": (_choice("align", ("center", "topleft")), ""),
    "size": (_size, "HEIGHTxWIDTH such as 224x224, or model"),
}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the model's input: ``(x * scale - mean) / std``, x from 0 to 255.

    One record with one schema: on the command line (`parse`), in sidecar files and metadata (`to_dict`).

    Attributes:
        name: The preset that it comes from.
        color: The order of the model's channels, ``"RGB"`` or ``"BGR"``, or ``"GRAY"``: Rec. 601 luma, repeated
            for a model with three channels. A model with one channel always gets grey.
        scale: Factor for grey levels.
        mean, std: One for all channels or one per channel, in the model's channel order.
        fit: ``"stretch"``: the whole picture, aspect ratio lost. ``"crop"``: resize to cover
            ``size / crop_ratio``, keep the centre. ``"squash"``: stretch to ``size / crop_ratio``, keep the centre.
            ``"letterbox"``: the whole picture, padded with ``fill``.
        crop_ratio: Of crop and squash; 0.875 is ImageNet's 224 of 256.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: Widen the kernel when shrinking, as Pillow and torchvision do; OpenCV does not.
        fill, align: The letterbox: grey level of its margin; ``"center"`` or ``"topleft"`` (YOLOX).
        size: (height, width), or None: the model's own, or else the picture's.

    Raises:
        OptionError, UnknownNameError: A setting that does not exist or is out of range.
    """

    name: str = "raw"
    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: str = "stretch"
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"
    antialias: bool = True
    fill: int = 114
    align: str = "center"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for key, (read, possible) in _SETTINGS.items():
            given = getattr(self, key)
            try:
                object.__setattr__(self, key, read(given))
            except (ValueError, TypeError, KeyError, ArithmeticError):
                raise OptionError(f"preprocess {key}={given!r}: it must be {possible}") from None

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """A preset, or one with changes: ``caffe``, ``caffe,mean=104/117/123,fit=letterbox,size=224x224``.

        Presets: ``imagenet`` and ``caffe`` crop, as their published evaluations do; ``tf``, ``unit`` and ``raw``
        stretch, as Keras' ``load_img(target_size=...)`` does, so that no part of the picture is lost.
        """
        preset, *changes = (part.strip() for part in text.split(","))
        if preset.lower() not in PRESETS:
            raise UnknownNameError.of("preprocess preset", preset, PRESETS, "Settings follow it: raw,scale=1/255")
        pairs = dict(change.partition("=")[::2] for change in changes)
        return PRESETS[preset.lower()]._changed({key.strip(): value.strip() for key, value in pairs.items()})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocess:
        """The record that `to_dict` wrote. What is left out is that of the preset which is its ``name``.

        Without a preset ``scale``, ``mean`` and ``std`` must be there; the rest is as for ``raw``.

        Raises:
            OptionError, UnknownNameError: A setting that is missing, does not exist or is out of range.
        """
        name = settings.get("name", "own")
        if not isinstance(name, str):
            raise OptionError(f"preprocess name={name!r}: it must be a text, such as {', '.join(PRESETS)}")
        made = PRESETS.get(name, cls(name))._changed({k: v for k, v in settings.items() if k != "name"})
        if name not in PRESETS and (missing := [k for k in ("scale", "mean", "std") if k not in settings]):
            what = f"preprocess name={name!r} is no preset" if "name" in settings else "preprocess has no name"
            raise OptionError(
                f"{what}, and {' and '.join(missing)} not given: what becomes of grey levels is open. "
                f"Say name = one of {', '.join(PRESETS)}, or all of scale, mean and std"
            )
        return made

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def _changed(self, changes: Mapping[str, Any]) -> Preprocess:
        for key in changes:
            if key not in _SETTINGS:
                raise UnknownNameError.of("preprocess setting", key, _SETTINGS)
        return replace(self, **changes)

    def apply(self, image: PathLike | NDArray[Any], spec: InputSpec) -> tuple[NDArray[Any], Placement]:
        """Make the model's input.

        Args:
            image: uint8 (H0, W0, 3), RGB, or what else `as_image` takes.
            spec: The model's input.

        Returns:
            (1, C, H, W) or (1, H, W, C) in the model's dtype, and where the picture lies in it.

        Raises:
            ImageError: No picture.
            OptionError: Settings that do not fit the model.
        """
        self._check(spec)
        picture = as_image(image)
        colours = _grey(picture) if self.color == "GRAY" or spec.channels == 1 else picture
        placement = self.place((picture.shape[0], picture.shape[1]), spec)
        pixels = placement.to_input(colours, self.interpolation, self.antialias, self.fill)
        return self._tensor(pixels, spec), placement

    def _tensor(self, pixels: Pixels, spec: InputSpec) -> NDArray[Any]:
        """By a table of what becomes of each grey level: a look-up costs less than the arithmetic."""
        import cv2

        levels = self._levels(np.arange(256)[:, None].repeat(spec.channels, axis=1))
        table = (levels if np.dtype(spec.dtype).kind == "f" else np.rint(levels)).T.astype(spec.dtype, order="C")
        planes = split(pixels)[:: -1 if self.color == "BGR" else 1]
        tensor = np.empty((1, spec.channels, *pixels.shape[:2]), spec.dtype)
        for c in range(spec.channels):
            tensor[0, c] = cv2.LUT(planes[c % len(planes)], table[c])
        return tensor if spec.layout == "NCHW" else np.ascontiguousarray(np.moveaxis(tensor, 1, 3))

    def place(self, source: tuple[int, int], spec: InputSpec) -> Placement:
        """Where a picture of (height, width) ``source`` lies in the model's input."""
        size = self._target(source, spec)
        if self.fit == "stretch" or (not self.size and None in (spec.height, spec.width)):
            return Placement.stretch(source, size)
        if self.fit == "letterbox":
            return Placement.letterbox(source, size, centred=self.align == "center")
        return Placement.crop(source, size, self.crop_ratio, keep_aspect=self.fit == "crop")

    def _target(self, source: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
        fixed = spec.height, spec.width
        if self.size:
            if any(own not in (None, asked) for own, asked in zip(fixed, self.size, strict=True)):
                raise OptionError(f"preprocess size={self.size}: the model takes (height, width) = {fixed} only")
            return self.size
        height = spec.height or (source[0] if not spec.width else round(spec.width * source[0] / source[1]))
        width = spec.width or (source[1] if not spec.height else round(spec.height * source[1] / source[0]))
        return max(height, 1), max(width, 1)

    def _levels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        scale, mean, std = (np.asarray(v, np.float32) for v in (self.scale, self.mean, self.std))
        return np.asarray((pixels.astype(np.float32) * scale - mean) / std)

    def _check(self, spec: InputSpec) -> None:
        if spec.channels not in (1, 3) or spec.layout not in ("NCHW", "NHWC"):
            raise OptionError(
                f"the model takes {spec.channels} channels as {spec.layout}: pictures fill 1 or 3, NCHW or NHWC; "
                "preprocess it yourself and use explain_tensor"
            )
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) > spec.channels:
                raise OptionError(f"preprocess {key}={values}: the model has one channel, give one number")
        if np.dtype(spec.dtype).kind != "f":
            self._check_integer(np.dtype(spec.dtype))

    def _check_integer(self, dtype: np.dtype[Any]) -> None:
        if dtype.kind not in "iu":
            raise OptionError(f"the model takes {dtype}: a picture cannot be given as that")
        limits, ends = np.iinfo(dtype), self._levels(np.asarray([[0], [255]]))
        fits = limits.min <= ends.min() and ends.max() <= limits.max
        if not fits or np.any(self.scale / np.asarray(self.std) != 1):
            hint = "raw,mean=128" if dtype == np.int8 else "raw"
            raise OptionError(
                f"the model takes {dtype} and normalises in its graph: preprocess {self.name!r} would give "
                f"{ends.min():g} to {ends.max():g} in other steps than grey levels; use {hint!r}"
            )


def _grey(rgb: Pixels) -> Pixels:
    """Rec. 601 luma in 16-bit fixed point, as Pillow's ``convert("L")``: (H, W, 1)."""
    import cv2

    weights = np.array([[19595, 38470, 7471, 0x8000]], np.float32) / 0x10000  # sums of 24 bits: exact in float32
    return np.asarray(cv2.transform(rgb.astype(np.float32), weights)).astype(np.uint8)[..., None]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = {
    "imagenet": Preprocess("imagenet", scale=1 / 255, mean=_IMAGENET_MEAN, std=_IMAGENET_STD, fit="crop"),
    "tf": Preprocess("tf", scale=1 / 127.5, mean=(1.0,)),
    "caffe": Preprocess("caffe", color="BGR", mean=(103.939, 116.779, 123.68), fit="crop"),
    "raw": Preprocess("raw"),
    "unit": Preprocess("unit", scale=1 / 255),
}
"""The usual preprocessings: torchvision's, and the modes of Keras' ``imagenet_utils``."""
