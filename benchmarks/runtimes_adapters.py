"""One function per runtime: a file and its feeds in, its outputs out. Imports nothing of onnxcam, so that it runs
where only the runtime is installed.

    python runtimes_adapters.py FOLDER RUNTIME

reads FOLDER/cells.json and the names in FOLDER/RUNTIME/todo.json, writes every output as float32 to
FOLDER/RUNTIME/CELL.K.bin, and prints one line of JSON before and one after each cell.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def onnxruntime(path, feeds, outputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    yield None
    yield session.run(None, feeds)


def reference(path, feeds, outputs):
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    yield None
    yield evaluator.run(None, feeds)


def openvino(path, feeds, outputs):
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    yield None
    found = compiled(feeds)
    yield [found[k] for k in range(len(outputs))]


def opencv(path, feeds, outputs):
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(path))
    yield None
    for name, array in feeds.items():
        net.setInput(array, name)
    yield list(net.forward(list(outputs)))


def tract(path, feeds, outputs):
    import tract

    model = tract.onnx().load(str(path))
    for k in range(model.input_count()):
        array = feeds[model.input_name(k)]
        model.set_input_fact(k, ",".join(map(str, array.shape)) + "," + _tract_type(array.dtype))
    order = [model.input_name(k) for k in range(model.input_count())]
    runnable = model.into_model().into_runnable()
    yield None
    yield [_tract_array(r, tract) for r in runnable.run([feeds[n] for n in order])]


def _tract_array(result, tract):
    """Its labels do not come out."""
    try:
        return result.to_numpy()
    except tract.TractError as error:
        if "String" not in str(error):
            raise
        return np.asarray([""])


def _tract_type(dtype):
    return {"f": "f", "i": "i", "u": "u"}[dtype.kind] + str(dtype.itemsize * 8)


def mnn(path, feeds, outputs):
    import MNN.expr as expr
    from MNN import nn

    made = Path(path).with_suffix(".mnn")
    tool = [str(Path(sys.executable).parent / "mnnconvert"), "-f", "ONNX", "--bizCode", "x"]
    done = subprocess.run(
        [*tool, "--modelFile", str(path), "--MNNModel", str(made)],
        capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    if not made.exists():
        raise RuntimeError(_last_error(done.stdout + done.stderr))
    net = nn.load_module_from_file(str(made), list(feeds), list(outputs))
    made.unlink()
    yield None
    given = []
    for array in feeds.values():
        array = array.astype(np.int32) if array.dtype == np.int64 else array
        kind = {"float32": expr.float, "int32": expr.int, "uint8": expr.uint8}[str(array.dtype)]
        given.append(expr.const(array, list(array.shape), expr.NCHW, kind))
    found = []
    for var in net.forward(given):
        var = expr.convert(var, expr.NCHW)
        found.append(np.array(var.read()))
    yield found


def ncnn(path, feeds, outputs):
    import ncnn

    where = Path(path).parent / "ncnn.work"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    shutil.copy(path, where / "m.onnx")
    kinds = {"float32": "f32", "float16": "f16", "int64": "i64", "uint8": "u8"}
    shapes = ",".join(f"[{','.join(map(str, a.shape))}]{kinds[str(a.dtype)]}" for a in feeds.values())
    tool = [str(Path(sys.executable).parent / "pnnx"), "m.onnx", f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(tool, capture_output=True, text=True, cwd=where, check=False)
    if not (where / "m.ncnn.param").exists():
        raise RuntimeError("pnnx: " + (done.stdout + done.stderr)[-300:])
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(where / "m.ncnn.param")) or net.load_model(str(where / "m.ncnn.bin")):
        raise RuntimeError("load: " + _last_error(done.stderr))
    yield None
    ex = net.create_extractor()
    for k, array in enumerate(feeds.values()):
        ex.input(f"in{k}", ncnn.Mat(np.ascontiguousarray(array[0])).clone())
    found = []
    for k in range(len(outputs)):
        code, mat = ex.extract(f"out{k}")
        if code:
            raise RuntimeError(f"out{k}: code {code}")
        found.append(np.array(mat))
    yield found


def litert(path, feeds, outputs):
    """By onnx2tf, which writes into the file that it is given: hence a copy."""
    from ai_edge_litert.interpreter import Interpreter

    where = Path(path).parent / "litert.work"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    shutil.copy(path, where / "m.onnx")
    shapes = [f"{n}:{','.join(map(str, a.shape))}" for n, a in feeds.items()]
    tool = [str(Path(sys.executable).parent / "onnx2tf"), "-i", "m.onnx", "-o", "made", "-n", "-osd", "-dsm", "-coion"]
    done = subprocess.run([*tool, "-ois", *shapes], capture_output=True, text=True, cwd=where, check=False)
    made = where / "made" / "m_float32.tflite"
    if not made.exists():
        raise RuntimeError("onnx2tf: " + _last_error(done.stdout + done.stderr))
    interpreter = Interpreter(str(made), num_threads=1)
    runner = interpreter.get_signature_runner()
    yield None
    wanted = {n: d["shape"] for n, d in runner.get_input_details().items()}
    named = {_plain(n): n for n in wanted}
    given = {named[_plain(n)]: _laid(a, tuple(wanted[named[_plain(n)]])) for n, a in feeds.items()}
    found = {_plain(n): a for n, a in runner(**given).items()}
    yield [found[_plain(n)] for n in outputs]


def _plain(name):
    return "".join(c if c.isalnum() else "_" for c in name)


def _laid(array, shape):
    """Channels last, where the runtime wants them so."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 and array.shape != shape else array


def _last_error(text):
    lines = [line for line in text.splitlines() if "rror" in line]
    return " ".join((lines or text.splitlines())[-3:])[-500:]


RUNTIMES = {
    "onnxruntime": onnxruntime, "onnxruntime-oldest": onnxruntime, "onnxruntime-training": onnxruntime,
    "reference": reference, "openvino": openvino, "opencv": opencv, "tract": tract, "mnn": mnn, "ncnn": ncnn,
    "litert": litert,
}  # fmt: skip


PACKAGES = {"reference": "onnx", "opencv": "opencv-python-headless", "onnxruntime-training": "onnxruntime-training-cpu",
            "onnxruntime-oldest": "onnxruntime", "mnn": "MNN", "litert": "ai-edge-litert"}  # fmt: skip
CONVERTERS = {"ncnn": "pnnx", "litert": "onnx2tf"}


def versions(name):
    """What is installed, by the name that it has on PyPI."""
    from importlib.metadata import version

    packages = [PACKAGES.get(name, name), *([CONVERTERS[name]] if name in CONVERTERS else [])]
    return ", ".join(f"{p} {version(p)}" for p in packages)


def main(folder, name):
    say({"version": versions(name)})
    todo = set(json.loads((folder / name / "todo.json").read_text()))
    for cell in json.loads((folder / "cells.json").read_text()):
        stem = cell["file"][:-5]
        if stem in todo:
            say({"start": stem})
            say({"name": stem, **one(folder, name, cell, stem)})


def one(folder, name, cell, stem):
    feeds = {
        f["name"]: np.frombuffer((folder / f["file"]).read_bytes(), f["dtype"]).reshape(f["shape"])
        for f in cell["feeds"]
    }
    for k in range(len(cell["outputs"])):
        (folder / name / f"{stem}.{k}.bin").unlink(missing_ok=True)
    try:
        steps = RUNTIMES[name](folder / cell["file"], feeds, cell["outputs"])
        started = time.perf_counter()
        next(steps)
        loaded = time.perf_counter()
        for k, found in enumerate(next(steps)):
            if np.asarray(found).dtype.kind in "OSU":  # labels, and maps of them
                continue
            (folder / name / f"{stem}.{k}.bin").write_bytes(np.asarray(found).astype(np.float32).tobytes())
        return {"load_s": round(loaded - started, 3), "run_s": round(time.perf_counter() - loaded, 4)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}


def say(line):
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
