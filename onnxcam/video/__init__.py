"""Video, in and out: frames of a file, a camera or an address; frames to a file. Pixels are uint8 (H, W, 3), RGB."""

from onnxcam.video.source import USUAL_FPS, Frame, Pixels, Source, open_source
from onnxcam.video.writer import ENCODERS, Writer, check_output

__all__ = ["ENCODERS", "USUAL_FPS", "Frame", "Pixels", "Source", "Writer", "check_output", "open_source"]
