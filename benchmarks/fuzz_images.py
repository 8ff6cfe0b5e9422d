"""Mutants of picture files: of their bytes, of PNG chunks with sums that are right again, of TIFF tags, and bombs."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import cv2
import numpy as np

from benchmarks.fuzz_bytes import NUMBERS, damage

_ROOT = Path(__file__).parent.parent
_SIGNATURE = 8  # bytes of PNG's


@cache
def sources(zoo: str | None) -> tuple[tuple[str, bytes], ...]:
    """(Name, bytes) of sound pictures: what OpenCV writes in every format and kind, and a folder's odd ones."""
    sample = (_ROOT / "model_zoo" / "samples" / "scene-3.png").read_bytes()
    rgb = cv2.imdecode(np.frombuffer(sample, np.uint8), cv2.IMREAD_COLOR)
    small, tiny = cv2.resize(rgb, (61, 47)), cv2.resize(rgb, (5, 3))
    grey, deep = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), small.astype(np.uint16) * 257
    clear = np.dstack([small, grey])
    found = {"sample.png": sample}
    for name, pixels, settings in (
        ("base.jpg", small, []),
        ("grey.jpg", grey, []),
        ("progressive.jpg", small, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        ("restarts.jpg", small, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
        ("whole.jpg", rgb, []),
        ("small.png", small, []),
        ("tiny.png", tiny, []),
        ("grey.png", grey, []),
        ("deep.png", deep, []),
        ("clear.png", clear, []),
        ("bits.png", (grey > 99).astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1]),
        ("lossy.webp", small, [cv2.IMWRITE_WEBP_QUALITY, 70]),
        ("lossless.webp", clear, [cv2.IMWRITE_WEBP_QUALITY, 101]),
        ("small.bmp", small, []),
        ("clear.bmp", clear, []),
        ("small.ppm", small, []),
        ("grey.pgm", grey, []),
        ("bits.pbm", grey, []),
        ("plain.tif", small, [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
        ("lzw.tif", small, [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
        ("deflate.tif", deep, [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
        ("packbits.tif", grey, [cv2.IMWRITE_TIFF_COMPRESSION, 32773]),
        ("small.gif", small, []),
    ):
        found[name] = cv2.imencode(f".{name.rpartition('.')[2]}", pixels, settings)[1].tobytes()
    odd = {p.name: p.read_bytes() for p in sorted(Path(zoo, "odd").iterdir())} if zoo else {}
    return tuple({**found, **odd}.items())


def mutate(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    """A mutant's bytes, and what was done."""
    own = _OF_FORMAT.get(data[:2])
    if own is None or rng.random() < 0.3:
        return damage(data, rng, most=rng.choice((1, 8)))
    try:
        return own(data, rng)
    except (struct.error, IndexError, ValueError):
        return damage(data, rng)


def _png(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    chunks, told = _chunks(data), []
    for _ in range(rng.choice((1, 1, 1, 3))):
        how = rng.choice(("header", "data", "pixels", "pixels", "pixels", "delete", "double", "kind", "kind", "bomb"))
        told.append(how)
        at = rng.randrange(len(chunks))
        kind, held = chunks[at]
        if how == "header":
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            field = rng.randrange(7)
            fields[field] = rng.choice(NUMBERS) % (2**32 if field < 2 else 256)
            chunks[0] = (chunks[0][0], struct.pack(">IIBBBBB", *fields))
        elif how == "bomb":
            width, height = rng.choice(
                ((30_000, 5_900), (1, 2**31 - 1), (2**31 - 1, 1), (13_000, 13_000), (60_000, 60_000))
            )
            packer = zlib.compressobj(1)
            rows = b"".join(packer.compress(bytes(1 << 20)) for _ in range(rng.choice((1, 60, 300)))) + packer.flush()
            chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, rng.choice((0, 2)), 0, 0, 0)), (b"IDAT",
                       rows),
                      (b"IEND", b"")]  # fmt: skip
        elif how == "data":
            chunks[at] = (kind, damage(held, rng)[0])
        elif how == "pixels":
            chunks = _with_other_pixels(chunks, rng)
        elif how == "delete":
            del chunks[at]
        elif how == "double":
            chunks[at:at] = [chunks[at]] * rng.choice((1, 2, 300))
        else:
            other = rng.choice(
                (b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"sBIT")
            )
            chunks[1:1] = [(other, rng.randbytes(rng.choice((0, 1, 3, 8, 26, 768))))]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return data[:_SIGNATURE] + b"".join(body), told


def _with_other_pixels(chunks: list[tuple[bytes, bytes]], rng: random.Random) -> list[tuple[bytes, bytes]]:
    """Rows and their filters changed within what is packed, where it can be unpacked."""
    try:
        rows = bytearray(zlib.decompress(b"".join(held for kind, held in chunks if kind == b"IDAT")))
    except zlib.error:
        return chunks
    for _ in range(min(len(rows), rng.choice((1, 20)))):
        rows[rng.randrange(len(rows))] = rng.choice((0, 1, 2, 3, 4, 5, 255))
    del rows[len(rows) - rng.choice((0, 0, 0, 1)) :]
    first = next(k for k, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return [*others[:first], (b"IDAT", zlib.compress(rows, 1)), *others[first:]]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], _SIGNATURE
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _tiff(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    order, held = "<" if data[:2] == b"II" else ">", bytearray(data)
    at = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, at)[0]
    told = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        entry = at + 2 + 12 * rng.randrange(count)
        tag = struct.unpack_from(order + "H", data, entry)[0]
        field = rng.choice(("tag", "kind", "count", "value", "value", "value"))
        place, size = {"tag": (0, "H"), "kind": (2, "H"), "count": (4, "I"), "value": (8, rng.choice("HI"))}[field]
        number = rng.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 322, 323, 324, 325, 338, 339, *NUMBERS))
        struct.pack_into(order + size, held, entry + place, number % 256 ** struct.calcsize(size))
        told.append(f"{field} of tag {tag} = {number}")
    return bytes(held), told


def _jpeg(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    """Segments changed behind their lengths, or put in."""
    if rng.random() < 0.5:
        return _with_segment(data, rng)
    held, told = bytearray(data), []
    markers = [
        k for k in range(len(data) - 4) if data[k] == 0xFF and data[k + 1] in (*range(0xC0, 0xD0), *range(0xDA, 0xE2))
    ]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice(markers)
        length = struct.unpack_from(">H", data, at + 2)[0]
        place = at + rng.choice((1, 2, 3, *range(4, 4 + max(1, min(length, 20)))))
        held[place] = rng.choice((0, 1, 2, 3, 4, 7, 8, 16, 17, 0x22, 0x44, 0xC2, 0xD9, 0xDA, 255, rng.randrange(256)))
        told.append(f"marker {data[at + 1]:02x} + {place - at}")
    return bytes(held), told


def _with_segment(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    """Notes behind the first marker: Exif with an orientation, damaged, and others of any content."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0" % rng.randrange(10)
    kind, held = rng.choice(((0xE1, exif), (0xE1, exif), (0xE2, b"ICC_PROFILE\0\x01\x01" + rng.randbytes(40)),
                             (0xEE, b"Adobe\0\x64\0\0\0\0%c" % rng.randrange(4)),
                             (0xFE, rng.randbytes(60))))  # fmt: skip
    held, told = damage(held, rng) if rng.random() < 0.6 else (held, [])
    held = held[:65_000]
    length = len(held) + rng.choice((2, 2, 2, 2, 2, 2, 2, 1, 3, 0))
    return data[:2] + struct.pack(">BBH", 0xFF, kind, length) + held + data[2:], [f"segment {kind:x}", *told]


def _pnm(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    """Its lengths, of which each is another one or not, and how many of its pixels there are."""
    head, sides, rest = data.split(b"\n", 2)
    most, body = (b"", rest) if head == b"P4" else rest.split(b"\n", 1)
    words = [w if rng.random() < 0.6 else b"%d" % rng.choice((*NUMBERS, 5, 60, 13_000, 10**30)) for w in sides.split()]
    most = most if rng.random() < 0.6 else b"%d" % rng.choice((*NUMBERS, 254))
    body = body[: rng.choice((len(body), len(body), 200))]
    return b"\n".join((head, b" ".join(words), most, body)), [b" ".join((*words, most)).decode()]


_OF_FORMAT: dict[bytes, Callable[[bytes, random.Random], tuple[bytes, list[str]]]] = {
    b"\x89P": _png, b"II": _tiff, b"MM": _tiff, b"\xff\xd8": _jpeg, b"P4": _pnm, b"P5": _pnm, b"P6": _pnm,
}  # fmt: skip
