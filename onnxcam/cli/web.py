"""``onnxcam web``: a static page that explains in the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_MODEL = typer.Argument(metavar="MODEL", help="A file that `onnxcam export` wrote.")
_RUNTIME = typer.Option(help="Folder of the npm package onnxruntime-web; by default npm downloads it once.")


def command(
    model: Annotated[Path, _MODEL],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    colormap: Annotated[str, typer.Option(help="The heatmap's colours.")] = "jet",
    runtime: Annotated[Path | None, _RUNTIME] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page that the folder holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, as one JSON object on stdout.")] = False,
) -> None:
    """Write a page on which the exported model explains pictures and the camera: plain files, and no server side.

    Exit codes: 0 written; 2 refused.
    """
    from onnxcam.cli.listing import say
    from onnxcam.web import write_site

    page = write_site(model, out, colormap=colormap, runtime=runtime, force=force)
    if as_json:
        print(json.dumps({"page": str(page), "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}))
    say(f"wrote {page}; to see it: python -m http.server --directory {out}, then http://localhost:8000")
