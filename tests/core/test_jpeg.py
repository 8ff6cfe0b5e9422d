"""Damaged JPEG files: what a decoder would fill with grey, or could not know, must not pass as a picture."""

from __future__ import annotations

import os
import re
import time

import cv2
import numpy as np
import pytest

from onnxcam.core.jpeg import DamagedError, looks_filled, walk, with_more
from onnxcam.errors import ImageError
from onnxcam.image import decode_image

pytestmark = pytest.mark.anyruntime

RST, PROG, SUB = cv2.IMWRITE_JPEG_RST_INTERVAL, cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_SAMPLING_FACTOR
KINDS = {
    "plain": [],
    "restarts": [RST, 5],
    "4:4:4": [SUB, 0x111111],
    "4:2:2": [SUB, 0x211111],
    "optimised": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    "progressive": [PROG, 1],
    "progressive with restarts": [PROG, 1, RST, 7],
}
EOI = b"\xff\xd9"


def photo(height: int = 119, width: int = 173) -> np.ndarray:
    """Something with edges, shades and noise."""
    rng = np.random.default_rng(7)
    shades = cv2.resize(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8), (width, height)).astype(int)
    return np.clip(shades + rng.integers(-20, 20, shades.shape), 0, 255).astype(np.uint8)


def jpeg(kind: str, picture: np.ndarray | None = None) -> bytes:
    return cv2.imencode(".jpg", photo() if picture is None else picture, KINDS[kind])[1].tobytes()


def refused(data: bytes) -> bool:
    try:
        decode_image(data, "x.jpg")
    except ImageError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(119, 173), (8, 8), (16, 16), (17, 33), (1, 1), (64, 3)])
def test_what_is_whole_passes(kind, size):
    data = jpeg(kind, photo(*size))
    np.testing.assert_array_equal(decode_image(data, "x"), cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_file_is_refused_wherever_it_is_cut(kind):
    data = jpeg(kind)
    assert all(refused(data[:at]) for at in [*range(2, len(data) - 1, 97), len(data) - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_file_with_an_end_is_refused_down_to_its_last_row_of_blocks(kind):
    data, row = jpeg(kind), 119 // 16 * 16  # the last row begins there
    start = walk(data).scans[0][0]
    places = np.linspace(start + 8, len(data) - 8, 40).astype(int)
    for at in places:
        if not refused(cut := data[:at] + EOI):
            wrong = decode_image(cut, "x").astype(int) - decode_image(data, "x")
            if kind.startswith("progressive"):  # the finest bits of some edges
                assert at > walk(data).scans[-1][0]
                assert np.mean(np.abs(wrong)) < 4
            else:
                assert not np.any(wrong[: row - 1]), at  # colours reach a pixel further
                assert np.mean(np.any(wrong, axis=2)) < 0.02, at  # a block or so


@pytest.mark.parametrize("kind", ["plain", "restarts", "4:4:4", "4:2:2", "optimised"])
def test_a_hole_is_refused(kind):
    data = jpeg(kind)
    start = walk(data).scans[0][0]
    holes = [data[:at] + data[at + 1500 :] for at in np.linspace(start + 8, len(data) - 1600, 25).astype(int)]
    assert all(map(refused, holes))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_jpeg_in_the_middle_is_refused(kind):
    data, rng = jpeg(kind), np.random.default_rng(3)
    start = walk(data).scans[0][0]
    places = np.linspace(start + 8, len(data) - 2100, 20).astype(int)
    assert all(refused(data[:at] + rng.bytes(2000) + data[at + 2000 :]) for at in places)


def test_restarts_are_counted():
    data = jpeg("restarts")
    first, second, third = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data)][:3]
    swapped = data[: first + 1] + data[second + 1 : second + 2] + data[first + 2 :]
    for damaged in (swapped, data[:first] + data[second:], data[:second] + data[third:]):
        with pytest.raises(DamagedError, match="damaged or missing"):
            walk(damaged)
    cut = data[: data.rindex(b"\xff", 0, -2)]  # the last interval
    last = max(m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data))
    with pytest.raises(DamagedError, match="damaged or missing"):
        walk(data[:last] + EOI)
    assert refused(cut)


def test_markers_that_there_are_not_are_damage():
    data = jpeg("plain")
    at = (walk(data).scans[0][0] + len(data)) // 2
    with pytest.raises(DamagedError, match="damaged or missing"):
        walk(data[:at] + b"\xff\x37\0\2" + data[at:])


def test_scans_that_would_add_detail_are_missed():
    """The first scans of a progressive file make a whole picture, but not this one."""
    data = jpeg("progressive")
    scans = walk(data).scans
    assert len(scans) == 10
    for _, end in scans[:-1]:
        with pytest.raises(DamagedError, match="cut off"):
            walk(data[:end] + EOI)


def test_a_picture_may_be_grey():
    """The very grey that is filled in, everywhere or in a corner, is told from missing data."""
    grey = np.full((64, 80, 3), 128, np.uint8)
    corner = photo(64, 80)
    corner[32:, 32:] = 128
    for picture in (grey, corner):
        for kind in KINDS:
            data = jpeg(kind, picture)
            assert looks_filled(decode_image(data, "x"))
            assert not refused(data)


def test_more_data_change_a_picture_only_where_some_are_missing():
    whole = jpeg("restarts")
    cut = whole[: len(whole) // 2] + EOI
    pixels = {k: cv2.imdecode(np.frombuffer(d, np.uint8), 1) for k, d in
              {"whole": whole, "more": with_more(whole)}.items()}  # fmt: skip
    np.testing.assert_array_equal(pixels["whole"], pixels["more"])
    assert with_more(whole).count(bytes(range(1, 129))) == len(re.findall(rb"\xff[\xd0-\xd7]", whole)) + 1
    with pytest.raises(DamagedError):
        with_more(cut)


@pytest.mark.parametrize("at", [0, 3, 4, 7])
def test_grey_blocks_are_found_wherever_they_lie(at):
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[at : at + 8, 16 + at : 24 + at] = 128
    assert looks_filled(picture)
    picture[..., 0] += 1
    assert not looks_filled(picture)


def test_damaged_headers_do_no_harm():
    """Any byte of the headers changed: the walk ends, with a size or an error that says so."""
    data = jpeg("restarts", photo(24, 24))
    start = walk(data).scans[0][0]
    for at in range(2, start):
        for value in (0, 1, 0x7F, 0xFF):
            refused(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize("kind", ["plain", "4:4:4", "4:2:2", "optimised"])
def test_a_whole_picture_with_grey_blocks_is_read_in_silence(kind, capfd):
    """File descriptor 2 belongs to all threads: it is not turned away while one decodes."""
    corner = photo(64, 80)
    corner[32:, 32:] = 128
    assert looks_filled(decode_image(jpeg(kind, corner), "x"))
    assert capfd.readouterr().err == ""


def test_what_other_threads_say_while_one_decodes_is_heard(monkeypatch, capfd):
    grey, decode = jpeg("plain", np.full((64, 80, 3), 128, np.uint8)), cv2.imdecode

    def saying(*given):
        os.write(2, b"said")
        return decode(*given)

    monkeypatch.setattr(cv2, "imdecode", saying)
    decode_image(grey, "x")
    assert capfd.readouterr().err == "saidsaid"  # decoded twice: once with more data


def test_restarts_without_an_interval_are_damage():
    data = jpeg("plain")
    for n in (1, 2, 1 << 20):
        with pytest.raises(DamagedError, match="damaged or missing"):
            walk(data[:-2] + b"\xff\xd0" * n + EOI)


def test_no_more_restarts_than_the_frame_can_have():
    data, found = jpeg("restarts"), re.findall(rb"\xff[\xd0-\xd7]", jpeg("restarts"))
    following = [bytes([255, 0xD0 + (len(found) + k) % 8]) for k in range(2)]
    assert len(found) == -(-8 * 11 // 5) - 1  # 16 x 16 pixels each, five an interval
    walk(data[:-2] + following[0] + EOI)  # some encoders put one behind the last interval
    with pytest.raises(DamagedError, match="damaged or missing"):
        walk(data[:-2] + b"".join(following) + EOI)


@pytest.mark.parametrize("kind", ["plain", "restarts"])
def test_fill_bytes_are_no_data(kind):
    """Any number of 0xff may stand before a marker (B.1.1.2); more data belong before them."""
    corner = photo(64, 80)
    corner[32:, 32:] = 128
    data = jpeg(kind, corner)
    filled = re.sub(rb"\xff[\xd0-\xd7\xd9]", lambda found: b"\xff\xff" + found[0], data)
    assert walk(filled).scans[0][0] == walk(data).scans[0][0]
    assert with_more(filled).replace(b"\xff\xff\xff", b"\xff") == with_more(data)
    np.testing.assert_array_equal(decode_image(filled, "x"), decode_image(data, "x"))


@pytest.mark.parametrize("kind", ["plain", "restarts"])
@pytest.mark.parametrize("after", [b"\x00", b"\x01", b"\xd0"])
def test_long_runs_take_no_time(kind, after):
    """In the header, in the data and at the end of them: each byte is passed once."""
    data = jpeg(kind)
    start, end = walk(data).scans[0]
    began = time.perf_counter()
    for at in (2, (start + end) // 2, end):
        refused(data[:at] + b"\xff" * 1_000_000 + after + data[at:])
    assert time.perf_counter() - began < 2  # passed again from each byte: hours


def test_no_more_scans_than_a_picture_can_have():
    """Each costs the decoder a pass over the whole picture."""
    data = jpeg("progressive")
    start, end = walk(data).scans[-1]
    one = data[data.rindex(b"\xff\xda", 0, end) : start]
    walk(data[:end] + one * 300 + EOI)
    with pytest.raises(DamagedError, match="damaged or missing"):
        walk(data[:end] + one * 600 + EOI)
