"""Write ../shapes-net-keras.onnx: shapes-net as a Keras 3 model (TensorFlow backend) through tf2onnx, opset 13.

    pip install -r requirements-keras.txt
    python export_keras.py [--out ../shapes-net-keras.onnx]

NHWC input and Softmax inside, as Keras users have it. The weights are those of ``shapes-net.npz``, transposed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import onnx
from keras import layers

HERE = Path(__file__).resolve().parent
SIZE, OPSET = 112, 13
WEIGHTS = dict(np.load(HERE / "shapes-net.npz"))


def padded(x: keras.KerasTensor, by: int) -> keras.KerasTensor:
    """Explicit: at stride 2 PyTorch pads one on both sides, "same" here pads one at the end only."""
    return layers.ZeroPadding2D(by)(x) if by else x


def conv_bn(x: keras.KerasTensor, name: str, stride: int = 1) -> keras.KerasTensor:
    kernel = WEIGHTS[f"{name}.0.weight"].transpose(2, 3, 1, 0)
    conv = layers.Conv2D(kernel.shape[3], kernel.shape[0], stride, use_bias=False, name=name.replace(".", "_"))
    x = conv(padded(x, kernel.shape[0] // 2))
    conv.set_weights([kernel])
    norm = layers.BatchNormalization(epsilon=1e-5, name=f"{conv.name}_bn")
    x = norm(x)
    norm.set_weights([WEIGHTS[f"{name}.1.{key}"] for key in ("weight", "bias", "running_mean", "running_var")])
    return x


def residual(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    inner = layers.ReLU()(conv_bn(x, f"{name}.first.0"))
    return layers.ReLU()(layers.Add()([x, conv_bn(inner, f"{name}.second")]))


def network() -> keras.Model:
    """(N, 112, 112, 3) RGB in [0, 1] -> probabilities (N, 7)."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.ReLU()(conv_bn(image, "stem", stride=2))
    # Zeros after a ReLU win over zeros alone. Only Deconvnet can tell: it sends gradients back through zeros.
    x = layers.MaxPooling2D(3, 2)(padded(x, 1))
    x = layers.ReLU()(conv_bn(residual(x, "residual1"), "widen"))
    x = layers.MaxPooling2D(2)(x)
    x = layers.ReLU()(layers.Concatenate()([conv_bn(x, "narrow"), conv_bn(x, "broad")]))
    x = layers.GlobalAveragePooling2D()(residual(x, "residual2"))
    head = layers.Dense(len(WEIGHTS["head.bias"]), activation="softmax", name="shape")
    model = keras.Model(image, head(x), name="shapes_net")
    head.set_weights([WEIGHTS["head.weight"].T, WEIGHTS["head.bias"]])
    return model


def export(path: Path) -> None:
    model = network()
    model(np.zeros((1, SIZE, SIZE, 3), np.float32))  # Keras refuses to export what was never called
    model.export(str(path), format="onnx", opset_version=OPSET, verbose=False)
    onnx.checker.check_model(str(path), full_check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-net-keras.onnx")
    export(parser.parse_args().out)


if __name__ == "__main__":
    main()
