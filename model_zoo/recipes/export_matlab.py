"""Write ../shapes-net-matlab.onnx: shapes-net in the conventions of MATLAB's exportONNXNetwork, opset 14.

    pip install -r requirements-matlab.txt
    python export_matlab.py [--out ../shapes-net-matlab.onnx]
    python export_matlab.py --weights shapes-net.mat    # for export_matlab.m, which does the same in MATLAB

Written with onnx.helper, for MATLAB is not free to run. What it follows: names of layers and weights (``conv_1_W``,
``batchnorm_1_scale``, ``imageinput_Mean``), weights among the graph's inputs and the picture last, a batch axis called
BatchSize, raw pixels of 0..255 normalised by Sub and Div in front, unfolded BatchNormalization, "same" padding computed
from the shape, a Softmax at the end, no metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
SIZE, OPSET, IR = 112, 14, 7
LISTED = ("_W", "_B", "_scale", "_mean", "_var", "_Mean", "_StandardDeviation")  # weights that are inputs too
MEAN, DEVIATION = 131.5, 64.8  # of all pixels and colours of the training scenes
EPSILON = 1e-5
Weights = dict[str, np.ndarray]


class Graph:
    """Nodes and weights, written layer by layer; a method takes and returns the name of a value."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.nodes, self.constants = weights, [], {}
        self.count: dict[str, int] = {}

    def layer(self, kind: str) -> str:
        """conv_1, conv_2, ..."""
        self.count[kind] = self.count.get(kind, 0) + 1
        return f"{kind}_{self.count[kind]}"

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def node(self, op_type: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def normalised(self, x: str) -> str:
        """(x - mean) / deviation; the mean has the size of the image."""
        mean = self.constant(f"{x}_Mean", np.full((1, 3, SIZE, SIZE), MEAN))
        deviation = self.constant(f"{x}_StandardDeviation", np.full((1, 1, 1, 1), DEVIATION))
        return self.node("Div", [self.node("Sub", [x, mean], f"{x}_Sub"), deviation], f"{x}_Div")

    def same_padding(self, x: str, name: str, kernel: int, stride: int) -> str:
        """Pad as "same" asks for whatever size comes: max(0, (ceil(size / stride) - 1) * stride + kernel - size)."""
        k, s = (self.constant(f"{name}_{n}", [v, v]) for n, v in (("Kernel", kernel), ("Stride", stride)))
        one, two, none = (self.constant(f"{name}_{n}", [v, v]) for n, v in (("One", 1), ("Two", 2), ("Zero", 0)))
        bounds = [self.constant(f"{name}_{n}", [v], np.int64) for n, v in (("From", 2), ("To", 4))]
        sizes = self.node("Slice", [self.node("Shape", [x], f"{name}_Shape"), *bounds], f"{name}_Slice")
        size = self.node("Cast", [sizes], f"{name}_Size", to=TensorProto.FLOAT)
        steps = self.node("Ceil", [self.node("Div", [size, s], f"{name}_Div")], f"{name}_Ceil")
        span = self.node("Mul", [self.node("Sub", [steps, one], f"{name}_Sub"), s], f"{name}_Mul")
        lack = self.node("Sub", [self.node("Add", [span, k], f"{name}_Add"), size], f"{name}_Lack")
        half = self.node("Div", [self.node("Max", [lack, none], f"{name}_Max"), two], f"{name}_Half")
        ends = [self.node(op, [half], f"{name}_Half{op}") for op in ("Floor", "Ceil")]
        pads = self.node("Concat", [none, ends[0], none, ends[1]], f"{name}_Pads", axis=0)
        return self.node("Pad", [x, self.node("Cast", [pads], f"{name}_Cast", to=TensorProto.INT64)], f"{name}_Pad")

    def convolution(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> str:
        w, b, size = self.constant(f"{name}_W", weight), self.constant(f"{name}_B", bias), weight.shape[-1]
        how = {"kernel_shape": [size, size], "strides": [stride, stride], "dilations": [1, 1], "pads": [0] * 4}
        return self.node("Conv", [x, w, b], name, group=1, **how)

    def first_convolution(self, x: str) -> str:
        """Takes normalised pixels; black, not grey, lies around the picture."""
        weight, name = self.weights["stem.0.weight"].astype(np.float64), self.layer("conv")
        pads = self.constant(f"{name}_Pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        padded = self.node("Pad", [x, pads, self.constant(f"{name}_PaddingValue", -MEAN / DEVIATION)], f"{name}_Pad")
        bias = weight.sum((1, 2, 3)) * MEAN / 255
        return self.batchnorm(self.convolution(padded, name, weight * DEVIATION / 255, bias, 2), "stem")

    def batchnorm(self, x: str, of: str) -> str:
        name = self.layer("batchnorm")
        keys = {"scale": "weight", "B": "bias", "mean": "running_mean", "var": "running_var"}
        own = [self.constant(f"{name}_{k}", self.weights[f"{of}.1.{key}"]) for k, key in keys.items()]
        return self.node("BatchNormalization", [x, *own], name, epsilon=EPSILON)

    def conv_bn(self, x: str, of: str) -> str:
        name, weight = self.layer("conv"), self.weights[f"{of}.0.weight"]
        x = self.same_padding(x, name, weight.shape[-1], 1) if weight.shape[-1] > 1 else x
        return self.batchnorm(self.convolution(x, name, weight, np.zeros(len(weight))), of)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x], self.layer("relu"))

    def maxpool(self, x: str, size: int, pad: int) -> str:
        how = {"kernel_shape": [size, size], "strides": [2, 2], "pads": [pad] * 4}
        return self.node("MaxPool", [x], self.layer("maxpool"), **how)

    def residual(self, x: str, of: str) -> str:
        inner = self.conv_bn(self.relu(self.conv_bn(x, f"{of}.first.0")), f"{of}.second")
        return self.relu(self.node("Add", [inner, x], self.layer("addition")))

    def network(self, x: str) -> str:
        x = self.maxpool(self.relu(self.first_convolution(self.normalised(x))), 3, 1)
        x = self.maxpool(self.relu(self.conv_bn(self.residual(x, "residual1"), "widen")), 2, 0)
        branches = [self.conv_bn(x, "narrow"), self.conv_bn(x, "broad")]
        x = self.residual(self.relu(self.node("Concat", branches, "depthcat", axis=1)), "residual2")
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], "gapool")], "fc_Flatten", axis=1)
        head = [self.constant("fc_W", self.weights["head.weight"]), self.constant("fc_B", self.weights["head.bias"])]
        return self.node("Softmax", [self.node("Gemm", [x, *head], "fc", transB=1)], "softmax", axis=1)


def model(weights: Weights) -> onnx.ModelProto:
    graph, classes = Graph(weights), len(weights["head.bias"])
    last = graph.network("imageinput")
    constants = list(graph.constants.values())
    listed = [c for c in constants if c.name.endswith(LISTED)]
    inputs = [helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in listed]
    inputs.append(helper.make_tensor_value_info("imageinput", TensorProto.FLOAT, ["BatchSize", 3, SIZE, SIZE]))
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["BatchSize", classes])
    made = helper.make_graph(graph.nodes, "Network", inputs, [output], constants)
    producer = {"producer_name": "MATLAB Deep Learning Toolbox Converter for ONNX Model Format"}
    return helper.make_model(made, ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)], **producer)


def export(path: Path) -> None:
    made = model(dict(np.load(HERE / "shapes-net.npz")))
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)


def save_weights(path: Path) -> None:
    """The weights as a MAT file, dots in names as underscores."""
    from scipy.io import savemat

    savemat(path, {name.replace(".", "_"): values for name, values in np.load(HERE / "shapes-net.npz").items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-net-matlab.onnx")
    parser.add_argument("--weights", type=Path, help="write these instead, as a MAT file")
    options = parser.parse_args()
    save_weights(options.weights) if options.weights else export(options.out)


if __name__ == "__main__":
    main()
