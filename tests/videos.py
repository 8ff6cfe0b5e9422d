"""Videos of the sample scenes, without loss, and other ways to make one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from onnxcam.image import read_image
from onnxcam.zoo import samples

FPS = 12.5


def scenes(count: int, size: int = 112) -> list[Any]:
    """The sample scenes, sliding to the right by five pixels a frame, six frames each."""
    found = []
    for path in sorted(samples("shapes-cnn")):
        small = cv2.resize(read_image(path), (size, size), interpolation=cv2.INTER_AREA)
        found += [np.roll(small, 5 * k, axis=1) for k in range(6)]
    return found[:count]


def video(path: Path, frames: Sequence[Any], codec: str = "FFV1", fps: float = FPS) -> Path:
    """Written by OpenCV alone; FFV1 and MPNG are without loss."""
    height, width = frames[0].shape[:2] if frames else (48, 64)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def decoded(path: Path) -> list[Any]:
    """RGB frames, by OpenCV alone."""
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        there, bgr = capture.read()
        if not there:
            return found
        found.append(bgr[..., ::-1])


def facts(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames, frames per second, (height, width), as the file tells them."""
    capture = cv2.VideoCapture(str(path))
    size = capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS), (int(size[0]), int(size[1]))
