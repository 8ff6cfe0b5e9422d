"""Write ../shapes-net-jax.onnx: shapes-net as a Flax NNX model in JAX through jax2onnx, opset 21.

    pip install -r requirements-jax.txt
    python export_jax.py [--out ../shapes-net-jax.onnx]

NHWC input, as JAX users have it, logits out. The weights are those of ``shapes-net.npz``, transposed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx

HERE = Path(__file__).resolve().parent
SIZE, OPSET = 112, 21
WEIGHTS = dict(np.load(HERE / "shapes-net.npz"))
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class ConvNorm(nnx.Module):
    """Convolution and BatchNorm. Padding is explicit: at stride 2 "SAME" pads one at the end only."""

    def __init__(self, name: str, stride: int = 1) -> None:
        kernel, rngs = WEIGHTS[f"{name}.0.weight"].transpose(2, 3, 1, 0), nnx.Rngs(0)
        size, _, inputs, outputs = kernel.shape
        pad = [(size // 2, size // 2)] * 2
        self.conv = nnx.Conv(inputs, outputs, (size, size), stride, padding=pad, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, epsilon=1e-5, use_running_average=True, rngs=rngs)
        fill(self.conv.kernel, kernel)
        for own, torch_name in NORM.items():
            fill(getattr(self.norm, own), WEIGHTS[f"{name}.1.{torch_name}"])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


def fill(variable: nnx.Variable, values: np.ndarray) -> None:
    variable.set_value(jnp.asarray(values))


class Residual(nnx.Module):
    def __init__(self, name: str) -> None:
        self.first, self.second = ConvNorm(f"{name}.first.0"), ConvNorm(f"{name}.second")

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x + self.second(nnx.relu(self.first(x))))


class ShapesNet(nnx.Module):
    """(N, 112, 112, 3) RGB in [0, 1] -> logits (N, 7)."""

    def __init__(self) -> None:
        self.stem, self.residual1, self.widen = ConvNorm("stem", 2), Residual("residual1"), ConvNorm("widen")
        self.narrow, self.broad, self.residual2 = ConvNorm("narrow"), ConvNorm("broad"), Residual("residual2")
        kernel = WEIGHTS["head.weight"].T
        self.head = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
        fill(self.head.kernel, kernel)
        fill(self.head.bias, WEIGHTS["head.bias"])

    def __call__(self, x: jax.Array) -> jax.Array:
        # jax2onnx 0.17.1 takes a max_pool's explicit padding for "VALID" and says nothing
        x = jnp.pad(nnx.relu(self.stem(x)), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.widen(self.residual1(x))), window_shape=(2, 2), strides=(2, 2))
        x = nnx.relu(jnp.concatenate([self.narrow(x), self.broad(x)], axis=-1))
        return self.head(jnp.mean(self.residual2(x), axis=(1, 2)))


def export(path: Path) -> None:
    image = jax.ShapeDtypeStruct(("N", SIZE, SIZE, 3), jnp.float32)
    model = ShapesNet()
    model.eval()
    to_onnx(model, [image], model_name="shapes_net", opset=OPSET, return_mode="file", output_path=path)
    onnx.checker.check_model(str(path))  # not full_check: moved Transposes leave shapes in the file that are wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-net-jax.onnx")
    export(parser.parse_args().out)


if __name__ == "__main__":
    main()
