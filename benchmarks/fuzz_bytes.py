"""Damage that knows nothing of a format, and the numbers and words that hurt in all of them."""

from __future__ import annotations

import random
import struct

NUMBERS = (0, 1, -1, 2, 3, 7, -2, 64, 127, 128, 255, 256, 1000, 65535, 65536, 100_000, 2**24, 2**31 - 1, 2**31, 2**32,
           2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))  # fmt: skip
HOSTILE = ("", " ", "../../x", "/etc/passwd", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "<script>alert(1)</script>",
           "=cmd()", "a\nb", "a\rb", "\u202eabc", "\u0000", "x" * 70_000, "'; --", "%s%n%d", "{0}", "é" * 300,
                 "onnxcam/seed",
           "onnxcam/class", "onnxcam/grad/x", "[bold]x[/bold]", "\ud7ff", "\U0001f600", "..", ".", "-o",
                                        "nan")  # fmt: skip


def damage(data: bytes, rng: random.Random, most: int = 8) -> tuple[bytes, list[str]]:
    """Bytes that are flipped, cut off, cut out, doubled, moved or overwritten with numbers that hurt.

    Args:
        data: the bytes.
        rng: chooses.
        most: changes.
    """
    held, changes = bytearray(data), []
    for _ in range(min(most, rng.choice((1, 1, 2, 3, 8)))):
        how = rng.choice(("flip", "flip", "flip", "number", "number", "cut off", "cut out", "double", "noise", "move"))
        changes.append(how)
        at = _place(len(held), rng)
        length = min(rng.choice((1, 2, 4, 16, 200, 5000)), max(len(held) - at, 0))
        piece = bytes(held[at : at + length])
        if how == "flip" and held:
            held[at] ^= 1 << rng.randrange(8)
        elif how == "number":
            number = struct.pack(rng.choice("<>") + rng.choice("BHIQ"), 0)
            held[at : at + len(number)] = (rng.choice(NUMBERS) % 256 ** len(number)).to_bytes(
                len(number), rng.choice(("little", "big"))
            )
        elif how == "cut off":
            del held[at:]
        elif how == "cut out":
            del held[at : at + length]
        elif how == "double":
            held[at:at] = piece * rng.choice((1, 1, 30))
        elif how == "noise":
            held[at : at + length] = rng.randbytes(length)
        else:
            to = _place(len(held), rng)
            held[to : to + length] = piece
    return bytes(held), changes


def _place(length: int, rng: random.Random) -> int:
    """Anywhere, and as often near the beginning, where headers are."""
    return rng.randrange(max(1, min(length, rng.choice((40, 400, length)))))
