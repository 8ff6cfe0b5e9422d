"""Command lines, sidecars, label files, lists and arrays that nobody would write in earnest."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.fuzz_bytes import HOSTILE, NUMBERS, damage

_ROOT = Path(__file__).parent.parent
SOURCES = ("options", "sidecar", "labels.txt", "labels.csv", "labels.json", "list.txt", "list.csv", "x.npy", "data.csv",
           "data.json", "photos/a.xml", "classes.csv")  # fmt: skip
_SIDECAR = """model_sha256 = ""
labels = ["ant", "bee", "cat", "dog"]
[preprocess]
name = "imagenet"
color = "RGB"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
fit = "crop"
crop_ratio = 0.875
interpolation = "bilinear"
antialias = true
size = [32, 32]
"""
_GOOD = {
    "sidecar": _SIDECAR,
    "labels.txt": "ant\nbee\ncat\ndog\n",
    "labels.csv": "index,name\n0,ant\n1,bee\n2,cat\n3,dog\n",
    "labels.json": '{"0": "ant", "1": "bee", "2": "cat", "3": "dog"}',
    "data.csv": "path,class,x0,y0,x1,y1,mask\nphoto.png,0,3,4,90,80,photos/a.png\nphotos/a.png,1,0,0,200,200,\n",
    "data.json": """{"images": [{"id": 1, "file_name": "photo.png"}, {"id": 2, "file_name": "photos/a.png"}],
 "categories": [{"id": 3, "name": "0"}, {"id": 4, "name": "1"}],
 "annotations": [{"image_id": 1, "category_id": 3, "bbox": [3, 4, 80, 70], "segmentation": [[3, 4, 80, 9, 40, 90]]},
  {"image_id": 2, "category_id": 4, "bbox": [0, 0, 99, 99], "iscrowd": 0,
   "segmentation": {"counts": [40000, 9000, 1176], "size": [224, 224]}}]}""",
    "photos/a.xml": """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.png</filename><object><name>0</name><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>90</xmax><ymax>80</ymax></bndbox></object></annotation>
""",
    "classes.csv": "0,0\n1,1-3\n",
    "list.txt": "photo.png\nphotos/a.png\n",
    "list.csv": "path,label,target\nphoto.png,ant,1\nphotos/a.png,bee,top1\n",
}
_VALUES = {
    "--method": ("gradcam", "layercam", "scorecam", "rise", "lime", "occlusion", "guided_backprop", "nonsense"),
    "--target": ("0", "-1", "99999999999999999999", "margin:0,1", "margin:", "sum:0,0,", "probability:", "0@3,3",
                 "0@-1,1e9",
                 "box:0", "token:", "similar:photo.png", "similar:../canary", "value", "finer:0", ":::", "top1",
                     "0@nan,inf"),
    "--layer": ("auto", "", "nope", "image", "../x"),
    "--layers": ("all", "some"),
    "--fuse": ("max", "mean", "x"),
    "--set": ("samples=2", "samples=-1", "samples=nan", "samples=1e400", "samples", "=3", "masks=[1]",
              "samples=" + "9" * 5000,
              "steps=0", "x={"),
    "--budget": ("1", "3", "0", "-5", "1e3", "x"),
    "--batch": ("1", "0", "-1", "2"),
    "--smooth": ("aug", "eigen", "aug,eigen", ",", "x"),
    "--preprocess": ("auto", "imagenet", "caffe,mean=1/2/3", "unit,size=0", "unit,size=9x9", "raw,std=0", "tf,mean=1/2",
                     "unit,size=99999999x99999999", "unit,scale=1/0", "unit,fit=", ",,,", "unit,crop=9",
                         "unit,mean=1e400"),
    "--labels": ("labels.txt", "labels.csv", "labels.json", "../canary", "/dev/null", "photo.png", "."),
    "--engine": ("auto", "portable", "fast"),
    "--output": ("logits", "logits[0]", "logits[99]", "logits[", "x[-1]", "[0]"),
    "--input": ("x=1", "image=x.npy", "=x.npy", "image=", "x=../canary", "image=/dev/zero", "image=1,2,3"),
    "--colormap": ("turbo", "plasma", "x"),
    "--blend": ("0", "1", "2", "nan", "-1"),
    "--style": ("blend", "add", "mask", "x"),
    "--recipe": ("hook", "additive", "matlab", "x"),
    "--normalize": ("max", "minmax", "none", "x"),
    "--threads": ("1", "0", "-3", "99999"),
    "--provider": ("CPUExecutionProvider", "x"),
    "--max-pixels": ("1", "0", "1000000", "-1"),
    "-o": ("out", "out/deep/er", "photo.png", "photo.png/x", "out\0", "o" * 300),
}  # fmt: skip
_FLAGS = (
    "--grid",
    "--json",
    "--straight-through",
    "--no-title",
    "--debug",
    "--report",
    "--resume",
    "--force",
    "--nonsense",
)


_CUTS = re.compile(r"([=,<>:\[\]{}\n])")
_ALL_FILES = re.compile(rb"(?m)^[\s\"]*/[/.]*(?=[\s\",]|$)")  # who asks for these waits for them


_ANNOTATIONS = {"data.csv": "data.csv", "data.json": "data.json", "photos/a.xml": "photos", "classes.csv": "data.csv"}


@dataclass(frozen=True)
class Words:
    """A command line, and files that it finds in the folder it runs in."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def mutate(source: str, rng: random.Random) -> tuple[Words, list[str]]:
    """A command line and its files."""
    files = {name: text.encode() for name, text in _GOOD.items() if name != "sidecar"}
    if source == "sidecar":
        files["model.toml"], told = _text(_SIDECAR, rng)
        arguments = rng.choice((["explain", "model.onnx", "photo.png", "-o", "out"], ["inspect", "model.onnx"]))
    elif source.startswith("labels"):
        files[source], told = _text(_GOOD[source], rng)
        arguments = ["explain", "model.onnx", "photo.png", "-o", "out", "--labels", source]
    elif source.startswith("list"):
        text, told = _text(_GOOD[source], rng)
        files[source] = _ALL_FILES.sub(b"/etc", text)
        more = rng.choice(([], ["--report"]))
        arguments = ["batch", "model.onnx", source, "-o", "out", "--workers", "1", *more]
    elif source in _ANNOTATIONS:
        files[source], told = _text(_GOOD[source], rng)
        arguments = _measuring(_ANNOTATIONS[source], rng)
    elif source == "x.npy":
        files[source], told = _array(rng)
        arguments = [
            "explain",
            "model.onnx",
            "photo.png",
            "-o",
            "out",
            "--input",
            f"{rng.choice(('image', 'x'))}=x.npy",
        ]
    else:
        arguments = _options(rng)
        told = arguments
    return Words(arguments, files), told


def _measuring(data: str, rng: random.Random) -> list[str]:
    """A command on pictures of which it is known what they show."""
    same = ["model.onnx", data, "-o", "out", "--classes", "classes.csv", "--workers", "1", "--limit", "2"]
    if rng.random() < 0.5:
        return ["audit", *same, "--swap", "mean", *rng.choice(([], ["--regions", "thirds"]))]
    metrics = rng.choice(("localisation", "energy,mask_iou", "average_drop", "label_contrast"))
    return ["evaluate", *same, "--methods", "gradcam", "--metrics", metrics]


def _text(good: str, rng: random.Random) -> tuple[bytes, list[str]]:
    """Damaged; or a word of it is replaced."""
    if rng.random() < 0.4:
        return damage(good.encode(), rng)
    words, told = _CUTS.split(good), []
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice([k for k, word in enumerate(words) if word.strip() and not _CUTS.fullmatch(word)])
        words[at] = rng.choice((*HOSTILE, *map(str, NUMBERS), "[" * 3000, '"""', "nan", "inf", "true", "../canary",
              '"x', "{}", '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]>&b;', "[9" + "9" * 5000 + "]",
                                "/etc/passwd", "~", "s3://x/y", "https://127.0.0.1:9/x.png", "model"))  # fmt: skip
        told.append(words[at][:30])
    return "".join(words).encode("utf-8", "surrogatepass"), told


def _array(rng: random.Random) -> tuple[bytes, list[str]]:
    import io

    held = io.BytesIO()
    np.save(held, np.zeros((1, 3, 32, 32), rng.choice(("f4", "i8", "c16", "S3", "M8[s]"))))
    data = held.getvalue()
    if rng.random() < 0.3:
        header = rng.choice(("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
                             "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}",
                             "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", "(" * 900,
                                        "{" * 200))  # fmt: skip
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64), ["header"]
    return damage(data, rng)


def _options(rng: random.Random) -> list[str]:
    command = rng.choice(
        ("explain", "explain", "explain", "batch", "inspect", "export", "compare", "doctor", "methods", "web")
    )
    model = rng.choice(("model.onnx",) * 8 + ("zoo:", "zoo:../x", "", "photo.png", ".", "../canary"))
    photo = rng.choice(("photo.png",) * 6 + ("photos", "*.png", "", "../canary", "list.csv", "-", "\x1b[31m.png"))
    places = {"inspect": [model], "export": [model], "methods": [], "web": [model],
              "compare": [model, "model.onnx", photo]}.get(command, [model, photo])  # fmt: skip
    if command == "methods":
        return [command, *rng.choice(([], ["--targets"], ["--json"], ["x"]))]
    out = {"inspect": [], "doctor": []}.get(command, ["-o", "out" if command != "export" else "out.onnx"])
    options: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.2:
            options.append(rng.choice(_FLAGS))
            continue
        name = rng.choice(tuple(_VALUES))
        options += [name, rng.choice((*_VALUES[name] * 4, *(HOSTILE if name != "-o" else ())))]
    return [command, *places, *out, *options]
