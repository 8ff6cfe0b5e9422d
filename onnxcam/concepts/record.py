"""The names of a layer's channels, as a record that is kept in a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxcam.errors import OptionError, reason
from onnxcam.files import write_whole

VERSION = 1
_TOLERATED = 0.1  # of the names


@dataclass(frozen=True)
class Named:
    """A channel and its name.

    Attributes:
        channel: its index.
        name: the concept.
        score: how well they match: IoU or AUC, by ``how``; 1 where the name was given.
        how: ``"iou"``, ``"auc"`` or ``"given"``.
        level: activations above it count as firing; None: above half of the largest in the picture at hand.
    """

    channel: int
    name: str
    score: float = 1.0
    how: str = "given"
    level: float | None = None


@dataclass(frozen=True)
class Names:
    """What the channels of a layer stand for.

    Attributes:
        channels: those that have a name.
        layer: the layer's name; "" for the one that the explainer has.
        count: channels of the layer, named or not; 0 where that is not known.
        model_sha256: of the model's file; "" where that is not known.
        concepts: all that were looked for.
        by_chance: how many channels get a name where the pictures have the concepts of others; None: not known.
    """

    channels: tuple[Named, ...]
    layer: str = ""
    count: int = 0
    model_sha256: str = ""
    concepts: tuple[str, ...] = ()
    by_chance: float | None = None

    @property
    def doubt(self) -> str:
        """What there is to say where more than a tenth of the names may be chance; "" otherwise."""
        if not self.channels or (self.by_chance or 0) <= _TOLERATED * len(self.channels):
            return ""
        have = "1 channel has" if len(self.channels) == 1 else f"{len(self.channels)} channels have"
        return (
            f"{have} a name, and {self.by_chance:.3g} would if the pictures had the concepts of others: "
            "some names, or all, are chance. Show more pictures of each concept"
        )

    def of(self, channel: int) -> Named | None:
        """The name of a channel."""
        return next((n for n in self.channels if n.channel == channel), None)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written there.
        """
        return write_whole(Path(path), json.dumps({"version": VERSION, **asdict(self)}, indent=1).encode())


def load_names(path: str | Path) -> Names:
    """Read what :meth:`Names.save` wrote, or names that somebody gives.

    These are JSON, ``{"12": "wheel", "40": "sky"}``, or a CSV with lines of ``channel,name``.

    Raises:
        OptionError: it cannot be read, or is none of these.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = _from_csv(text) if file.suffix.lower() == ".csv" else _from_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise OptionError(
            f"{file} holds no names of channels: {reason(error)}. Give what `onnxcam words name` wrote, JSON such as "
            '{"12": "wheel"}, or a CSV with lines of channel,name'
        ) from error
    numbers = [n.channel for n in found.channels]
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise OptionError(f"{file}: it names {len(numbers)} channels; give at least one, each from 0 on and once")
    return found


def _from_csv(text: str) -> Names:
    rows = [row for row in csv.reader(text.splitlines()) if any(map(str.strip, row))]
    if rows and rows[0][0].strip().lower() == "channel":
        rows = rows[1:]
    if short := [row for row in rows if len(row) < 2]:
        raise ValueError(f"the line {short[0][0]!r} has no name")
    return Names(tuple(_named(channel, name) for channel, name, *_ in rows))


def _from_json(found: Mapping[str, Any]) -> Names:
    if "channels" not in found:
        return Names(tuple(_named(channel, name) for channel, name in found.items()))
    channels = tuple(_read(Named(**n)) for n in found["channels"])
    return Names(
        channels, found["layer"], found["count"], found["model_sha256"], tuple(found["concepts"]),
        found.get("by_chance"),
    )  # fmt: skip


def _named(channel: str, name: Any) -> Named:
    """What somebody wrote."""
    return _read(Named(int(channel), name.strip()))


def _read(named: Named) -> Named:
    if type(named.channel) is not int or not isinstance(named.name, str) or not named.name:
        raise ValueError(f"channel {named.channel!r} with the name {named.name!r}")
    numbers = (named.score, 0.0 if named.level is None else named.level)
    if any(type(n) not in (int, float) for n in numbers):
        raise ValueError(f"channel {named.channel} with a score of {named.score!r} and a level of {named.level!r}")
    return named
