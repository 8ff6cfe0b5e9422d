"""The metrics of ``onnxcam.evaluate`` beside those of others: on one tiny network, number by number.

    python -m benchmarks.metrics [FOLDER]

Needs torch, grad-cam 1.5.7, torchcam 0.5.0, quantus 0.6.0 and pycocotools. Prints how far each number lies from theirs
and writes FOLDER/peers.npz (tests/evaluate/goldens by default): pictures, maps, weights and the others' answers, which
``tests/evaluate`` holds the metrics to without any of the packages.

Where definitions differ, and which is right:

- **pytorch-grad-cam, drop in confidence**: ``max(0, before - after)``, not divided by ``before``. Grad-CAM++'s paper
  (section 4.1) divides; so does torchcam, with 1e-7 added below, and so do we.
- **pytorch-grad-cam, ROAD**: pixels are chosen by ``map < percentile``. Of a ReLU'd map of which 82 % are 0, LeRF
  removes all zeros at every percentile, and MoRF at 10 to 80 % the whole picture, which leaves a blank one. The paper
  removes a share of the pixels by rank; so do we. On maps without ties the counts differ by at most one pixel.
- **quantus, ROAD**: the share of pictures that are still classified right, not their scores. A map of one channel is
  repeated over the colours and ranked as 3 H W features, whose numbers are then read as positions of H W pixels: colour
  pictures end in an IndexError. Its imputation by itself agrees with ours.
- **quantus, pixel flipping** (deletion): features are channels of pixels, so that the colours of one pixel go at
  different times; the whole picture's own score is not part of the curve, and the area is a sum over steps, not a mean.
  On pictures of one channel the scores are ours.
- **quantus, sensitivity-n**: takes no random sets. It removes features in the order of the map, correlates, over the
  pictures, the map's sum over the last step's features alone with the loss from all that were removed so far, and
  averages. Ancona et al. (section 4) draw sets of n for one picture; so do we.
- **RISE's own script** takes the area with equal steps even where the last one is smaller, and flips an unstable sort,
  so that equal values come in any order. Here the share is the true one and equal values come in reading order.
- **ADCC's own script** lacks the reciprocal: ``3 * (1/a + 1/b + 1/c)``, so that worse maps get more. The paper and
  pytorch-grad-cam (in its ARCC) take the harmonic mean; so do we.
- **TorchRay's pointing game** asks for a distance *below* the tolerance, so that with tolerance 0 nothing hits. The
  paper grants a margin of 15 pixels; here 15 is within.
- **wsolevaluation's MaxBoxAcc** counts both ends of a box as pixels, but takes the end from ``x + w``: its boxes are a
  pixel too wide and high; the largest component is that of the largest polygon through pixel centres, not of most
  pixels; maps are cut to 256 levels. Here boxes are half open, as everywhere in the package.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pytorch_grad_cam.metrics import arcc, cam_mult_image, road
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from onnxcam.core import impute
from onnxcam.core.annotation import polygons, rle
from onnxcam.core.localize import energy_inside
from onnxcam.evaluate import faithfulness as ours
from onnxcam.evaluate.localization import points_at

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "evaluate" / "goldens"
SIZE, CHANNELS, COUNT, CLASSES, STEPS = (12, 14), 3, 4, 5, 10
PERCENTILES = (10, 20, 50, 80, 90)  # at which the two ways of counting give the same number of pixels


def material() -> dict[str, np.ndarray]:
    """Pictures, smooth maps without ties, and the weights of two layers, all exact in float32."""
    rng = np.random.default_rng(8)
    inputs = CHANNELS * SIZE[0] * SIZE[1]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    maps = [np.exp(-((y - 3 - k) ** 2 + (x - 4 - 2 * k) ** 2) / (8.0 + k)) for k in range(COUNT)]
    noisy = [m + 0.05 * rng.random(SIZE) for m in maps]
    made = {
        "pictures": rng.normal(size=(COUNT, CHANNELS, *SIZE)),
        "maps": np.stack([m / m.max() for m in noisy]),
        "first": rng.normal(size=(inputs, 16)) / np.sqrt(inputs) * 2,
        "second": rng.normal(size=(16, CLASSES)),
    }
    return {k: v.astype(np.float32).astype(np.float64) for k, v in made.items()}


class Net(torch.nn.Module):
    def __init__(self, m: dict[str, np.ndarray], channels: int = CHANNELS) -> None:
        super().__init__()
        inputs = channels * SIZE[0] * SIZE[1]
        self.first = torch.nn.Parameter(torch.from_numpy(m["first"][:inputs]))
        self.second = torch.nn.Parameter(torch.from_numpy(m["second"]))

    def forward(self, x: Any) -> Any:
        return torch.softmax(torch.tanh(x.double().reshape(len(x), -1) @ self.first) @ self.second, dim=1)


class Extractor:
    """What torchcam's metrics ask of a CAM method: here the maps are given."""

    def __init__(self, model: Net, maps: np.ndarray) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *args: Any, **more: Any) -> list[Any]:
        return [torch.from_numpy(self.maps)]

    def fuse_cams(self, cams: list[Any]) -> Any:
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


def of_torchcam(net: Net, x: Any, maps: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    found: dict[str, list[float]] = {"drop": [], "increase": [], "deletion": [], "insertion": []}
    for k in range(COUNT):
        extractor = Extractor(net, maps[k : k + 1])
        seen = ClassificationMetric(extractor)
        swept = DeletionInsertionMetric(extractor, steps=STEPS)
        for metric in (seen, swept):
            metric.update(x[k : k + 1], int(classes[k]))
        answers = {**seen.summary(), **swept.summary()}
        for name, key in zip(found, ("avg_drop", "conf_increase", "deletion_auc", "insertion_auc"), strict=True):
            found[name].append(answers[key])
    return {f"torchcam_{k}": np.array(v) for k, v in found.items()}


def of_grad_cam(net: Net, x: Any, maps: np.ndarray, targets: list[Any]) -> dict[str, Any]:
    given = (x, maps, targets, net)
    quiet = road.NoisyLinearImputer(noise=0.0)
    found: dict[str, Any] = {
        "drop": cam_mult_image.DropInConfidence()(*given),
        "increase": cam_mult_image.IncreaseInConfidence()(*given),
        "coherency": (arcc.batch_pearson_coherency(maps, np.roll(maps, 1, axis=0)) + 1) / 2,
        "complexity": arcc.Complexity()(maps),
    }
    for name, order in (("morf", RemoveMostRelevantFirst), ("lerf", RemoveLeastRelevantFirst)):
        rows = [
            PerturbationConfidenceMetric(order(p, quiet))(*given, return_visualization=True, return_diff=False)
            for p in PERCENTILES
        ]
        found[name] = np.stack([scores for scores, _ in rows], axis=1)
        found[f"{name}_picture"] = rows[2][1][0].numpy()
    return {f"grad_cam_{k}": v for k, v in found.items()}


def of_quantus(m: dict[str, np.ndarray], classes: np.ndarray) -> dict[str, Any]:
    import quantus
    from quantus.functions.perturb_func import noisy_linear_imputation

    masks = m["maps"] > 0.4
    one, maps = m["pictures"][:, :1], m["maps"][:, None]
    quiet = {"disable_warnings": True, "display_progressbar": False}
    common = {"model": Net(m, 1).eval(), "x_batch": one, "y_batch": classes, "a_batch": maps, "device": "cpu"}
    flipped = quantus.PixelFlipping(features_in_step=14, perturb_baseline=0.0, abs=False, normalise=False, **quiet)
    mass = quantus.RelevanceMassAccuracy(abs=False, normalise=False, **quiet)
    game = quantus.PointingGame(abs=False, normalise=False, **quiet)
    missing = np.flatnonzero(masks[0].ravel())
    return {
        "quantus_flipped": np.array(flipped(**common, softmax=False)),
        "quantus_mass": np.array(mass(**common, s_batch=np.roll(masks, 2, axis=2)[:, None])),
        "quantus_points": np.array(game(**common, s_batch=np.roll(masks, 3, axis=2)[:, None]), np.float64),
        "quantus_imputed": noisy_linear_imputation(m["pictures"][0], missing, noise=0.0),
    }


def predictor(m: dict[str, np.ndarray], name: int, channels: int = CHANNELS) -> ours.Predict:
    net = Net(m, channels)

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(np.asarray(x, np.float64))).numpy()[:, name]

    return predict


def of_us(m: dict[str, np.ndarray], classes: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers by this package, under the names of theirs; as `tests/evaluate` takes them."""
    step = -(-SIZE[0] * SIZE[1] // STEPS)
    shares = tuple((100 - p) / 100 for p in reversed(PERCENTILES))
    rows: dict[str, list[Any]] = {}
    for k, name in enumerate(classes):
        predict, x, heat = predictor(m, name), m["pictures"][k : k + 1], m["maps"][k]
        before, after = predict(x)[0], predict(x * heat)[0]
        one = {
            "torchcam_drop": ours.drop(before, after),
            "torchcam_increase": ours.increase(before, after),
            "torchcam_deletion": ours.deletion(predict, x, heat, "zero", step=step).area,
            "torchcam_insertion": ours.insertion(predict, x, heat, "zero", step=step).area,
            "grad_cam_drop": ours.drop(before, after) * before,
            "grad_cam_increase": ours.increase(before, after),
            "grad_cam_coherency": ours.coherency(heat, m["maps"][k - 1]),
            "grad_cam_complexity": ours.complexity(heat),
            "grad_cam_morf": ours.road(predict, x, heat, True, shares=shares, noise=0).scores[::-1],
            "grad_cam_lerf": ours.road(predict, x, heat, False, shares=shares, noise=0).scores[::-1],
            "quantus_flipped": ours.deletion(predictor(m, name, 1), x[:, :1], heat, "zero", step=14).scores[1:],
            "quantus_mass": energy_inside(heat, np.roll(heat > 0.4, 2, axis=1)),
            "quantus_points": points_at(heat, np.roll(heat > 0.4, 3, axis=1), tolerance=0),
        }
        for key, value in one.items():
            rows.setdefault(key, []).append(value)
    found = {key: np.array(value, np.float64) for key, value in rows.items()}
    found["quantus_imputed"] = impute.linear_imputation(m["pictures"][0], m["maps"][0] > 0.4)
    return found


def shapes_agree() -> bool:
    """COCO's own tools read our run lengths as the same mask, and our polygons too."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        mask = rng.random((9, 13)) < rng.choice([0.2, 0.5, 0.8])
        if not mask.any():
            continue
        lengths, outlines = rle(mask), polygons(mask)
        read = coco_mask.decode(coco_mask.frPyObjects(lengths, 9, 13))
        if not np.array_equal(read, mask):
            return False
        big = np.kron(mask, np.ones((20, 20), bool))  # their rasteriser shifts the edges by up to a pixel
        parts = coco_mask.frPyObjects([(o * 20.0).ravel().tolist() for o in outlines if len(o)], 180, 260)
        drawn = coco_mask.decode(parts).sum(axis=2) % 2 == 1
        if (drawn != big).mean() > 0.1:
            return False
    return True


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    m = material()
    net = Net(m).eval()
    x = torch.from_numpy(m["pictures"])
    classes = net(x).argmax(dim=1).numpy()
    classes[3] = int(net(x)[3].argmin())  # a score that grows when the picture is seen through the map
    targets = [lambda scores, k=k: scores[k] for k in classes]
    theirs = {
        **of_torchcam(net, x, m["maps"], classes),
        **of_grad_cam(net, x.float(), m["maps"].astype(np.float32), targets),
        **of_quantus(m, classes),
    }
    mine = of_us(m, classes)
    for key, value in mine.items():
        print(f"{key:22} {np.abs(value - theirs[key]).max():.1e}   {np.round(np.ravel(theirs[key])[:4], 4)}")
    print("COCO reads our shapes:", shapes_agree())
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    small = {k: v.astype(np.float32) for k, v in {**m, **theirs}.items()}
    np.savez_compressed(folder / "peers.npz", allow_pickle=False, classes=classes, **small)


if __name__ == "__main__":
    main()
