"""``python -m onnxcam``, and where the command ``onnxcam`` begins."""

import sys


def run() -> int:
    """The command line; an interrupt is one word, also while this is still being imported."""
    try:
        from onnxcam.cli import run as started

        return started()
    except KeyboardInterrupt:
        print("onnxcam: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(run())
