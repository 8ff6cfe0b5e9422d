"""Reading, preprocessing and saving pictures: every file is made here, or comes from ONNXCAM_REAL_ZOO."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest

from onnxcam.errors import ImageError, OptionError, OutputError, UnknownNameError
from onnxcam.image import PRESETS, InputSpec, Preprocess, as_image, read_image, save_image

pytestmark = pytest.mark.anyruntime
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:240:10, 0:240:6], 128), axis=2).astype(np.uint8)  # (24, 40, 3)
SPEC = InputSpec("NCHW", 3, 224, 224)


def encoded(suffix, array, flags=()):
    """``array`` is in OpenCV's channel order."""
    return bytes(cv2.imencode(suffix, array, flags)[1])


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, rows, *before):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + data + png_chunk(b"IEND", b"")


def with_orientation(jpeg, orientation):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


GIF = (  # 2 x 2, two colours: red, blue / blue, red
    b"GIF89a\2\0\2\0\x80\0\0" + bytes([255, 0, 0, 0, 0, 255]) + b",\0\0\0\0\2\0\2\0\0" + b"\2\3\x44\x02\x05\0;"
)


@pytest.fixture
def file(tmp_path):
    names = itertools.count()

    def write(data, name=None):
        path = tmp_path / (name or f"picture{next(names)}")
        path.write_bytes(data)
        return path

    return write


# ---- reading ----


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".webp"])
def test_lossless_formats_come_back_exactly(file, suffix):
    flags = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    np.testing.assert_array_equal(read_image(file(encoded(suffix, RGB[..., ::-1], flags))), RGB)


def test_jpeg_has_red_first(file):
    result = read_image(file(encoded(".jpg", SMOOTH[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 98))))
    assert np.abs(result.astype(int) - SMOOTH).mean() < 3


def test_the_content_decides_not_the_name(file):
    np.testing.assert_array_equal(read_image(file(encoded(".png", RGB[..., ::-1]), "härä 猫.jpg")), RGB)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: a.transpose(1, 0, 2)[:, ::-1]),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: a.transpose(1, 0, 2)[::-1]),
    ],
)
def test_exif_orientation_is_applied(file, orientation, turn):
    jpeg = encoded(".jpg", SMOOTH[..., ::-1])
    upright = read_image(file(jpeg))
    np.testing.assert_array_equal(read_image(file(with_orientation(jpeg, orientation))), turn(upright))


def test_grey_is_repeated(file):
    for suffix in (".png", ".pgm", ".bmp"):
        result = read_image(file(encoded(suffix, RGB[..., 0])))
        np.testing.assert_array_equal(result, np.repeat(RGB[..., :1], 3, axis=2))


def test_transparency_is_dropped_and_the_stored_colour_kept(file):
    rgba = png(2, 1, 8, 6, [bytes([10, 20, 30, 0, 40, 50, 60, 128])])
    assert read_image(file(rgba)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    grey_alpha = png(2, 1, 8, 4, [bytes([7, 0, 99, 255])])
    assert read_image(file(grey_alpha)).tolist() == [[[7] * 3, [99] * 3]]


def test_a_palette_with_transparency_gives_its_colours(file):
    palette = png_chunk(b"PLTE", bytes([1, 2, 3, 200, 100, 50])), png_chunk(b"tRNS", bytes([0, 255]))
    assert read_image(file(png(3, 1, 8, 3, [bytes([1, 0, 1])], *palette))).tolist() == [
        [[200, 100, 50], [1, 2, 3], [200, 100, 50]]
    ]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_of_sixteen_bits_the_upper_eight_are_kept(file, suffix):
    grey = np.array([[0, 255, 256, 511, 40000, 65535]], np.uint16)
    assert read_image(file(encoded(suffix, grey)))[0, :, 1].tolist() == [0, 0, 1, 1, 156, 255]


def test_float_tiffs_are_refused_not_clipped(file):
    assert "convert it to PNG" in refusal(file(encoded(".tiff", RGB.astype(np.float32))))


def test_gif_first_frame(file):
    red, blue = [255, 0, 0], [0, 0, 255]
    assert read_image(file(GIF)).tolist() == [[red, blue], [blue, red]]


def test_pnm_comments(file):
    assert read_image(file(b"P5\n# made by hand\n3 1\n# again\n255\n\x01\x02\x03"))[0, :, 0].tolist() == [1, 2, 3]
    with pytest.raises(ImageError, match="grey levels must run from 0 to 255"):
        read_image(file(b"P5 3 1 15\n\x01\x02\x03"))

    assert read_image(file(b"P4 #bits\n#and\n\n # more\n 8\n1\n\x0f"))[0, :, 0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize("gap", [b" ", b"\n", b"# \n", b"#\n ", b" \t\r\n"])
@pytest.mark.parametrize("before", [b"P5\n", b"P5 3", b"P5 3 ", b"P5 3 1", b"P5 3 1 "])
def test_damaged_pnm_headers_take_no_time(file, gap, before):
    began = time.perf_counter()
    said = refusal(file(before + gap * 100_000 + b"x"))
    assert "header is damaged" in said or "grey levels" in said
    assert time.perf_counter() - began < 1  # with two ways through a gap: longer than the sun shines


# ---- refusing ----


def refusal(path, **options):
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_may_not_be_read_is_told_in_words(file, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    path = file(b"x")
    monkeypatch.setattr(type(path), "read_bytes", denied)
    assert refusal(path) == f"cannot read {str(path)!r}: Permission denied"


def test_what_is_no_file(tmp_path, file):
    assert "no such file" in refusal(tmp_path / "none.png")
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(file(b"") / "none.png")
    assert "empty" in refusal(file(b""))
    assert "read: JPEG, PNG, GIF, BMP, TIFF, WebP" in refusal(file(b"%PDF-1.7 and so on"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no links here that anybody may make")
def test_a_link_to_itself_is_told_so(tmp_path):
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "nowhere.png").symlink_to("none.png")
    assert refusal(tmp_path / "itself.png").endswith(os.strerror(errno.ELOOP))
    assert "no such file" in refusal(tmp_path / "nowhere.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no ordinary file" in refusal(tmp_path / "pipe")


BOMBS = {
    "PNG": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 50000, 8, 2, 0, 0, 0))
    + png_chunk(b"IEND", b""),
    "JPEG": b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", 50000, 60000) + b"\1\1\x11\0\xff\xd9",
    "GIF": b"GIF89a" + struct.pack("<HH", 60000, 50000) + b"\0\0\0;",
    "BMP": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -50000) + bytes(40),
    "TIFF": b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIIHHIII", 256, 4, 1, 60000, 257, 4, 1, 50000, 0),
    "PNM": b"P6 60000 50000 255\n",
    "WebP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<I", 59999)[:3] + struct.pack("<I", 49999)[:3],
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(file, monkeypatch, name):
    monkeypatch.setattr(cv2, "imdecode", lambda *a: pytest.fail("decoded"))
    message = refusal(file(BOMBS[name]))
    assert f"{name} of 60000 x 50000 pixels, more than the limit of 178,956,970" in message
    assert "max_pixels" in message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_the_limit_counts_pixels_exactly(file, suffix):
    path = file(encoded(suffix, RGB))
    assert read_image(path, max_pixels=54).shape == (6, 9, 3)
    assert "of 9 x 6 pixels, more than the limit of 53: give a higher max_pixels (--max-pixels) if" in refusal(
        path, max_pixels=53
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_cut_off_files_are_refused_at_any_length(file, suffix, share):
    data = encoded(suffix, RGB)
    refusal(file(data[: int(share * len(data))]))


@pytest.mark.parametrize(("suffix", "missing"), [(".jpg", 2), (".png", 12), (".webp", 1)])
def test_a_missing_end_is_a_cut_off_file(file, suffix, missing):
    data = encoded(suffix, SMOOTH)
    assert "cut off" in refusal(file(data[:-missing]))
    assert read_image(file(data + b"trailing bytes")).shape == SMOOTH.shape


def test_fill_bytes_may_stand_before_a_marker(file):
    jpeg = encoded(".jpg", SMOOTH)
    filled = jpeg[:2] + b"\xff\xff" + jpeg[2:-2] + b"\xff\xff\xff" + jpeg[-2:]
    np.testing.assert_array_equal(read_image(file(filled)), read_image(file(jpeg)))
    assert "cut off" in refusal(file(filled[:-1]))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(file):
    jpeg = encoded(".jpg", SMOOTH)
    thumbnail = b"\xff\xe2" + struct.pack(">H", len(jpeg) + 2) + jpeg
    whole = jpeg[:2] + thumbnail + jpeg[2:]
    np.testing.assert_array_equal(read_image(file(whole)), read_image(file(jpeg)))
    assert "cut off" in refusal(file(whole[:-40]))


def test_damage_of_every_kind_is_an_image_error(file):
    generator = np.random.default_rng(3)
    for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp"):
        data = np.frombuffer(encoded(suffix, RGB), np.uint8)
        for _ in range(20):
            broken = data.copy()
            broken[generator.integers(2, min(len(data), 60), 3)] = generator.integers(0, 256, 3)
            with suppress(ImageError):  # and nothing else
                assert read_image(file(broken.tobytes()), max_pixels=10**6).shape[2] == 3


def test_zero_pixels_and_lab(file):
    assert "0 x 32 pixels" in refusal(file(b"GIF87a\0\0\x20\0\0\0\0;"))
    tags = struct.pack("<HHIIHHIIHHII", 256, 4, 1, 2, 257, 4, 1, 2, 262, 3, 1, 8)
    assert "CIELAB" in refusal(file(b"II*\0\x08\0\0\0\3\0" + tags + bytes(4)))


def test_importing_does_not_load_opencv():
    code = "import sys, onnxcam.image, onnxcam.core.overlay, onnxcam.core.localize; print('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---- as_image ----


def test_arrays_as_pictures():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(as_image(RGB), RGB)
    np.testing.assert_array_equal(as_image(np.dstack([RGB, grey])), RGB)
    np.testing.assert_array_equal(as_image(grey), np.dstack([grey] * 3))
    np.testing.assert_array_equal(as_image(grey[..., None]), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (RGB / 255, "explain_tensor"),
        (RGB[None], r"\(1, 6, 9, 3\)"),
        (RGB.transpose(2, 0, 1), r"\(3, 6, 9\)"),
        (RGB[:0], r"\(0, 9, 3\)"),
        (b"bytes", "not bytes"),
    ],
)
def test_what_is_no_picture(wrong, message):
    with pytest.raises(ImageError, match=message):
        as_image(wrong)


# ---- preprocessing ----


def test_imagenet_by_hand():
    image = np.full((256, 256, 3), (255, 51, 102), np.uint8)
    x, _ = PRESETS["imagenet"].apply(image, SPEC)
    expected = (1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.4 - 0.406) / 0.225
    np.testing.assert_allclose(x, np.broadcast_to(np.reshape(expected, (1, 3, 1, 1)), x.shape), rtol=1e-4)
    assert x.shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("raw", (255, 51, 102)),
        ("unit", (1, 0.2, 0.4)),
        ("tf", (1, -0.6, -0.2)),
        ("caffe", (102 - 103.939, 51 - 116.779, 255 - 123.68)),
        ("caffe,mean=104/117/123", (-2, -66, 132)),
        ("raw,color=BGR,scale=1/51,mean=1,std=2/4/8", (0.5, 0, 0.5)),
    ],
)
def test_presets_by_hand(preset, expected):
    image = np.full((8, 8, 3), (255, 51, 102), np.uint8)
    x, _ = Preprocess.parse(preset).apply(image, InputSpec("NHWC", 3, 4, 5))
    np.testing.assert_allclose(x, np.broadcast_to(np.float32(expected), (1, 4, 5, 3)), rtol=1e-5, atol=1e-6)


def test_layouts_hold_the_same_pixels():
    first, _ = PRESETS["raw"].apply(RGB, InputSpec("NCHW", 3, None, None))
    last, _ = PRESETS["raw"].apply(RGB, InputSpec("NHWC", 3, None, None))
    np.testing.assert_array_equal(last[0], RGB)
    np.testing.assert_array_equal(first[0], RGB.transpose(2, 0, 1))


def test_grey_is_pillows_luma():
    y, x, c = np.mgrid[:9, :13, :3]
    picture = ((37 * y + 91 * x + 53 * c + 7 * x * y) % 256).astype(np.uint8)
    grey, _ = PRESETS["raw"].apply(picture, InputSpec("NCHW", 1, None, None))
    pillow = [43, 134, 196, 60, 151, 213, 77, 168, 80, 94, 185, 97, 111]  # convert("L") of the first row
    assert grey[0, 0, 0].tolist() == pillow
    three, _ = Preprocess.parse("raw,color=gray").apply(picture, InputSpec("NHWC", 3, None, None))
    np.testing.assert_array_equal(three[0, 0], np.repeat(np.array(pillow)[:, None], 3, axis=1))


def test_grey_is_exact_where_it_falls_between_two_levels():
    colours = np.random.default_rng(6).integers(0, 256, (1, 200_000, 3), dtype=np.uint8)
    sums = colours.astype(np.int64) @ [19595, 38470, 7471]
    ties = np.flatnonzero(sums[0] % 65536 == 32768)
    assert len(ties)
    grey, _ = PRESETS["raw"].apply(colours, InputSpec("NCHW", 1, None, None, np.uint8))
    np.testing.assert_array_equal(grey[0, 0], (sums + 32768) // 65536)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("text", ["imagenet,fit=stretch", "caffe,fit=stretch,std=58.4/57.1/57.4", "tf,color=gray"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_grey_level_is_normalised_by_the_formula(layout, text, dtype):
    picture = np.arange(768, dtype=np.int64).reshape(16, 16, 3).transpose(1, 0, 2) * 7 % 256
    settings = Preprocess.parse(text)
    x, _ = settings.apply(picture.astype(np.uint8), InputSpec(layout, 3, None, None, dtype))
    luma = (picture @ [19595, 38470, 7471] + 32768) // 65536
    channels = {"RGB": picture, "BGR": picture[..., ::-1], "GRAY": np.stack([luma] * 3, axis=2)}[settings.color]
    want = (channels * settings.scale - np.array(settings.mean)) / np.array(settings.std)
    found = x[0].transpose(1, 2, 0) if layout == "NCHW" else x[0]
    rounding = 2.0**-11 if dtype == np.float16 else 2.0**-21
    assert x.dtype == dtype
    assert x.flags.c_contiguous
    np.testing.assert_allclose(found, want, rtol=rounding, atol=rounding)


def test_crop_keeps_the_centre_and_letterbox_keeps_all():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200
    cropped, _ = Preprocess.parse("raw,fit=crop,crop_ratio=1").apply(image, InputSpec("NCHW", 3, 20, 20))
    assert (cropped[..., 1:-1] == 200).all()
    boxed, _ = Preprocess.parse("raw,fit=letterbox,fill=7").apply(image, InputSpec("NHWC", 3, 20, 20))
    assert boxed[0, :, :, 0].mean(axis=1).tolist() == [7] * 5 + [100] * 10 + [7] * 5
    corner, _ = Preprocess.parse("raw,fit=letterbox,align=topleft").apply(image, InputSpec("NHWC", 3, 20, 20))
    assert corner[0, :, :, 0].mean(axis=1).tolist() == [100] * 10 + [114] * 10


def test_free_sizes():
    def size(spec, text="raw"):
        return Preprocess.parse(text).apply(RGB, spec)[0].shape[2:]

    assert size(InputSpec("NCHW", 3, None, None)) == (6, 9)
    assert size(InputSpec("NCHW", 3, None, None), "imagenet") == (6, 9)
    whole, _ = Preprocess.parse("raw,fit=crop").apply(RGB, InputSpec("NHWC", 3, None, None))
    np.testing.assert_array_equal(whole[0], RGB)
    assert size(InputSpec("NCHW", 3, 48, None)) == (48, 72)
    assert size(InputSpec("NCHW", 3, None, 3)) == (2, 3)
    assert size(InputSpec("NCHW", 3, None, None), "imagenet,size=20x30") == (20, 30)
    with pytest.raises(OptionError, match=r"\(64, None\)"):
        size(InputSpec("NCHW", 3, 64, None), "raw,size=32")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int32])
def test_element_types(dtype):
    x, _ = PRESETS["raw"].apply(RGB, InputSpec("NHWC", 3, None, None, dtype))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x[0], RGB)


def test_integers_are_rounded():
    x, _ = Preprocess.parse("raw,mean=0.4").apply(RGB | 1, InputSpec("NHWC", 3, None, None, np.int16))
    np.testing.assert_array_equal(x[0], RGB | 1)


def test_int8_takes_shifted_grey_levels():
    spec = InputSpec("NHWC", 3, None, None, np.int8)
    x, _ = Preprocess.parse("raw,mean=128").apply(RGB, spec)
    np.testing.assert_array_equal(x[0], RGB.astype(int) - 128)
    with pytest.raises(OptionError, match="raw,mean=128"):
        PRESETS["raw"].apply(RGB, spec)


@pytest.mark.parametrize("preset", ["imagenet", "tf", "unit", "caffe"])
def test_integers_take_no_normalised_values(preset):
    with pytest.raises(OptionError, match=r"uint8 and normalises in its graph.*use 'raw'"):
        PRESETS[preset].apply(RGB, InputSpec("NHWC", 3, 8, 8, np.uint8))


def test_models_that_take_no_pictures():
    with pytest.raises(OptionError, match="takes 4 channels"):
        PRESETS["raw"].apply(RGB, InputSpec("NCHW", 4, 8, 8))
    with pytest.raises(OptionError, match="the model has one channel"):
        PRESETS["imagenet"].apply(RGB, InputSpec("NCHW", 1, 8, 8))
    with pytest.raises(OptionError, match="takes bool"):
        PRESETS["raw"].apply(RGB, InputSpec("NCHW", 3, 8, 8, np.bool_))


def test_parse():
    parsed = Preprocess.parse(" Caffe, mean=104/117/123 ,fit=LetterBox,size=224X320,antialias=false,fill=0")
    assert parsed == Preprocess(
        name="caffe", color="BGR", mean=(104, 117, 123), fit="letterbox", size=(224, 320), antialias=False, fill=0
    )
    assert Preprocess.parse("imagenet") == PRESETS["imagenet"]
    assert Preprocess.parse("raw,size=96").size == (96, 96)
    assert Preprocess.parse("raw,scale=1/255").scale == 1 / 255


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("imagnet", UnknownNameError, "did you mean 'imagenet'"),
        ("raw,maen=3", UnknownNameError, "did you mean 'mean'"),
        ("raw,fit=letterbx", UnknownNameError, "did you mean 'letterbox'"),
        ("raw,color=CMYK", UnknownNameError, "known: RGB, BGR, GRAY"),
        ("raw,mean=1/2", OptionError, "mean='1/2': it must be one number, or three"),
        ("raw,std=0", OptionError, "above 0"),
        ("raw,scale=nan", OptionError, "scale='nan'"),
        ("raw,scale=1/0", OptionError, "scale='1/0'"),
        ("raw,scale=0", OptionError, "scale='0': it must be a number other than 0"),
        ("raw,size=0x4", OptionError, "HEIGHTxWIDTH"),
        ("raw,size=1x2x3", OptionError, "HEIGHTxWIDTH"),
        ("raw,crop_ratio=1.5", OptionError, "from 0.01 to 1"),
        ("raw,fill=300", OptionError, "from 0 to 255"),
        ("raw,antialias=maybe", OptionError, "true or false"),
        ("raw,letterbox", UnknownNameError, "unknown preprocess setting 'letterbox'"),
        ("", UnknownNameError, "known: imagenet"),
    ],
)
def test_parse_refuses(text, error, message):
    with pytest.raises(error, match=message):
        Preprocess.parse(text)


@pytest.mark.parametrize("text", [*PRESETS, "caffe,mean=104/117/123,fit=letterbox,size=3x4,align=topleft,fill=9"])
def test_dictionaries_come_back_exactly_through_json(text):
    spec = Preprocess.parse(text)
    assert Preprocess.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_from_dict_fills_in_and_refuses():
    assert Preprocess.from_dict({"name": "tf", "size": [8, 9]}) == Preprocess.parse("tf,size=8x9")
    own = {"name": "mine", "scale": 2, "mean": 3, "std": 4}
    assert Preprocess.from_dict(own) == Preprocess(name="mine", scale=2.0, mean=(3.0,), std=(4.0,))
    with pytest.raises(UnknownNameError, match="did you mean 'size'"):
        Preprocess.from_dict({"sise": 3})


@pytest.mark.parametrize("wrong", [{"scale": [1]}, {"scale": True}, {"mean": True}, {"size": True}, {"size": [9.5, 8]}])
def test_from_dict_refuses_values_of_another_kind(wrong):
    with pytest.raises(OptionError, match=f"preprocess {next(iter(wrong))}="):
        Preprocess.from_dict({"name": "raw", **wrong})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"color": "BGR"}, "has no name, and scale and mean and std not given"),
        ({"size": [8, 9], "scale": 1, "std": 2}, "has no name, and mean not given"),
        ({"name": "ImageNet"}, "'ImageNet' is no preset, and scale and mean and std"),
        ({}, "Say name = one of imagenet, tf"),
        ({"name": 7}, "name=7: it must be a text"),
    ],
)
def test_from_dict_assumes_no_range_of_pixels(settings, said):
    with pytest.raises(OptionError, match=said):
        Preprocess.from_dict(settings)


@pytest.mark.parametrize("text", ["raw", "raw,fit=crop", "raw,fit=letterbox", "raw,fit=letterbox,align=topleft"])
@pytest.mark.parametrize("source", [(240, 333), (333, 240)])
def test_a_heatmap_goes_back_to_where_its_evidence_lies(text, source):
    rows, columns = np.mgrid[: source[0], : source[1]] + 0.5
    y, x = 0.45 * source[0], 0.6 * source[1]
    spot = np.rint(255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 200)).astype(np.uint8)
    tensor, placement = Preprocess.parse(text + ",fill=0").apply(spot, InputSpec("NCHW", 3, 128, 128))
    back = placement.to_image(tensor[0, 0])
    found = np.array([(rows * back).sum(), (columns * back).sum()]) / back.sum()
    np.testing.assert_allclose(found, (y, x), atol=0.1)


# ---- saving ----


def test_saved_pictures_come_back(tmp_path):
    for name in ("a.png", "ünï 猫.PNG"):
        save_image(tmp_path / name, RGB)
        np.testing.assert_array_equal(read_image(tmp_path / name), RGB)
    for name in ("b.jpg", "b.jpeg", "b.webp"):
        save_image(tmp_path / name, SMOOTH)
        assert np.abs(read_image(tmp_path / name).astype(int) - SMOOTH).mean() < 3
    assert len(list(tmp_path.iterdir())) == 5  # no temporary file is left


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", RGB)
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OutputError, match=r"a\.png.*disk full"):
        save_image(tmp_path / "a.png", RGB[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


def test_saved_files_have_ordinary_permissions(tmp_path):
    save_image(tmp_path / "a.png", RGB)
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_what_cannot_be_saved(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        save_image(tmp_path / "a.gif", RGB)
    for folder in ("none", "file"):
        with pytest.raises(OutputError, match="Give another folder"):
            save_image(tmp_path / folder / "a.png", RGB)
    with pytest.raises(ImageError, match="uint8"):
        save_image(tmp_path / "a.png", RGB / 255)


# ---- real files ----

REFUSED = {
    "broken.png": "header is damaged",
    "crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif": "TIFF of 300 x 225",
    "hopper.Lab.tif": "CIELAB",
    "hopper_rle8_row_overflow.bmp": "BMP of 128 x 128",
    "seek_too_large.tif": "not a picture in a format that is read",
    "truncated_end_chunk.png": "cut off",
    "truncated_jpeg.jpg": "cut off",
    "zero_width.gif": "0 x 32",
}


@pytest.mark.real
def test_odd_files_are_read_or_refused_with_a_reason(real_zoo):
    for path in sorted((real_zoo / "odd").iterdir()):
        if path.name in REFUSED:
            assert REFUSED[path.name] in refusal(path)
        else:
            assert read_image(path).size > 0


@pytest.mark.real
def test_odd_colours_are_pillows(real_zoo):
    pillow = {  # mean of convert("RGB") after exif_transpose
        "dispose_bgnd.gif": (72.45, 169.07, 246.91),
        "hopper_gray.jpg": (84.69, 84.69, 84.69),
        "hopper_orientation_6.jpg": (89.67, 80.08, 95.34),
        "icc_profile.png": (200.75, 182.28, 170.52),
        "l_trns.png": (123.91, 123.91, 123.91),
        "p_16.png": (95.62, 95.62, 95.62),
    }
    for name, mean in pillow.items():
        np.testing.assert_allclose(read_image(real_zoo / "odd" / name).mean(axis=(0, 1)), mean, atol=0.01)
    upright = read_image(real_zoo / "odd" / "hopper.png").astype(int)
    for turned in (2, 4, 6, 7):
        result = read_image(real_zoo / "odd" / f"hopper_orientation_{turned}.jpg")
        assert np.abs(result - upright).mean() < 6  # turned wrongly: above 50
    cmyk = read_image(real_zoo / "odd" / "pil_sample_cmyk.jpg").mean(axis=(0, 1))
    np.testing.assert_allclose(cmyk, (30.23, 5.44, 7.39), atol=1.2)


@pytest.mark.real
def test_a_photo_is_resized_to_pillows_grey_levels(real_zoo):
    zebra = read_image(real_zoo / "photos" / "zebra.jpg")
    x, _ = Preprocess.parse("raw,size=256x341").apply(zebra, InputSpec("NHWC", 3, None, None))
    pillow = [  # Image.open(...).resize((341, 256), BILINEAR)[::64, ::85], Pillow 11.3
        [[33, 36, 20], [16, 17, 11], [85, 87, 52], [22, 23, 16], [61, 74, 42]],
        [[28, 31, 19], [17, 12, 6], [16, 14, 12], [33, 34, 20], [44, 49, 28]],
        [[31, 32, 26], [94, 90, 91], [234, 225, 215], [52, 50, 33], [191, 168, 138]],
        [[172, 148, 120], [67, 62, 56], [238, 231, 222], [4, 4, 3], [115, 110, 91]],
    ]
    assert np.abs(x[0, ::64, ::85] - np.array(pillow)).max() <= 1  # JPEG decoders differ by a grey level
    assert abs(x.sum(dtype=np.float64) / 18830023 - 1) < 1e-4
