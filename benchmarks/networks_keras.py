"""Keras applications as .onnx files, each beside the gradients that tf.GradientTape gives.

    python -m benchmarks.networks_keras NETWORK FOLDER EXPORT...

``benchmarks.networks`` calls it. Needs tensorflow, keras and tf2onnx; of onnxcam it needs nothing. An EXPORT is
``keras-OPSET``. What is exported ends in Softmax, as the applications do; the reference is the logit before it.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.networks_reference import LOGIT, Reference, enliven, make_reference, nudged, pictures

NETWORKS = ("MobileNetV2", "EfficientNetB0", "ResNet50V2", "Xception", "DenseNet121", "ConvNeXtTiny")
TAKES_BYTES = ("EfficientNetB0", "ConvNeXtTiny")  # these scale 0..255 themselves
SIZE = 160


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    name, folder, *exports = sys.argv[1:]
    model = build(name)
    refer(name, model).save(Path(folder) / f"{name}.npz")
    for way in exports:
        export(name, model, way, Path(folder) / f"{name}.{way}.onnx")


def application(name: str, activation: str | None) -> Any:
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=activation)


def build(name: str) -> Any:
    """The network up to its logits, with seeded random weights and statistics of pictures."""
    model = application(name, None)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(enliven(np.asarray(weight), rng))
    head = model.layers[-1].kernel
    head.assign(rng.normal(0, 0.05, head.shape))
    _calibrate(model, photos(name, 8, seed=2))
    return model


def photos(name: str, count: int, seed: int) -> Any:
    x = pictures(count, SIZE, seed).transpose(0, 2, 3, 1)
    return (128 + 48 * x).clip(0, 255) if name in TAKES_BYTES else x


def _calibrate(model: Any, batch: Any) -> None:
    norms = [m for m in model.layers if isinstance(m, keras.layers.BatchNormalization)]
    for done, part in enumerate(np.split(batch, 2) if norms else ()):
        for norm in norms:
            norm.momentum = done / (done + 1)  # a cumulative average
        model(part, training=True)


def refer(name: str, model: Any) -> Reference:
    image = photos(name, 1, seed=1)
    singles = [gradients(model, x)[1] for x in (image, *nudged(image))]
    _precision("float64")
    twin = application(name, None)
    _precision("float32")
    twin.set_weights(model.get_weights())
    layer, double = gradients(twin, image.astype(np.float64))
    return make_reference(f"tensorflow {tf.__version__}, keras {keras.__version__}", layer, image, singles, double)


def _precision(name: str) -> None:
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)


def gradients(model: Any, image: Any) -> tuple[str, tuple[Any, ...]]:
    """The layer that the last global pooling reads; (activation, logits, layer gradient, image gradient)."""
    pooling = [m for m in model.layers if isinstance(m, keras.layers.GlobalAveragePooling2D)][-1]
    parts = keras.Model(model.input, [pooling.input, model.output])
    with tf.GradientTape() as tape:
        x = tf.constant(image)
        tape.watch(x)
        activation, logits = parts(x, training=False)
        score = logits[0, LOGIT]
    found = tape.gradient(score, [activation, x])
    return pooling.input._keras_history.operation.name, tuple(t.numpy() for t in (activation, logits, *found))


def export(name: str, model: Any, way: str, path: Path) -> None:
    """Write the .onnx file, or beside it a text that says why the exporter does not."""
    whole = application(name, "softmax")
    whole.set_weights(model.get_weights())
    _spell_out(whole)
    whole(np.zeros((1, SIZE, SIZE, 3), np.float32))
    try:
        whole.export(str(path), format="onnx", verbose=False, opset_version=int(way.split("-")[1]))
    except Exception as error:  # of many kinds
        path.unlink(missing_ok=True)
        path.with_suffix(".failed").write_text(str(error))


def _spell_out(model: Any) -> None:
    """What tf2onnx does not know: Conv2D of one channel a group (compiled by XLA), GELU by Erfc, eager constants."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            layer.convolution_op = partial(_depthwise, layer)
        if getattr(layer, "activation", None) is keras.activations.gelu:
            layer.activation = _gelu
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def _depthwise(layer: Any, x: Any, kernel: Any) -> Any:
    kernel = tf.transpose(tf.convert_to_tensor(kernel), (0, 1, 3, 2))
    return keras.ops.depthwise_conv(x, kernel, layer.strides, layer.padding)


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + tf.math.erf(x / 2**0.5))


if __name__ == "__main__":
    main()
