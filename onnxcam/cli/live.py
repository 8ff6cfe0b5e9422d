"""``onnxcam live``: a video or a camera, explained frame by frame, into a video or a browser."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.listing import plain, say
from onnxcam.errors import ImageError, OptionError
from onnxcam.signals import heeding, once

if TYPE_CHECKING:
    from onnxcam import Explainer
    from onnxcam.cli.progress import Rate
    from onnxcam.live import Live, Rounds, Shown
    from onnxcam.serving import Show
    from onnxcam.video import Source, Writer

_SOURCE = typer.Argument(metavar="SOURCE", help="A video file, a camera (0, 1, ...), or an address (rtsp://, http://).")
_OUT = typer.Option("--out", "-o", metavar="VIDEO", help="Write a video: .mp4, .mov, .mkv, .avi or .webm.")
_FPS = typer.Option(help="Frames per second of the video written; by default the source's.")
_MOST_CHOICES = 30_000


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")],
    source: Annotated[str, _SOURCE],
    out: Annotated[Path | None, _OUT] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show it in a browser on this machine.")] = False,
    port: Annotated[int, typer.Option(help="Of --serve; 0 for any that is free.")] = 8765,
    method: Annotated[str, typer.Option(help="See `onnxcam methods`.")] = "gradcam",
    target: Annotated[
        str | None, typer.Option(help="As for `onnxcam explain`; by default the predicted class.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Target layer.")] = "auto",
    preprocess: Annotated[str, typer.Option(help="As for `onnxcam explain`.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    given: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="A further input of the model.")
    ] = None,
    every: Annotated[int, typer.Option(help="Explain each so many-th frame; those between keep its map.")] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    fps: Annotated[float | None, _FPS] = None,
    colormap: Annotated[str | None, typer.Option(help="jet (the default), turbo, viridis, ...")] = None,
    blend: Annotated[float, typer.Option(help="Share of the colours, 0 to 1.")] = 0.5,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution provider of the runtime.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per explained frame on stdout.")] = False,
) -> None:
    """Explain a video or a camera, frame by frame.

    Exit codes: 0 all good, also where Ctrl-C ends a camera or a page; 1 some frames could not be decoded or explained;
    2 cannot start; 130 Ctrl-C ended a file early. What was written until then is kept.
    """
    from onnxcam.cli.job import Look
    from onnxcam.inputs import parse_inputs
    from onnxcam.video import check_output, open_source

    _check(out, serve, as_json, every, max_frames, fps)
    look = Look(colormap, blend)
    look.check()
    if out is not None:
        check_output(out, source)
    asked = heeding(once(signal.default_int_handler))  # whatever asks it to end, does as Ctrl-C
    with asked, closing(open_source(source)) as frames:
        explainer = _explainer(
            model, preprocess, layer, method, engine=engine, labels=labels, providers=provider, threads=threads,
            inputs=parse_inputs(given or []),
        )  # fmt: skip
        from onnxcam.live import Live, Rounds

        live = Live(explainer, None if target == "top1" else target, every, look.style_of_overlay)
        code = _Run(Rounds(frames, serve, out is not None, max_frames), live, out, port, fps, as_json).run()
    raise typer.Exit(code)


def _check(out: Path | None, serve: bool, as_json: bool, every: int, max_frames: int | None, fps: float | None) -> None:
    if out is None and not serve and not as_json:
        raise OptionError("nothing to do: give -o VIDEO to write one, --serve to watch it in a browser, or --json")
    for name, value in (("every", every), ("max-frames", max_frames)):
        if value is not None and value < 1:
            raise OptionError(f"--{name} {value}: give a number above 0")
    if fps is not None and out is None:
        raise OptionError("--fps is the rate of the video written; give -o VIDEO, too")


def _explainer(model: str, preprocess: str, layer: str, method: str, **options: Any) -> Explainer:
    from onnxcam import Explainer
    from onnxcam.labels import misfit

    found = Explainer(model, preprocess, layer, method, **options)
    if doubt := misfit(found.labels, found.logits.classes):
        say(doubt)
    return found


@dataclass
class _Run:
    """From source to video, browser and lines of JSON."""

    rounds: Rounds
    live: Live
    out: Path | None
    port: int
    fps: float | None
    as_json: bool
    count: int = 0
    told: list[str] = field(default_factory=list)

    def run(self) -> int:
        """The exit code."""
        from onnxcam.cli.progress import Rate

        interrupted = False
        with ExitStack() as stack:
            show = stack.enter_context(self._show()) if self.rounds.watched else None
            writer = self._writer() if self.out is not None else None
            try:
                with Rate(self.rounds.total) as progress, writer or nullcontext():  # it keeps what it has
                    self._frames(writer, show, progress)
            except KeyboardInterrupt:
                interrupted = True
            except BaseException:
                if writer is not None and writer.kept:
                    say(f"{writer.path} holds the {_told(writer.frames)} until then")
                raise
        return self._finished(writer, interrupted)

    @property
    def source(self) -> Source:
        """What the frames come from."""
        return self.rounds.source

    def _frames(self, writer: Writer | None, show: Show | None, progress: Rate) -> None:
        for shown in self.live.run(self.rounds):
            if writer is not None:
                writer.write_until(shown.frame.time, shown.picture) if self.source.live else writer.write(shown.picture)
            if show is not None:
                show.update(shown.picture, {**shown.to_dict(), "rate": shown.rate, "target": shown.target})
            self._tell(shown, progress)
            progress.advance(failed=shown.explanation is None)
            self.count += 1
        if not self.count:
            raise ImageError(f"{self.source.name} holds no frames that can be decoded")

    def _tell(self, shown: Shown, progress: Rate) -> None:
        if not self.count and shown.explanation is not None:
            self._say(shown.explanation.notes, progress)
        if shown.fresh:
            self._say((shown.trouble,) if shown.trouble else (), progress)
            if self.as_json:
                print(json.dumps(shown.to_dict()), flush=True)

    def _say(self, notes: tuple[str, ...], progress: Rate) -> None:
        """Each notice once, and not one for each frame of a long video."""
        for note in notes:
            if note not in self.told and len(self.told) < 20:
                self.told.append(note)
                progress.say(note)

    def _show(self) -> Show:
        from onnxcam.serving import Show

        show = Show(self.port, _choices(self.live), self.live.aim)
        say(f"open {show.url} in a browser on this machine; Ctrl-C ends it")
        return show

    def _writer(self) -> Writer:
        from onnxcam.video import USUAL_FPS, Writer

        assert self.out is not None
        rate = self.source.fps if self.fps is None else self.fps
        if rate is None:
            say(f"{self.source.name} tells no frame rate: {USUAL_FPS:g} is taken, --fps sets another")
        return Writer(self.out, USUAL_FPS if rate is None else rate)

    def _finished(self, writer: Writer | None, interrupted: bool) -> int:
        if interrupted:
            kept = f": {writer.path} holds {_told(writer.frames)}" if writer is not None and writer.kept else ""
            say(f"ended by Ctrl-C{kept}")
        whole = not interrupted and (self.rounds.most is None or self.count < self.rounds.most)
        trouble = self.source.trouble if whole else ""
        if trouble:
            say(trouble)
        if not self.as_json:
            self._print(writer)
        if interrupted and not self.rounds.endless:
            return 130
        return 1 if trouble or self.live.failed else 0

    def _print(self, writer: Writer | None) -> None:
        failed = f", {self.live.failed} could not be" if self.live.failed else ""
        print(f"{plain(self.source.name)}: {_told(self.count)}, {self.live.explained} explained{failed}")
        if writer is not None and writer.kept:
            height, width = writer.size
            print(f"{plain(str(writer.path))}: {_told(writer.frames)} of {width} x {height}, {writer.fps:g} a second")


def _told(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"


def _choices(live: Live) -> list[tuple[str, str]]:
    """What can be chosen: the target asked for, where it is something else than a class by its index; then the classes,
    by index, those without a name by number.
    """
    explainer, asked = live.explainer, live.target
    count, names = explainer.logits.classes or 0, explainer.labels or ()
    if explainer.logits.kind == "tokens" or not 1 < count <= _MOST_CHOICES or explainer.element is not None:
        count = 0
    classes = [(str(i), names[i] if i < len(names) else f"class {i}") for i in range(count)]
    own = [] if asked is None or asked in dict(classes) else [(asked, asked)]
    return own + classes
