"""What ``onnxcam explain`` does with its pictures: files, table, JSON, figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxcam import BlackBox, Explainer, Explanation
from onnxcam.cli.listing import say
from onnxcam.cli.progress import Bar
from onnxcam.errors import ImageError, ModelError, OnnxcamError, OptionError
from onnxcam.labels import misfit
from onnxcam.methods import Method, find_method

if TYPE_CHECKING:
    from onnxcam.doctor import Watch

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """How overlays are drawn."""

    colormap: str | None = None
    blend: float = 0.5
    style: str = "blend"
    title: bool = True
    recipe: str | None = None

    def check(self) -> None:
        """Refuse a bad colour map, style or recipe before anything is written."""
        from onnxcam.core.overlay import overlay
        from onnxcam.core.recipes import find_recipe

        black, nothing = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)
        overlay(black, nothing, style=self.style, blend=self.blend, colormap=self.colormap or "jet")
        if self.recipe is not None:
            find_recipe(self.recipe)

    @property
    def target(self) -> str | None:
        """The kind of score that a recipe explains."""
        from onnxcam.core.recipes import find_recipe

        return find_recipe(self.recipe).target if self.recipe else None

    @property
    def style_of_overlay(self) -> dict[str, Any]:
        """As :meth:`onnxcam.Explanation.overlay` takes it."""
        return {"style": self.style, "blend": self.blend, "colormap": self.colormap}

    def draw(self, found: Explanation, title: bool = False) -> Pixels:
        """The overlay."""
        if self.recipe is not None:
            return found.recipe(self.recipe)
        return found.overlay(**self.style_of_overlay, title=title)


def explainers(
    models: Sequence[str],
    methods: Sequence[str],
    layers: str | None,
    layer: Sequence[str],
    settings: Sequence[str],
    target_kind: str | None,
    **options: Any,
) -> list[Explainer]:
    """One explainer per method, on one model (of several, each behind the one before)."""
    from onnxcam.isolation import Worker
    from onnxcam.opening import opened

    model = opened(models, Worker() if options.get("isolate") else None)
    names = _every_layer(model, layers, options["output"]) if layers else list(layer)
    found = [
        Explainer(model, target_layer=names if method.has_layer else "auto", method=method, **{**options, **own})
        for method, own in chosen(methods, settings, options["budget"], target_kind)
    ]
    _check_labels(found[0])
    return found


def chosen(
    methods: Sequence[str], settings: Sequence[str], budget: int | None, target_kind: str | None = None
) -> list[tuple[Method, dict[str, Any]]]:
    """Each method with the options and the budget that are its own; of several, each takes what it knows."""
    wanted, rows = parsed_settings(settings), [find_method(name) for name in methods]
    found = []
    for row in rows:
        own = wanted if len(rows) == 1 else {k: v for k, v in wanted.items() if k in row.options}
        runs = budget if len(rows) == 1 or row.budget else None
        found.append(
            (
                replace(row, target=target_kind) if target_kind not in (None, "logit") else row,
                {"options": own, "budget": runs},
            )
        )
    unused = [k for k in wanted if len(rows) > 1 and not any(k in row.options for row in rows)]
    if unused:
        raise OptionError(f"none of {', '.join(methods)} has an option {unused[0]!r}; `onnxcam methods` lists them")
    return found


def _every_layer(model: Any, layers: str, output: str | None) -> list[str]:
    """The candidates, from the image on."""
    from onnxcam.graph.inspect import find_logits, target_layers

    if layers != "all":
        raise OptionError(f"--layers {layers}: the choice is 'all'; name single layers with --layer")
    names = [c.name for c in reversed(target_layers(model, find_logits(model, output)))]
    return names or ["auto"]  # which says why there is none


def parsed_settings(given: Sequence[str]) -> dict[str, Any]:
    """``samples=50`` -> {"samples": 50}; what is no JSON value is text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"--set {text}: write NAME=VALUE, such as samples=50")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _check_labels(explainer: Explainer) -> None:
    """Say so if names and classes differ in number."""
    if doubt := misfit(explainer.labels, explainer.logits.classes):
        say(doubt)


def boxes(
    endpoint: str,
    methods: Sequence[str],
    settings: Sequence[str],
    output: str | None,
    budget: int | None,
    **options: Any,
) -> list[BlackBox]:
    """One explainer per method, of a served model."""
    from onnxcam import Endpoint

    served = Endpoint(endpoint, output=output)
    rows = chosen(methods, settings, budget)
    return [BlackBox(served, spec=served.spec, method=row, **{**options, **own}) for row, own in rows]


def stems(images: Sequence[Path]) -> list[str]:
    """File names that do not collide when pictures of different folders share one."""
    taken: set[str] = set()
    found = []
    for path in images:
        names = (path.stem if k == 1 else f"{path.stem}-{k}" for k in count(1))
        found.append(next(name for name in names if name.casefold() not in taken))
        taken.add(found[-1].casefold())
    return found


@dataclass
class Job:
    """Pictures to explain: by each of ``explainers``, for each of ``targets``.

    Attributes:
        shape: ``"single"``: files for each explanation; ``"grid"``: methods x targets in one picture; ``"layers"``: the
            layers of one explanation in one picture.
    """

    explainers: Sequence[Explainer | BlackBox]
    targets: Sequence[str | None]
    folder: Path
    look: Look
    shape: str = "single"
    max_pixels: int | None = None
    as_json: bool = False
    rows: list[tuple[str, ...]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def run(self, images: Sequence[Path]) -> int:
        """Explain; the exit code."""
        failures = 0
        try:
            for path, stem in zip(images, stems(images), strict=True):
                try:
                    self.one(path, stem)
                except (ImageError, ModelError) as error:  # of this picture: NaN may come of one alone
                    failures += 1
                    self.fail(path, error)
        finally:
            if not self.as_json and self.rows:
                _print_table(self.rows)
        self.suspect()
        return 0 if not failures else (2 if failures == len(images) else 1)

    def suspect(self) -> None:
        """Say so if the answers make the preprocessing look wrong."""
        if doubt := self.watch.suspicion() if self.watch else "":
            self.say(doubt)

    @cached_property
    def watch(self) -> Watch | None:
        """What sees the explanations; of a served model, whose graph is not there, none does."""
        first = self.explainers[0]
        if not isinstance(first, Explainer):
            return None
        from onnxcam.doctor import Watch

        return Watch(first.model, first.preprocess, first.logits.classes)

    def one(self, path: Path, stem: str) -> None:
        """All explanations of one picture."""
        picture = self.read(path)
        found = [
            [replace(self.explain(e, picture, target), source=str(path)) for target in self.targets]
            for e in self.explainers
        ]
        whole = self.figure(picture, found, stem) if self.shape != "single" else None
        for row in found:
            for e, target in zip(row, self.targets, strict=True):
                self.record(e, path, {"figure": whole} if whole else self.save(e, stem, target))

    def read(self, path: Path) -> Pixels:
        """A picture; by the explainer, which may do it elsewhere."""
        from onnxcam.image import MAX_PIXELS, read_file, read_image

        first, most = self.explainers[0], self.max_pixels or MAX_PIXELS
        if isinstance(first, Explainer):
            return first.decode(read_file(path), path, most)
        return read_image(path, max_pixels=most)

    def explain(self, explainer: Explainer | BlackBox, picture: Pixels, target: str | None) -> Explanation:
        """One explanation, with a bar where it takes many runs."""
        with self.bar(explainer) as progress:
            explainer.progress = progress
            return explainer.explain(picture, target)

    def bar(self, explainer: Explainer | BlackBox) -> AbstractContextManager[Any]:
        """A progress bar on stderr, for a terminal."""
        return Bar(explainer.method.title)

    def save(self, found: Explanation, stem: str, target: str | None) -> dict[str, Path]:
        """The files of one explanation."""
        asked = "" if target is None else "." + re.sub(r"[^\w-]+", "-", target)
        name = f"{stem}.{found.method}{asked}"
        files = found.save(self.folder, name, **self.look.style_of_overlay, title=self.look.title)
        if self.look.recipe is not None:
            from onnxcam.image import save_image

            save_image(files["overlay"], self.look.draw(found))
        return files

    def figure(self, picture: Pixels, found: Sequence[Sequence[Explanation]], stem: str) -> Path:
        """Everything of one picture in one."""
        from onnxcam.cli import figure
        from onnxcam.image import save_image

        make = figure.grid if self.shape == "grid" else figure.layers
        path = self.folder / f"{stem}.{self.shape}.png"
        save_image(path, make(picture, found, self.look.draw))
        return path

    def record(self, found: Explanation, path: Path, files: Mapping[str, Path]) -> None:
        """A line of JSON or a row of the table; notices."""
        if self.watch is not None:
            self.watch.see(found)
        for note in found.notes:
            self.say(note)
        if self.as_json:
            print(json.dumps({**found.to_dict(), "files": {k: str(p) for k, p in files.items()}}), flush=True)
        score = f"{found.score:.4g}" + (f" ({found.probability:.3f})" if found.probability is not None else "")
        plain = found.class_index >= 0 and found.target.startswith(("logit of ", "score of "))
        name = (found.label or f"class {found.class_index}") if plain else found.target
        layer = " + ".join(m.layer for m in found.maps[:3]) + (" + ..." if len(found.maps) > 3 else "") or "-"
        self.rows.append((path.name, name, score, layer, found.method, str(next(iter(files.values())))))

    def fail(self, path: Path, error: OnnxcamError) -> None:
        """A picture that could not be explained."""
        self.say(str(error))
        if self.as_json:
            print(json.dumps({"source": str(path), "error": str(error)}), flush=True)

    def say(self, text: str) -> None:
        """Each notice once."""
        if text not in self.told:
            self.told.add(text)
            say(text)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from onnxcam.cli.listing import table

    table(("image", "class", "score", "layer", "method", "file"), rows)
