"""``python -m onnxcam``: the command line."""

from onnxcam.cli import main

main()
