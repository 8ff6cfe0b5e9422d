"""``python -m onnxcam``: the command line."""

from onnxcam.cli import run

raise SystemExit(run())
