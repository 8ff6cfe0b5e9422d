"""``onnxcam zoo``: the named models, bundled and public."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from onnxcam.zoo import ZooModel

_JSON = typer.Option("--json", help="As JSON.")
_NAMES = typer.Argument(metavar="NAME...", help="Names of `onnxcam zoo list`, with or without zoo:.")
app = typer.Typer(
    help="List and download the named models, usable as zoo:NAME wherever a model is asked for.",
    invoke_without_command=True,
)


@app.callback()
def _default(context: typer.Context, as_json: Annotated[bool, _JSON] = False) -> None:
    if context.invoked_subcommand is None:
        show(as_json)


@app.command("list")
def show(as_json: Annotated[bool, _JSON] = False) -> None:
    """List the models: what each is, its size, licence, and where it is."""
    from onnxcam import zoo
    from onnxcam.cli.listing import table
    from onnxcam.download import amount

    found = [*zoo.models().values(), *zoo.public().values()]
    if as_json:
        print(json.dumps([_described(m) for m in found]))
        return
    table(
        ("name", "size", "input", "where", "licence", "description"),
        [(m.name, amount(m.bytes), "x".join(map(str, m.input_size)), m.place, m.licence, m.description) for m in found],
    )


@app.command("pull")
def pull(names: Annotated[list[str], _NAMES]) -> None:
    """Download public models, verify them, and print where they are; interrupted downloads are continued."""
    from onnxcam import zoo

    for name in names:
        zoo.model(name)  # before anything is downloaded
    for name in names:
        print(zoo.locate(name), flush=True)


def _described(model: ZooModel) -> dict[str, Any]:
    keys = ("name", "bytes", "sha256", "input_size", "opset", "licence", "description", "preprocess", "accuracy", "url")
    here = None if model.place == "to download" else str(model.path)
    found = {key: getattr(model, key) for key in keys}
    return found | {"where": model.place, "path": here, "classes": len(model.labels)}
