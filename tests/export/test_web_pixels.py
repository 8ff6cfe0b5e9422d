"""The page's arithmetic, in Node, against Python's: what the model sees, and where its heatmap lies."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest

from onnxcam.core.overlay import overlay
from onnxcam.image import InputSpec, Preprocess
from onnxcam.web import levels
from onnxcam.web.library import PAGE

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.anyruntime,
    pytest.mark.skipif(NODE is None, reason="Node.js is not installed: apt-get install nodejs"),
]

SCRIPT = """
import {readFileSync} from 'node:fs';
import {blend, place, resizeMap, toPicture, toPlanes, toTensor} from 'PAGE/pixels.js';
const ARRAYS = {float32: Float32Array, float16: Uint16Array, uint8: Uint8Array, int8: Int8Array};
const bytes = text => Uint8Array.from(Buffer.from(text, 'base64'));
const text = array => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
const answers = JSON.parse(readFileSync(0, 'utf8')).map(job => {
  const where = place(job.source, job.input, job.how), rgba = bytes(job.rgba);
  const table = new ARRAYS[job.input.dtype](bytes(job.levels).buffer);
  const tensor = toTensor(toPlanes(rgba, where, job.how), table, job.input, job.how.reversed);
  if (!job.heat) return {where, tensor: text(tensor)};
  const heat = resizeMap(new Float32Array(bytes(job.heat).buffer), job.heatSize, where.size);
  const shown = toPicture(heat, where, job.source);
  return {where, tensor: text(tensor), shown: text(shown),
    overlay: text(blend(rgba, shown, 0.5, bytes(job.colors), job.signed))};
});
console.log(JSON.stringify(answers));
"""


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def back(given, dtype, shape):
    return np.frombuffer(base64.b64decode(given), dtype).reshape(shape)


def in_node(jobs):
    script = SCRIPT.replace("PAGE", PAGE.as_uri())
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def job(picture, preprocess, spec, batch=None, **more):
    how = preprocess.to_dict() | {
        "grey": preprocess.color == "GRAY" or spec.channels == 1,
        "reversed": preprocess.color == "BGR",
    }
    rgba = np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)
    image = {"layout": spec.layout, "channels": spec.channels, "height": spec.height, "width": spec.width}
    return {
        "source": picture.shape[:2], "rgba": text(rgba), "how": how, "levels": text(levels(preprocess, spec)),
        "input": {**image, "batch": batch, "dtype": np.dtype(spec.dtype).name}, **more,
    }  # fmt: skip


NCHW, NHWC = InputSpec("NCHW", 3, 56, 48), InputSpec("NHWC", 3, 40, 64)
CASES = [
    (InputSpec("NCHW", 3, 37, 41), "imagenet", (90, 133)),
    (NCHW, "imagenet", (133, 90)),
    (NCHW, "imagenet,interpolation=bicubic,crop_ratio=0.9", (77, 201)),
    (NCHW, "imagenet,fit=squash", (50, 31)),
    (NCHW, "unit", (56, 48)),
    (NCHW, "unit,antialias=false", (150, 149)),
    (NCHW, "unit,interpolation=nearest", (83, 61)),
    (NCHW, "caffe", (61, 64)),
    (NCHW, "tf,fit=letterbox", (30, 99)),
    (NCHW, "raw,fit=letterbox,align=topleft,fill=7", (99, 31)),
    (NCHW, "raw,fit=letterbox,interpolation=bicubic", (11, 17)),
    (NCHW, "imagenet,color=GRAY", (100, 100)),
    (NHWC, "caffe,fit=crop", (64, 81)),
    (InputSpec("NHWC", 3, 40, 64, np.uint8), "raw,color=BGR", (120, 77)),
    (InputSpec("NCHW", 3, 40, 64, np.int8), "raw,mean=128", (64, 60)),
    (InputSpec("NCHW", 1, 28, 28, np.float16), "unit", (60, 70)),
    (InputSpec("NCHW", 3, None, None), "imagenet", (33, 29)),
    (InputSpec("NCHW", 3, None, 32), "unit,fit=letterbox", (51, 64)),
    (InputSpec("NCHW", 3, None, None), "imagenet,size=35x22", (71, 40)),
    (NCHW, "unit", (1, 1)),
    (NCHW, "unit,interpolation=bicubic", (3, 500)),
]


def test_the_model_sees_the_same_numbers_to_the_last_bit():
    """Pictures of noise: where one weight or one place were another, grey levels would be."""
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for *_, size in CASES]
    ways = [Preprocess.parse(how) for _, how, _ in CASES]
    found = in_node([job(p, way, spec) for p, way, (spec, *_) in zip(pictures, ways, CASES, strict=True)])
    for (spec, how, size), picture, way, answer in zip(CASES, pictures, ways, found, strict=True):
        tensor, placement = way.apply(picture, spec)
        assert answer["where"] == {k: list(getattr(placement, k)) for k in ("source", "resized", "offset", "size")}
        np.testing.assert_array_equal(back(answer["tensor"], spec.dtype, tensor.shape), tensor, f"{how} {size}")


def test_a_fixed_batch_is_filled_with_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    way = Preprocess.parse("imagenet")
    [answer] = in_node([job(picture, way, NHWC, batch=3)])
    tensor, _ = way.apply(picture, NHWC)
    np.testing.assert_array_equal(back(answer["tensor"], np.float32, (3, *tensor.shape[1:])), np.repeat(tensor, 3, 0))


@pytest.mark.parametrize("signed", [False, True])
def test_the_heatmap_lies_where_python_lays_it(signed):
    rng = np.random.default_rng(5)
    colors = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    jobs, wants = [], []
    for how, size in (("imagenet", (90, 133)), ("unit", (70, 31)), ("unit,fit=letterbox", (99, 40))):
        way = Preprocess.parse(how)
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        heat = rng.uniform(-1 if signed else 0, 1, (NCHW.height, NCHW.width)).astype(np.float32)
        jobs.append(job(picture, way, NCHW, heat=text(heat), heatSize=heat.shape, colors=text(colors), signed=signed))
        wants.append((picture, way.place(size, NCHW).to_image(heat)))
    for (picture, want), answer in zip(wants, in_node(jobs), strict=True):
        shown = back(answer["shown"], np.float32, want.shape)
        np.testing.assert_allclose(shown, want, atol=2e-6)
        level = (want / np.abs(want).max() + 1) / 2 if signed else want
        near = 0.5 * picture + 0.5 * colors[np.rint(255 * np.clip(level, 0, 1)).astype(int)]
        off = np.abs(back(answer["overlay"], np.uint8, (*want.shape, 4))[..., :3] - near) > 0.5001
        assert off.mean() < 1e-4  # where 255 times the value is next to a half


def test_the_overlay_is_pythons():
    from onnxcam.core.overlay import colormap_table

    rng = np.random.default_rng(6)
    picture = rng.integers(0, 256, (56, 48, 3), dtype=np.uint8)
    heat = rng.uniform(0, 1, (56, 48)).astype(np.float32)
    table = text(colormap_table("jet"))
    given = job(picture, Preprocess.parse("unit"), NCHW, heat=text(heat), heatSize=[56, 48], colors=table, signed=False)
    found = back(in_node([given])[0]["overlay"], np.uint8, (56, 48, 4))[..., :3].astype(int)
    apart = np.abs(found - overlay(picture, heat).astype(int))
    assert apart.max() <= 1  # halves: cv2 rounds them to even


def test_a_heatmap_of_another_size_is_brought_to_the_models():
    from onnxcam.core.maps import resize

    heat = np.random.default_rng(7).uniform(0, 1, (7, 6)).astype(np.float32)
    picture = np.zeros((80, 50, 3), np.uint8)
    way = Preprocess.parse("imagenet")
    given = job(picture, way, NCHW, heat=text(heat), heatSize=[7, 6], colors=text(np.zeros((256, 3), np.uint8)))
    want = way.place((80, 50), NCHW).to_image(resize(np, heat, (56, 48)))
    np.testing.assert_allclose(
        back(in_node([given | {"signed": False}])[0]["shown"], np.float32, (80, 50)), want, atol=2e-6
    )


def test_halves_are_read_from_their_bits():
    """Where a browser has no Float16Array, ONNX Runtime gives their bits."""
    bits = np.arange(2**16, dtype=np.uint16)
    script = (
        f"import {{numbers}} from '{PAGE.as_uri()}/pixels.js';"
        "const found = numbers('float16', Uint16Array.from({length: 65536}, (_, k) => k));"
        "console.log(JSON.stringify([found.map(String), numbers('uint16', new Uint16Array([7])), "
        "numbers('float16', new Float32Array([0.5])), numbers('int64', new BigInt64Array([3n]))]))"
    )
    done = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, *others = json.loads(done.stdout)
    np.testing.assert_array_equal(np.array([float(n) for n in found]), bits.view(np.float16).astype(float))
    assert others == [[7], [0.5], [3]]
