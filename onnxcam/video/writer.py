"""Frames to a file."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from onnxcam.errors import OptionError, OutputError, reason
from onnxcam.quiet import silent
from onnxcam.signals import heeding
from onnxcam.video.source import MOST_FPS, USUAL_FPS, Pixels, opencv, opened, told

ENCODERS = {  # the first one that the build of OpenCV has: H.264 comes with few of them, MPEG-4 with all
    ".mp4": ("avc1", "mp4v"),
    ".mov": ("avc1", "mp4v"),
    ".mkv": ("avc1", "mp4v"),
    ".avi": ("MJPG",),
    ".webm": ("VP80",),
}


def check_output(path: Path, source: str | None = None) -> None:
    """Refuse, before anything is done, a name that a video cannot be written to.

    Raises:
        OptionError: an unknown suffix, or the source itself.
        OutputError: a folder, or in a folder that is not there or cannot be written.
    """
    if path.suffix.lower() not in ENCODERS:
        raise OptionError(f"cannot write {str(path)!r}: the name must end in {', '.join(ENCODERS)}")
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: this is a folder; give the video a name in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write to the folder {str(path.parent)!r}: permission denied; choose another")
    with suppress(OSError, ValueError):
        if source is not None and path.samefile(source):
            raise OptionError(f"{str(path)!r} is the source itself; give the output another name")


class Writer:
    """A video file that appears at its name whole or not at all.

    Frames go to a temporary file beside it. Left as a context, also by Ctrl-C or an error, the file is completed with
    what it has, and renamed; signals wait until that is done. Where width or height is odd, one row or column is
    repeated: most codecs want even ones.

    Args:
        path: ends in one of `ENCODERS`.
        fps: frames per second.

    Attributes:
        frames: that were written.
        kept: whether the file has its name.

    Raises:
        OptionError, OutputError: as `check_output`; a rate that no video has.
    """

    def __init__(self, path: str | Path, fps: float = USUAL_FPS) -> None:
        path = Path(path)
        check_output(path)
        if not 0 < fps <= MOST_FPS:
            raise OptionError(f"fps={fps:g}: a video has more than 0 and at most {MOST_FPS:g} frames per second")
        self.path, self.fps, self.frames, self.kept = path, fps, 0, False
        self.size = (0, 0)
        self._part = path.with_name(f".{secrets.token_hex(6)}.part{path.suffix.lower()}")
        self._encoder: Any = None

    def write_until(self, seconds: float, picture: Pixels) -> None:
        """Append a picture as often as it takes until this time is filled: a camera's then plays at true speed.

        Raises:
            OutputError: as `write`.
        """
        while self.frames <= int(seconds * self.fps):
            self.write(picture)

    def write(self, picture: Pixels) -> None:
        """Append uint8 (H, W, 3) RGB; brought to the size of the first one.

        Raises:
            OutputError: no encoder, or the disk takes no more.
        """
        cv2, even = opencv(), _even(picture)
        height, width = even.shape[:2]
        if self._encoder is None:
            self._encoder, self.size = self._begun(width, height), (height, width)
        if self.size != (height, width):
            even = cv2.resize(even, self.size[::-1], interpolation=cv2.INTER_AREA)
        if self._encoder.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR)) is False:
            raise OutputError(f"{self._failed} after {self.frames} frames: the disk may be full")
        self.frames += 1

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            try:
                if self._encoder is not None:
                    self._encoder.release()
                    self._keep()
            except OutputError:
                if not isinstance(error, OutputError):  # that one tells more
                    raise
            finally:
                with suppress(OSError):
                    self._part.unlink()

    @property
    def _failed(self) -> str:
        return f"cannot write {str(self.path)!r}"

    def _begun(self, width: int, height: int) -> Any:
        cv2, suffix = opencv(), self._part.suffix
        try:
            name = os.fsencode(self._part).decode()  # OpenCV ends the process where a name is not UTF-8
        except UnicodeError:
            raise OutputError(f"{self._failed}: OpenCV needs a folder whose name is UTF-8") from None
        for codec in ENCODERS[suffix]:
            with silent():
                encoder = cv2.VideoWriter(
                    name, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), self.fps, (width, height)
                )
            if encoder.isOpened():
                return encoder
        others = ", ".join(s for s in ENCODERS if s != suffix)
        raise OutputError(
            f"{self._failed}: this build of OpenCV has no encoder for {suffix} of {width} x {height} pixels at "
            f"{self.fps:g} frames per second; try {others}"
        )

    def _keep(self) -> None:
        """Rename what is complete: an encoder says nothing where the disk is full when it writes the index."""
        written = opened(str(self._part))
        count = None if written is None else told(written, "CAP_PROP_FRAME_COUNT")
        if written is not None:
            written.release()
        if written is None or (count is not None and count + 1 < 0.99 * self.frames):
            raise OutputError(f"{self._failed}: the file is incomplete; the disk may be full")
        if count == self.frames + 1:  # interrupted between a frame and its count
            self.frames += 1
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise OutputError(f"{self._failed}: {reason(error)}. Give another folder or name") from error
        self.kept = True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C, and what else asks a process to end, waits for the end of this."""
    late: list[int] = []
    with heeding(lambda number, frame: late.append(number)):
        yield
    for number in late[:1]:
        signal.raise_signal(number)


def _even(picture: Pixels) -> Pixels:
    odd = picture.shape[0] % 2, picture.shape[1] % 2
    return np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else picture
