"""Write ../shapes-net-paddle.onnx: shapes-net as a PaddlePaddle layer through paddle2onnx, opset 11.

    pip install -r requirements-paddle.txt
    python export_paddle.py [--out ../shapes-net-paddle.onnx]

The parameters of ``shapes-net.npz`` carry over as they are, but for the linear layer's, which is transposed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import paddle
from paddle import nn
from paddle.nn import functional
from paddle.static import InputSpec

HERE = Path(__file__).resolve().parent
SIZE, OPSET = 112, 11
WEIGHTS = dict(np.load(HERE / "shapes-net.npz"))


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(outputs, epsilon=1e-5))


class Residual(nn.Layer):
    def __init__(self, width: int, second_kernel: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_bn(width, width), nn.ReLU())
        self.second = conv_bn(width, width, second_kernel)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return functional.relu(x + self.second(self.first(x)))


class ShapesNet(nn.Layer):
    """(N, 3, 112, 112) RGB in [0, 1] -> logits (N, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.residual1, self.widen = conv_bn(3, 24, stride=2), Residual(24, 3), conv_bn(24, 48)
        self.narrow, self.broad, self.residual2 = conv_bn(48, 24, 1), conv_bn(48, 24), Residual(48, 1)
        self.pool1, self.pool2, self.pool = nn.MaxPool2D(3, 2, 1), nn.MaxPool2D(2), nn.AdaptiveAvgPool2D(1)
        self.head = nn.Linear(48, len(WEIGHTS["head.bias"]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.residual1(self.pool1(functional.relu(self.stem(x))))
        x = self.pool2(functional.relu(self.widen(x)))
        x = self.residual2(functional.relu(paddle.concat([self.narrow(x), self.broad(x)], 1)))
        return self.head(paddle.flatten(self.pool(x), 1))


def paddle_name(name: str) -> str:
    return name.replace("running_mean", "_mean").replace("running_var", "_variance")


def network() -> ShapesNet:
    model = ShapesNet()
    state = {paddle_name(k): v.T if k == "head.weight" else v for k, v in WEIGHTS.items()}
    missing, unknown = model.set_state_dict(state)
    if missing or unknown:
        raise SystemExit(f"shapes-net.npz is of another network: missing {missing}, unknown {unknown}")
    model.eval()
    return model


def export(path: Path) -> None:
    path.unlink(missing_ok=True)  # paddle.onnx.export only logs that it failed
    image = InputSpec([None, 3, SIZE, SIZE], "float32", "image")
    paddle.onnx.export(network(), str(path.with_suffix("")), [image], opset_version=OPSET)
    onnx.checker.check_model(str(path), full_check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-net-paddle.onnx")
    export(parser.parse_args().out)


if __name__ == "__main__":
    main()
