"""Explain a picture with an exported model: ONNX Runtime and NumPy, nothing else.

python explain.py MODEL.onnx PICTURE.ppm HEATMAP.pfm [CLASS]
"""

import json
import sys

import numpy as np
import onnxruntime


def read_ppm(path):
    """A binary PPM as uint8 (H, W, 3)."""
    with open(path, "rb") as file:
        kind, *sizes = (file.readline().split() + file.readline().split() + file.readline().split())[:4]
        width, height, most = map(int, sizes)
        if kind != b"P6" or most != 255:
            raise SystemExit(f"{path}: a binary PPM of 8 bits is wanted")
        return np.frombuffer(file.read(), np.uint8)[: height * width * 3].reshape(height, width, 3)


def write_pfm(path, values):
    """float32 (H, W) as a PFM; its rows run from the bottom to the top."""
    with open(path, "wb") as file:
        file.write(b"Pf\n%d %d\n-1.0\n" % values.shape[::-1])
        file.write(values[::-1].astype("<f4").tobytes())


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def prepare(picture, how, layout_nchw, kind):
    """What the model was made for: order of colours, scale, mean and deviation, as its metadata say."""
    ordered = picture[..., ::-1] if how["color"] == "BGR" else picture
    x = (ordered.astype(np.float32) * how["scale"] - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(x.transpose(2, 0, 1) if layout_nchw else x)[None].astype(TYPES[kind])


def main(model, picture, heatmap, index=-1):
    """Run the model once; write the map, print the class."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    record, names = json.loads(meta["onnxcam/export"]), json.loads(meta.get("onnxcam/labels", "[]"))
    inputs = {one.name: one for one in session.get_inputs()}
    taken = inputs[record["input"]]
    feeds = {taken.name: prepare(read_ppm(picture), record["preprocess"], taken.shape[1] == 3, taken.type)}
    if "onnxcam/class" in inputs:
        feeds["onnxcam/class"] = np.array([int(index)])
    scores, classes, maps = session.run(
        [session.get_outputs()[0].name, "class_index", next(iter(record["maps"]))], feeds
    )
    write_pfm(heatmap, maps[0])
    found = int(classes[0])
    told = {
        "class_index": found,
        "label": names[found] if found < len(names) else None,
        "score": float(scores[0, found]),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
