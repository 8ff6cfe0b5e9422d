"""Frames in, explained frames out: what is shown of a video or a camera, one frame at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from onnxcam.core.caption import captioned
from onnxcam.errors import OnnxcamError
from onnxcam.explainer import Explainer
from onnxcam.explanation import Explanation
from onnxcam.video import Frame, Pixels, Source

Clock = Callable[[], float]
_WINDOW = 30  # frames over which the rate is taken


@dataclass(frozen=True)
class Shown:
    """A frame as it is shown.

    Attributes:
        frame: what came from the source.
        picture: uint8 (H + h, W, 3) RGB: the frame under its map, below a bar with class, score and frame rate.
        explanation: of this frame, or of the last one that was explained; None where that failed.
        fresh: whether it is of this frame.
        target: what was asked for, as the caller wrote it; None for the top class.
        rate: frames per second, lately; 0 until it is known.
        trouble: why this frame could not be explained; "" where nothing is wrong.
    """

    frame: Frame
    picture: Pixels
    explanation: Explanation | None
    fresh: bool
    target: str | None
    rate: float
    trouble: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The answer, as JSON values."""
        place = {"frame": self.frame.index, "time": round(self.frame.time, 6)}
        e = self.explanation
        if e is None:
            return {**place, "error": self.trouble}
        answer = {n: getattr(e, n) for n in ("class_index", "label", "score", "probability")}
        return {**place, **answer, "blank": e.is_blank}


class Live:
    """Explains frame after frame.

    Args:
        explainer: explains each frame as :meth:`Explainer.explain` does.
        target: what is explained; None for each frame's top class. :meth:`aim` changes it in mid-run.
        every: explain each so many-th frame; those between are shown with the last map.
        style: as :meth:`Explanation.overlay` takes it.
        clock: seconds, of any zero.

    Attributes:
        target: what the next frame is explained for.
        explained, failed: frames so far.

    Raises:
        OptionError, UnknownNameError: no such target.
    """

    def __init__(
        self,
        explainer: Explainer,
        target: str | None = None,
        every: int = 1,
        style: Mapping[str, Any] | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.explainer, self.every, self.style, self._clock = explainer, every, dict(style or {}), clock
        self.explained = self.failed = 0
        self.target = target
        self.aim(target)

    def aim(self, target: str | None) -> None:
        """Explain something else from the next frame on; any thread may call it.

        Raises:
            OptionError, UnknownNameError: no such target; the one before stays.
        """
        self.explainer.check_target(target)
        self.target = target

    def run(self, frames: Iterable[Frame]) -> Iterator[Shown]:
        """Each frame, shown.

        What goes wrong with one frame is shown in its bar, and the next one is tried.

        Raises:
            OnnxcamError: not even the first frame could be explained, though its target does not depend on what is
                in it: no other frame could.
        """
        times: deque[float] = deque(maxlen=_WINDOW)
        last: Shown | None = None
        for number, frame in enumerate(frames):
            target, due = self.target, number % self.every == 0
            if due or last is None or last.target != target or last.frame.pixels.shape != frame.pixels.shape:
                e, trouble = self._explained(frame, target)
                fresh = True
            else:
                e, trouble, fresh = last.explanation, last.trouble, False
            rate = _rate(times)
            last = Shown(frame, self._drawn(frame, e, trouble, rate), e, fresh, target, rate, trouble)
            yield last
            times.append(self._clock())

    def _explained(self, frame: Frame, target: str | None) -> tuple[Explanation | None, str]:
        try:
            found = self.explainer.explain(frame.pixels, target)
        except OnnxcamError as error:
            if not self.explained and not self.explainer.check_target(target).looks:
                raise
            self.failed += 1
            return None, str(error)
        self.explained += 1
        return found, ""

    def _drawn(self, frame: Frame, e: Explanation | None, trouble: str, rate: float) -> Pixels:
        speed = f"{rate:.1f} fps" if rate else ""
        if e is None:
            return captioned(frame.pixels, trouble, speed)
        picture = replace(e, image=frame.pixels).overlay(**self.style)
        return captioned(picture, f"{e.title}, blank map" if e.is_blank else e.title, speed)


def _rate(times: deque[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0


@dataclass(frozen=True)
class Rounds:
    """The frames of a source in the order and at the pace in which they are to be shown; iterate over it.

    Attributes:
        source: what they come from.
        watched: somebody looks on: a file comes at its own pace.
        recorded: it is written to a file, too; a file that is only watched goes round and round, so that there is time
            to choose a class.
        most: frames, at most.
    """

    source: Source
    watched: bool = False
    recorded: bool = False
    most: int | None = None

    @property
    def endless(self) -> bool:
        """Whether only somebody who stops it, or ``most``, ends it; a camera may."""
        return self.source.live or (self.watched and not self.recorded)

    @property
    def total(self) -> int | None:
        """How many frames there will be, if that is known."""
        counts = [n for n in (None if self.endless else self.source.count, self.most) if n is not None]
        return min(counts, default=None)

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._all(), self.most)

    def _all(self) -> Iterator[Frame]:
        slowly = self.watched and not self.source.live
        while True:
            yield from paced(self.source) if slowly else self.source
            if self.source.live or not (self.endless and self.source.decoded):
                return


def paced(
    frames: Iterable[Frame], clock: Clock = time.perf_counter, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Frame]:
    """The frames of a file no sooner than they are due, for someone who watches."""
    start: float | None = None
    for frame in frames:
        start = clock() - frame.time if start is None else start
        if (early := start + frame.time - clock()) > 0:
            sleep(early)
        yield frame
