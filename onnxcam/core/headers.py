"""Picture formats and sizes from the first bytes of a file, before anything is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from .jpeg import DamagedError, walk

_DAMAGED = "its header is damaged"
_CUT_OFF = "it is cut off: the end of the picture is missing. Copy or download it again"
_GAP = rb"\s*(?:#[^\n]*\n\s*)*"  # white space and comments; in one way only, or damaged files take for ever
_PNM = re.compile(rb"P([456])\s%b(\d+)\s%b(\d+)\s(?:%b(\d+)\s)?" % (_GAP, _GAP, _GAP))
_LONGEST_PNM = 1 << 16


class UnreadableError(Exception):
    """Why a file cannot be read; `read_image` puts the path in front."""


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        return walk(data).size
    except DamagedError as why:
        raise UnreadableError(f"{why}. Copy or download it again") from None


def _png_size(data: bytes) -> tuple[int, int]:
    """PNG specification, 11.2.1: IHDR comes first; 5.6: IEND comes last."""
    if data[12:16] != b"IHDR":
        raise UnreadableError(_DAMAGED)
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
    if kind != b"IEND" or at > len(data):
        raise UnreadableError(_CUT_OFF)
    return struct.unpack_from(">II", data, 16)


def _bmp_size(data: bytes) -> tuple[int, int]:
    core = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
    return width, abs(height)  # negative: rows run from top to bottom


def _webp_size(data: bytes) -> tuple[int, int]:
    """RFC 9649: a RIFF container around VP8, VP8L or VP8X."""
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise UnreadableError(_CUT_OFF)
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    """TIFF 6.0, section 2: tags 256 and 257 of the first directory; 262 = 8 is CIELAB."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0], 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind in (3, 4):
            tags[tag] = struct.unpack_from(order + " HI"[kind - 2], data, entry + 8)[0]
    if tags.get(262) == 8:
        raise UnreadableError("CIELAB colours cannot be read: convert it to RGB")
    return tags[256], tags[257]


def _pnm_size(data: bytes) -> tuple[int, int]:
    found = _PNM.match(data, 0, _LONGEST_PNM)
    if not found:
        raise UnreadableError(_DAMAGED)
    if found[1] != b"4" and found[4] != b"255":
        raise UnreadableError("grey levels must run from 0 to 255: convert it to PNG")
    return int(found[2]), int(found[3])


_FORMATS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes], tuple[int, int]]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), _jpeg_size),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), _png_size),
    "GIF": (re.compile(rb"GIF8[79]a"), lambda data: struct.unpack_from("<HH", data, 6)),
    "BMP": (re.compile(rb"BM"), _bmp_size),
    "TIFF": (re.compile(rb"II\*\0|MM\0\*"), _tiff_size),
    "WebP": (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_size),
    "PNM": (re.compile(rb"P[456]\s"), _pnm_size),
}


def read_header(data: bytes) -> tuple[str, int, int]:
    """(format, width, height) by the first bytes of a file, whatever its name says."""
    for name, (magic, size) in _FORMATS.items():
        if magic.match(data):
            try:
                return name, *size(data)
            except (struct.error, KeyError):
                raise UnreadableError(f"{name}: {_DAMAGED}") from None
    raise UnreadableError(f"not a picture in a format that is read: {', '.join(_FORMATS)}")
