"""Frames of a file, a camera or an address."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.errors import ImageError, OptionError, reason

Pixels = npt.NDArray[np.uint8]

_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "rtp", "srt", "tcp")
_TRIES = 100  # reads in a row that fail; one damaged packet fails one read, behind it the file may go on
_PATIENCE = 10.0  # seconds without a frame, or to connect
_SECRET = re.compile(r"(?i)((?:pass|pwd|psw|token|secret|auth|key)[a-z]*=)[^/&#]*")
MOST_FPS = 1000.0
USUAL_FPS = 25.0  # of what does not tell its own


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: its place among the source's frames, from 0; of a camera, with those that were dropped.
        time: seconds since the first one.
        pixels: uint8 (H, W, 3), RGB, turned upright where the file says so.
    """

    index: int
    time: float
    pixels: Pixels


@dataclass
class Source:
    """What frames come from: iterate over it. A file gives every frame, and may be iterated again.

    A camera or a stream gives the newest frame each time; those that came meanwhile are dropped, so that what is seen
    is never older than one frame.

    Attributes:
        name: as it was given, without a password.
        live: a camera or a stream.
        fps: frames per second, if it tells.
        count: frames that the file promises, if it tells; some formats only tell it roughly.
        decoded: frames that came, so far or in the last round.
        gaps: whether frames in the middle could not be decoded.
    """

    name: str
    live: bool
    fps: float | None
    count: int | None
    decoded: int = 0
    gaps: bool = False
    _given: str | int = field(default="", repr=False)
    _opened: Any = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Frame]:
        capture, self._opened = self._opened or opened(self._given), None
        if capture is None:
            raise ImageError(f"cannot open {self.name} once more")
        self.decoded, self.gaps = 0, False
        return self._newest(capture) if self.live else self._every(capture)

    @property
    def trouble(self) -> str:
        """What is wrong with a file that was iterated to its end; "" if nothing is."""
        promised = self.count or 0
        if self.live or not (self.gaps or self.decoded + 1 < 0.99 * promised):
            return ""
        whole = f" of {promised}" if self.decoded < promised else ""
        return f"{self.name} is damaged or cut off: {self.decoded}{whole} frames could be decoded"

    def close(self) -> None:
        """Let go of a source that is not iterated."""
        if self._opened is not None:
            self._opened.release()
            self._opened = None

    def _every(self, capture: Any) -> Iterator[Frame]:
        before = 0.0
        with closing(self._pictures(capture)) as pictures:
            for index, bgr in enumerate(pictures):
                place = told(capture, "CAP_PROP_POS_MSEC")
                before = max(before, index / (self.fps or USUAL_FPS) if place is None else place / 1000)
                yield Frame(index, before, _rgb(bgr))

    def _newest(self, capture: Any) -> Iterator[Frame]:
        with closing(_Newest(self._pictures(capture))) as reader:
            yield from reader.frames()

    def _pictures(self, capture: Any) -> Generator[Pixels, None, None]:
        failed, since = 0, time.monotonic()
        try:
            while failed < _TRIES and time.monotonic() - since < _PATIENCE:
                there, bgr = capture.read()
                if not there:
                    failed += 1
                    continue
                self.decoded, self.gaps = self.decoded + 1, self.gaps or failed > 0
                yield bgr
                failed, since = 0, time.monotonic()
        finally:
            capture.release()


class _Newest:
    """Reads in a thread of its own and keeps one frame: the newest."""

    def __init__(self, pictures: Generator[Pixels, None, None]) -> None:
        self._news = threading.Condition()
        self._frame: tuple[int, float, Pixels] | None = None
        self._over = False
        self._thread = threading.Thread(target=self._read, args=(pictures,), daemon=True)
        self._thread.start()

    def _read(self, pictures: Generator[Pixels, None, None]) -> None:
        start: float | None = None
        try:
            for index, bgr in enumerate(pictures):
                start = time.monotonic() if start is None else start
                with self._news:
                    if self._over:
                        return
                    self._frame = index, time.monotonic() - start, bgr
                    self._news.notify()
        finally:
            with self._news:
                self._over = True
                self._news.notify()
            pictures.close()  # here: a capture is released by the thread that reads it

    def frames(self) -> Iterator[Frame]:
        """What is the newest, whenever it is asked for, until there is no more."""
        while True:
            with self._news:
                while self._frame is None and not self._over:
                    self._news.wait(0.5)  # where it cannot be interrupted, for no longer
                if self._frame is None:
                    return
                (index, at, bgr), self._frame = self._frame, None
            yield Frame(index, at, _rgb(bgr))

    def close(self) -> None:
        """Stop reading; a read that hangs is left behind."""
        with self._news:
            self._over = True
        self._thread.join(2)


def open_source(given: str) -> Source:
    """A video file, a camera by its number, or an address (rtsp://, http://, ...).

    Raises:
        ImageError: there is no such file or camera, nobody answers, or it is no video that OpenCV decodes.
        OptionError: an address of an unknown kind.
    """
    name = _unsigned(given)
    camera, scheme = given.isdecimal() and given.isascii(), _scheme(given)
    if not camera and not scheme:
        _check_file(given)
    what: str | int = int(given) if camera else given
    capture = opened(what)
    if capture is None:
        raise ImageError(_unopened(given, name, camera, scheme))
    fps, count = told(capture, "CAP_PROP_FPS"), told(capture, "CAP_PROP_FRAME_COUNT")
    device = not scheme and not camera and Path(given).is_char_device()
    return Source(
        name=f"camera {given}" if camera else name,
        live=camera or device or (bool(scheme) and count is None),
        fps=fps if fps is not None and fps <= MOST_FPS else None,
        count=None if count is None else int(count),
        _given=what,
        _opened=capture,
    )


def _unsigned(given: str) -> str:
    """An address without what may be a password: all before an @, as not everybody escapes the signs of a password;
    the query, and the like of it in the path, where some cameras want it.
    """
    scheme, mark, rest = given.partition("://")
    if not mark:
        return given
    address, asked, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}://" + _SECRET.sub(r"\1...", address) + ("?..." if asked else "")


def _scheme(given: str) -> str:
    scheme, mark, _ = given.partition("://")
    if not mark:
        return ""
    if scheme.lower() not in _SCHEMES:
        raise OptionError(
            f"{scheme}:// is no address of a video: give {', '.join(s + '://' for s in _SCHEMES[:4])}..., "
            "the number of a camera, or a file"
        )
    return scheme


def _check_file(given: str) -> None:
    where = Path(given)
    try:
        if where.is_dir():
            raise ImageError(f"{given!r} is a folder: give a video file, or the number of a camera")
        if not where.exists():
            raise ImageError(f"{given!r}: there is no such file; give a video file, or the number of a camera")
        with where.open("rb"):
            os.fsencode(given).decode()  # OpenCV ends the process where a name is not UTF-8
    except UnicodeError:
        raise ImageError(f"{given!r}: OpenCV opens no file whose name is not UTF-8; rename it, or link to it") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {given!r}: {reason(error)}") from error


def _unopened(given: str, name: str, camera: bool, scheme: str) -> str:
    if camera:
        there = sorted(p.name.removeprefix("video") for p in Path("/dev").glob("video*"))
        return (
            f"camera {given} cannot be opened: it is not there, in use, or not yours to read; "
            f"cameras of this machine: {', '.join(there) or 'none found'}. Give another number, or a video file"
        )
    if scheme:
        return f"{name} cannot be opened: nobody answers, access is refused, or it is no video"
    return (
        f"{given!r} cannot be decoded: it is no video, is damaged, was cut off before its index was written, or its "
        "codec is not in this build of OpenCV; convert it, for instance to .mp4 with H.264"
    )


# ---- OpenCV ----


def opened(what: str | int) -> Any:
    """OpenCV's reader, or None where it cannot open it."""
    cv2 = opencv()
    wait = int(_PATIENCE * 1000)
    hurry = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
    try:
        address = isinstance(what, str) and "://" in what
        capture = cv2.VideoCapture(what, cv2.CAP_FFMPEG, hurry) if address else cv2.VideoCapture(what)
    except (cv2.error, OverflowError, SystemError, TypeError):
        return None
    text = b"ansi"  # FFmpeg types a text file on a screen and calls that a video
    if capture.isOpened() and int(capture.get(cv2.CAP_PROP_FOURCC)) != int.from_bytes(text, "little"):
        return capture
    capture.release()
    return None


def opencv() -> Any:
    """The module cv2, silent."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # read at import; what is wrong is raised instead
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
    import cv2

    return cv2


def told(capture: Any, key: str) -> float | None:
    """What a file tells of itself, where it is a number above 0."""
    value = float(capture.get(getattr(opencv(), key)))
    return value if math.isfinite(value) and 0 < value < 1e12 else None


def _rgb(bgr: Pixels) -> Pixels:
    cv2 = opencv()
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
