"""What is missing in a JPEG file, which decoders fill with grey without a word.

ITU-T T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf): annex B tells the segments, annex F and G the scans.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Data bytes 0xff are followed by 0. Beginning with one fixed byte, the search leaps from 0xff to 0xff; what may stand
# before a marker, more bytes 0xff, is not part of it, so that a run of them is passed once.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_NO_RESTART = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_RESTART = re.compile(rb"\xff(?<!\xff\xff)\xff*([\xd0-\xd7])")  # with them, from the first one
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_RESERVED, _RESTARTS = range(0x02, 0xC0), range(0xD0, 0xD8)
_EOI, _SOS, _DRI, _TEM = 0xD9, 0xDA, 0xDD, 0x01
_MOST_SCANS = 500  # each costs as much as the whole picture; 64 coefficients of 4 parts in one scan each are fewer
_GREY = 128  # what samples without data become
_STEP = 4  # of every block of 8 x 8, wherever it begins, four such pixels are looked at
_MORE = bytes(range(1, 129))  # data that make a picture of blocks which have none

_CUT_OFF = "it is cut off: the end of the picture is missing"
_HOLE = "a part of its data is damaged or missing"


class DamagedError(Exception):
    """What is missing."""


@dataclass
class _Walk:
    """What was met on the way through the segments."""

    data: bytes
    frame: int = 0
    size: tuple[int, int] = (0, 0)
    factors: dict[int, tuple[int, int]] = field(default_factory=dict)
    interval: int = 0
    scans: list[tuple[int, int]] = field(default_factory=list)
    finest: dict[int, NDArray[np.int8]] = field(default_factory=dict)
    _expected: int = 0

    def on(self, marker: int, at: int) -> int:
        """Read a segment; where its data end."""
        if self.scans and (marker in _RESERVED or marker in _RESTARTS or len(self.scans) > _MOST_SCANS):
            raise DamagedError(_HOLE)
        length = struct.unpack_from(">H", self.data, at)[0]
        if marker in _FRAMES and not self.frame:
            self._on_frame(marker, at)
        elif marker == _DRI:
            self.interval = struct.unpack_from(">H", self.data, at + 2)[0]
        elif marker == _SOS:
            self._on_scan(at)
            self.scans.append((at + length, at + length))
        return int(at + length)

    def _on_frame(self, marker: int, at: int) -> None:
        height, width, parts = struct.unpack_from(">HHB", self.data, at + 3)
        self.frame, self.size = marker, (width, height)
        for k in range(parts):
            part, factors = struct.unpack_from(">BB", self.data, at + 8 + 3 * k)
            self.factors[part] = (factors >> 4, factors & 15)
            self.finest[part] = np.full(64, 127, np.int8)

    def _on_scan(self, at: int) -> None:
        """How many blocks come, and which bits of which coefficients are known with them."""
        count = self.data[at + 2] if at + 2 < len(self.data) else 0
        parts = [part for part in self.data[at + 3 : at + 3 + 2 * count : 2] if part in self.factors]
        first, last, bits = struct.unpack_from(">BBB", self.data, at + 3 + 2 * count)
        for part in parts:
            self.finest[part][first : last + 1] = bits & 15
        across, down = (max((f[k] for f in self.factors.values()), default=1) or 1 for k in (0, 1))
        if len(parts) == 1:  # its own blocks alone, without what fills up the picture
            h, v = self.factors[parts[0]]
            units = -(-self.size[0] * h // (8 * across)), -(-self.size[1] * v // (8 * down))
        else:
            units = -(-self.size[0] // (8 * across)), -(-self.size[1] // (8 * down))
        self._expected = units[0] * units[1]

    def end_scan(self, end: int) -> None:
        """Check the restarts of a scan: they count from 0 to 7, again and again; all are there, and no more."""
        if not self.scans or self.scans[-1][1] != self.scans[-1][0]:
            return
        start = self.scans[-1][0]
        scan = self.data[start:end].rstrip(b"\xff")
        self.scans[-1] = (start, start + len(scan))
        if self.interval:
            found = [m[1][0] & 7 for m in _RESTART.finditer(scan)]
            most = -(-self._expected // self.interval)  # some encoders put one behind the last interval, too
            if found != [k % 8 for k in range(len(found))] or not most - 1 <= len(found) <= most:
                raise DamagedError(_HOLE)

    def finish(self) -> None:
        """Check that no bits of coefficients are missing that were to follow."""
        if self.frame == _PROGRESSIVE:
            for known in self.finest.values():
                if known[0] or np.any((known > 0) & (known < 127)):
                    raise DamagedError(_CUT_OFF)


def walk(data: bytes) -> _Walk:
    """Go through the segments of a file up to its end, for the frame's size and for what is missing.

    Raises:
        DamagedError: something is.
        struct.error: a segment is cut off.
    """
    told, at = _Walk(data), 2
    while found := (_MARKER if told.scans and not told.interval else _NO_RESTART).search(data, at):
        marker, at = found[1][0], found.end()
        told.end_scan(found.start())
        if marker == _EOI:
            told.finish()
            return told
        if marker != _TEM:
            at = told.on(marker, at)
    raise DamagedError(_CUT_OFF)


def looks_filled(picture: NDArray[np.uint8]) -> bool:
    """Whether a block of a picture, uint8 (H, W, 3), is of the one grey that decoders fill with."""
    some = picture[2::_STEP, 2::_STEP]
    return _squares(some[..., 1] == _GREY) and _squares((some == _GREY).all(axis=2))  # most end at the first


def _squares(grey: NDArray[np.bool_]) -> bool:
    """Whether four neighbours are."""
    tall = grey[1:] & grey[:-1]
    return bool((tall[:, 1:] & tall[:, :-1]).any())


def with_more(data: bytes) -> bytes:
    """The file with more data at the end of each interval: another picture, or none, where some were missing.

    It has no end: libjpeg waits there for more in silence, and would complain of what comes between data and end. It
    does so, in one line on stderr, where there are restarts.
    """
    told = walk(data)
    if told.frame not in _SEQUENTIAL:
        return data
    pieces, at = [], 0
    for start, end in told.scans:
        pieces += [data[at:start], _RESTART.sub(lambda found: _MORE + found[0], data[start:end]), _MORE]
        at = end
    return b"".join(pieces)
