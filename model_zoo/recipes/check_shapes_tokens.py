"""Do shapes-vqa and shapes-caption answer and describe rightly, and do their explanations point at the right object?

    python check_shapes_tokens.py [--models ..] [--answers 1000] [--scenes 200] [--seed 1500000]

Accuracy comes from the ONNX files by ONNX Runtime. The explanations are measured apart from onnxcam: the files are
replayed node by node in torch, whose own autograd gives the gradient of one logit by one map; Grad-CAM with its ReLU
(Selvaraju et al. 2017), enlarged bilinearly. A hit: the map's peak lies in the mask of the object that is named.

Controls, hits still counted on the first object: the words of another object of the scene (``other``); a question
with a shape that the scene does not show (``absent``). Chance: any pixel, the centre. A map of zeros points nowhere.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import scenes
import torch
import words
from check_shapes_cnn import tensor
from measure_explanations import OPERATORS, Operators, Tensors, replay
from onnx import numpy_helper
from torch.nn import functional

FOLDER = Path(__file__).resolve().parents[1]
VQA, CAPTION = "shapes-vqa.onnx", "shapes-caption.onnx"
ENCODER, DECODER = "shapes-caption-encoder.onnx", "shapes-caption-decoder.onnx"
SEED = 1_500_000
Hits = dict[str, list[bool]]

# ---------------------------------------------------------------- replay


def _gru(x: list[torch.Tensor], a: dict) -> torch.Tensor:
    """ONNX GRU, forward, linear_before_reset = 1, gates z, r, h: Y (T, 1, N, S)."""
    sequence, (w,), (r,), (b,), _, (state,) = x
    size, bias, again = a["hidden_size"], b[: len(b) // 2], b[len(b) // 2 :]
    states = []
    for step in sequence:
        z, reset, new = (step @ w.T + bias).split(size, 1)
        hz, hr, hn = (state @ r.T + again).split(size, 1)
        z, reset = torch.sigmoid(z + hz), torch.sigmoid(reset + hr)
        state = (1 - z) * torch.tanh(new + reset * hn) + z * state
        states.append(state)
    return torch.stack(states)[:, None]


def _unsqueeze(x: list[torch.Tensor], a: dict) -> torch.Tensor:
    for axis in x[1].tolist():
        x = [x[0].unsqueeze(axis), x[1]]
    return x[0]


TOKEN_OPERATORS: Operators = OPERATORS | {
    "Constant": lambda x, a: torch.tensor(numpy_helper.to_array(a["value"])),
    "Gather": lambda x, a: x[0][x[1]],
    "ReduceSum": lambda x, a: x[0].sum(tuple(x[1].tolist()), keepdim=bool(a["keepdims"])),
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda x, a: x[0].squeeze(tuple(x[1].tolist())),
    "Mul": lambda x, a: x[0] * x[1],
    "MatMul": lambda x, a: x[0] @ x[1],
    "Softmax": lambda x, a: x[0].softmax(a["axis"]),
    "Transpose": lambda x, a: x[0].permute(a["perm"]),
    "Reshape": lambda x, a: x[0].reshape(x[1].tolist()),
    "Shape": lambda x, a: torch.tensor(x[0].shape),
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "ConstantOfShape": lambda x, a: torch.zeros(x[0].tolist()),
    "GRU": _gru,
}


def relus(model: onnx.ModelProto) -> list[str]:
    """The outputs of the ReLUs. Of shapes-vqa the last is the fused map, the one before the image tower's last map;
    of shapes-caption the last is the encoder's output.
    """
    return [node.output[0] for node in model.graph.node if node.op_type == "Relu"]


def gradcam(values: Tensors, score: torch.Tensor, layer: str) -> np.ndarray:
    """ReLU(sum_k mean(dy/dA_k) A_k) enlarged: (H, W)."""
    (gradient,) = torch.autograd.grad(score, values[layer], retain_graph=True)
    cam = (gradient.mean((2, 3), keepdim=True) * values[layer]).sum(1, keepdim=True).relu()
    return functional.interpolate(cam, values["image"].shape[2:], mode="bilinear")[0, 0].detach().numpy()


def run(model: onnx.ModelProto, worded: words.Worded, name: str, text: str) -> Tensors:
    inputs = {"image": torch.from_numpy(tensor([worded.scene.image])).requires_grad_()}
    return replay(model, inputs | {name: torch.from_numpy(words.tokens(text)[None])}, TOKEN_OPERATORS)


def hit(cam: np.ndarray, mask: np.ndarray) -> bool:
    return bool(cam.max() > 0 and mask[np.unravel_index(cam.argmax(), cam.shape)])


def chance(hits: Hits, mask: np.ndarray, cam: np.ndarray) -> None:
    """Notes what a pixel anywhere and the centre would hit, and whether the map is blank."""
    hits.setdefault("chance: any pixel", []).append(mask.mean())
    hits.setdefault("chance: centre", []).append(bool(mask[tuple(n // 2 for n in mask.shape)]))
    hits.setdefault("blank maps", []).append(not cam.max() > 0)


# ---------------------------------------------------------------- questions


def questions(worded: words.Worded, seed: int) -> tuple[int, dict[str, str]]:
    """The object looked at, and three questions: its own, another object's, one with an absent shape.

    Every second scene's questions name a colour, the absent shape's the colour of the object looked at.
    """
    things, rng = worded.scene.objects, np.random.default_rng(seed)
    index, other = rng.permutation(len(things))[:2]
    absent = rng.choice(np.flatnonzero(scenes.presence(worded.scene) == 0))
    colour = words.COLOUR_NAMES[worded.colours[index]] if seed % 2 else None
    another = words.COLOUR_NAMES[worded.colours[other]] if seed % 2 else None
    return index, {
        "own": words.question(worded.noun(index), colour),
        "other": words.question(worded.noun(other), another),
        "absent": words.question(scenes.CLASSES[absent], colour),
    }


def vqa_pointing(path: Path, seeds: range) -> Hits:
    """Hits of the yes logit's map on the object that the own question is about."""
    model, hits = onnx.load(path), Hits()
    for seed in seeds:
        worded = words.render(seed)
        index, asked = questions(worded, seed)
        mask = worded.scene.objects[index].mask
        for kind, text in asked.items():
            values = run(model, worded, "question", text)
            for where, layer in zip(("tower", "fused"), relus(model)[-2:], strict=True):
                cam = gradcam(values, values["answer"][0, words.ANSWERS.index("yes")], layer)
                hits.setdefault(f"{where}: {kind}", []).append(hit(cam, mask))
                if kind == "own" and where == "tower":
                    chance(hits, mask, cam)
    return hits


def vqa_accuracy(path: Path, seeds: range) -> Hits:
    """Each scene's own, other and absent question, and every object's shape with a colour that it has not."""
    session, right = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), Hits()
    for seed in seeds:
        worded = words.render(seed)
        index, asked = questions(worded, seed)
        wrong = (worded.colours[index] + 1 + seed % (len(words.COLOURS) - 1)) % len(words.COLOURS)
        asked["wrong colour"] = words.question(worded.noun(index), words.COLOUR_NAMES[wrong])
        tokens = np.stack([words.tokens(text, 5) for text in asked.values()])
        images = np.repeat(tensor([worded.scene.image]), len(asked), 0)
        answers = session.run(["answer"], {"image": images, "question": tokens})[0].argmax(1)
        for (kind, _), answer in zip(asked.items(), answers, strict=True):
            found = bool(answer == (kind in ("own", "other")))
            right.setdefault(f"answer: {kind}", []).append(found)
            right.setdefault("answer", []).append(found)
    return right


# ---------------------------------------------------------------- captions


def caption_pointing(path: Path, first_seed: int, count: int) -> Hits:
    """Hits of both nouns' maps, each at its step of the true caption; ``other``: the other noun's logit there."""
    model, hits = onnx.load(path), Hits()
    layer = relus(model)[-1]
    for worded, named in words.captioned(first_seed, count):
        values = run(model, worded, "tokens", words.caption(worded, named).removesuffix(" <end>"))
        both = []
        for index, other, step, which in zip(named, named[::-1], words.NOUN_STEPS, ("first", "second"), strict=True):
            mask = worded.scene.objects[index].mask
            own, shuffled = (gradcam(values, values["logits"][0, step, words.ID[worded.noun(i)]], layer)
                             for i in (index, other))  # fmt: skip
            both.append(hit(own, mask))
            hits.setdefault(f"own: {which} noun", []).append(both[-1])
            hits.setdefault(f"other: {which} noun", []).append(hit(shuffled, mask))
            chance(hits, mask, own)
        hits.setdefault("own: both nouns", []).append(all(both))
    return hits


def caption_accuracy(folder: Path, first_seed: int, count: int) -> Hits:
    """Next words of the true caption, whole captions written word by word, and whether two files say what one says."""
    one, encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in (CAPTION, ENCODER, DECODER)
    )
    right = Hits()
    for worded, named in words.captioned(first_seed, count):
        image, truth = tensor([worded.scene.image]), words.tokens(words.caption(worded, named))
        logits = one.run(None, {"image": image, "tokens": truth[None, :-1]})[0]
        features = encoder.run(None, {"image": image})[0]
        apart = decoder.run(None, {"features": features, "tokens": truth[None, :-1]})[0]
        found = logits[0].argmax(1) == truth[1:]
        seen = [*words.COLOUR_STEPS, *words.NOUN_STEPS]
        right.setdefault("token", []).extend(found)
        right.setdefault("token: colour or noun", []).extend(found[seen])
        right.setdefault("caption", []).append(bool((written(decoder, features) == truth).all()))
        right.setdefault("two files as one", []).append(bool(np.abs(apart - logits).max() < 1e-4))
    return right


def written(decoder: onnxruntime.InferenceSession, features: np.ndarray) -> np.ndarray:
    """The caption written word by word, the likeliest next, nine in all."""
    tokens = np.array([[words.START]])
    for _ in range(8):
        logits = decoder.run(None, {"features": features, "tokens": tokens})[0]
        tokens = np.append(tokens, logits[:, -1:].argmax(2), 1)
    return tokens[0]


# ---------------------------------------------------------------- command


def show(title: str, found: Hits) -> None:
    print(title)
    for name, values in sorted(found.items()):
        print(f"  {name:26s} {np.mean(values):.4f}  of {len(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=FOLDER)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    for name in (VQA, CAPTION, ENCODER, DECODER):
        content = (options.models / name).read_bytes()
        print(f"{name:30s} {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    first, vqa = scenes.HELDOUT_SEED, options.models / VQA
    show("shapes-vqa: right answers", vqa_accuracy(vqa, range(first, first + options.answers)))
    show("shapes-vqa: hits", vqa_pointing(vqa, range(options.seed, options.seed + options.scenes)))
    show("shapes-caption: right words", caption_accuracy(options.models, first, options.answers))
    caption = options.models / CAPTION
    show("shapes-caption: hits", caption_pointing(caption, options.seed, options.scenes))


if __name__ == "__main__":
    main()
