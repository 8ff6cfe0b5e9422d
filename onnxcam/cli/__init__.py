"""The command line: one file per command; each parses, calls and prints."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType
from typing import Annotated, Any

import typer

from onnxcam import __version__
from onnxcam.cli import (
    audit,
    batch,
    compare,
    doctor,
    evaluate,
    explain,
    export,
    inspect,
    listing,
    live,
    web,
    words,
    zoo,
)
from onnxcam.cli.guard import guarded
from onnxcam.cli.listing import say
from onnxcam.errors import OnnxcamError

CANNOT_START = 2
_PUT_OFF = ("sympy", "onnx_ir._symbolic_shapes")  # 0.3 s; only arithmetic with named axes reads them
_YOUNG = 200_000  # objects; building a graph makes many that stay, explaining a picture leaves no cycles behind
COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "audit": audit.command,
    "batch": batch.command,
    "compare": compare.command,
    "doctor": doctor.command,
    "evaluate": evaluate.command,
    "explain": explain.command,
    "export": export.command,
    "inspect": inspect.command,
    "live": live.command,
    "methods": listing.methods,
    "web": web.command,
    "words": words.app,
    "zoo": zoo.app,
}


def application(asked: str = "") -> typer.Typer:
    """The command line: the one command that is asked for, since to read the options of all takes time; else all."""
    app = typer.Typer(
        name="onnxcam",
        help="Explain any ONNX image model from the .onnx file alone.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in [asked] if asked in COMMANDS else COMMANDS:
        command = COMMANDS[name]
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _version(given: bool) -> None:
    if given:
        print(f"onnxcam {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Explain any ONNX image model from the .onnx file alone."""


def run() -> int:
    """Entry point: :func:`main`, guarded against crashes in native code."""
    _start_quickly()
    return guarded(main)


class _Later(MetaPathFinder):
    """Modules that are executed when something of them is used, which most commands never do."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The usual place, for `_PUT_OFF` alone."""
        spec = PathFinder.find_spec(name, path, target) if name in _PUT_OFF else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def _start_quickly() -> None:
    """For a process of one's own: a program that merely imports onnxcam finds its interpreter as it was."""
    gc.set_threshold(_YOUNG, 20, 20)
    atexit.register(gc.freeze)  # what ends with the process is not searched for cycles first
    if _Later not in sys.meta_path:
        sys.meta_path.insert(0, _Later)


def main() -> None:
    """Errors become one message on stderr, and an exit code."""
    _mend_streams()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # read when cv2 is imported; its complaints become our errors
    debug = "--debug" in sys.argv
    sys.argv = [sys.argv[0], *(a for a in sys.argv[1:] if a != "--debug")]
    warnings.showwarning = _warn
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        application(*sys.argv[1:2])(prog_name="onnxcam")
    except OnnxcamError as error:
        _stop(str(error), debug)
    except KeyboardInterrupt:
        _stop("interrupted", debug, code=130)
    except SystemExit as ended:
        if _interrupted(ended):
            _stop("interrupted", debug, code=130)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CANNOT_START) from None
    except OSError as error:
        _stop(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", debug)
    except Exception as error:
        _stop(f"unexpected {type(error).__name__}: {error}. Run with --debug and report it", debug)


def _interrupted(ended: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: typer ends the process on that without a word."""
    while ended is not None and not isinstance(ended, KeyboardInterrupt):
        ended = ended.__cause__ or ended.__context__
    return ended is not None


def _mend_streams() -> None:
    """A closed stream swallows what is written; a name that the terminal cannot show is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _stop(message: str, debug: bool, code: int = CANNOT_START) -> None:
    if debug:
        raise
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    say(message)
    raise SystemExit(code)


def _warn(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    say(f"warning: {message}")
