"""The papers' formulas in plain torch, for the methods where a peer departs from its paper.

``benchmarks.peers_torch`` asks these too, as the peer "paper": where onnxcam agrees with "paper" and not with the peer,
the departure is the peer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import NMF
from torch.nn import functional

from benchmarks.peers_torch import Method, Question
from benchmarks.peers_torch_cams import TRANSFORMERS, detached

PIXELS = (2, 3)


# ---- of one gradient ----


def at_layer(q: Question, x: Any = None) -> tuple[Any, Any]:
    """A and G of the layer, folded."""
    kept = []
    handle = q.module.register_forward_hook(lambda m, i, o: (kept.append(o), o.clone())[1])
    score = q.model(q.x if x is None else x)[0, q.target]
    handle.remove()
    G = torch.autograd.grad(score, kept[0])[0]
    fold = q.fold or (lambda t: t)
    return fold(kept[0]).detach(), fold(G)


def weighted(q: Question, weight: Callable[[Any, Any], Any]) -> Any:
    A, G = at_layer(q)
    return detached((weight(A, G) * A).sum(1))


def plus_plus(q: Question) -> Any:
    """alpha = G^2 / (2 G^2 + G^3 sum A), nothing added."""

    def weight(A: Any, G: Any) -> Any:
        below = 2 * G**2 + G**3 * A.sum(PIXELS, keepdim=True)
        alpha = torch.where(G != 0, G**2, 0) / torch.where(G != 0, below, 1)
        return (alpha * G.relu()).sum(PIXELS, keepdim=True)

    return weighted(q, weight)


def xgrad(q: Question) -> Any:
    """A channel that is 0 everywhere has no weight."""

    def weight(A: Any, G: Any) -> Any:
        total = A.sum(PIXELS, keepdim=True)
        return torch.where(total == 0, 0, (G * A).sum(PIXELS, keepdim=True) / torch.where(total == 0, 1, total))

    return weighted(q, weight)


def fem(q: Question) -> Any:
    """A channel's binary map (2 sigma), weighted by its mean."""
    A, _ = at_layer(q)
    mean = A.mean(PIXELS, keepdim=True)
    return detached((mean * (mean + 2 * A.std(PIXELS, keepdim=True, correction=0) < A)).sum(1))


def smooth_plus_plus(q: Question, num_samples: int, std: float) -> Any:
    """First derivative on top, all means over the copies, A of the clean picture."""
    A, _ = at_layer(q)
    with q.drawn(normal="noise"):
        draws = [torch.normal(0, torch.full(q.x.shape, std)) for _ in range(num_samples)]
    G = torch.stack([at_layer(q, q.x + d)[1] for d in draws])
    first, second, third = (torch.mean(G**p, 0) for p in (1, 2, 3))
    below = 2 * second + A.sum(PIXELS, keepdim=True) * third
    alpha = first / torch.where(below == 0, 1, below)
    return detached(((alpha * first.relu()).sum(PIXELS, keepdim=True) * A).sum(1))


def shapley(q: Question) -> Any:
    """w_k = mean(G - H A / 2), of logit + log-probability."""
    kept: list[Any] = []
    handle = q.module.register_forward_hook(lambda m, i, o: (kept.append(o), o.clone())[1])
    z = q.model(q.x)[0]
    handle.remove()
    G = torch.autograd.grad(z[q.target] + z.log_softmax(0)[q.target], kept[0], create_graph=True)[0]
    curved = torch.autograd.grad(G, kept[0], kept[0].detach())[0]
    A, G, HA = (q.fold(t) if q.fold else t for t in (kept[0], G, curved))
    return detached(((G - HA / 2).mean(PIXELS, keepdim=True) * A).sum(1))


def augmented(q: Question) -> Any:
    """The mean of six heatmaps, each with 0 where nothing speaks for the class and 1 at its maximum."""
    views = []
    for flipped in (False, True):
        for factor in (0.9, 1.0, 1.1):
            x = (q.x.flip(3) if flipped else q.x) * factor
            A, G = at_layer(q, x)
            cam = (G.mean(PIXELS, keepdim=True) * A).sum(1, keepdim=True).relu()
            cam = functional.interpolate(cam, q.x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
            views.append((cam.flip(2) if flipped else cam) / cam.max())
    return detached(torch.stack(views).mean(0))


def eigen(q: Question) -> Any:
    """The first left singular vector of the pixels (pixels, C) as they are, times its singular value."""
    A = at_layer(q)[0][0]
    u, s, _ = torch.linalg.svd(A.flatten(1).T, full_matrices=False)
    return detached((u[:, 0] * s[0]).reshape(1, *A.shape[1:]))


def factors(q: Question, n_components: int) -> Any:
    """H of the activations' factorisation, from scikit-learn's start."""
    A = detached(at_layer(q)[0])[0]
    nmf = NMF(n_components, init="random", random_state=0)
    nmf.fit(A.reshape(len(A), -1))
    return nmf.components_.reshape(1, n_components, *A.shape[1:])


# ---- of many scores ----


def masks(q: Question) -> tuple[Any, Any]:
    """A, and its channels upsampled first and brought to [0, 1] then."""
    A, _ = at_layer(q)
    up = functional.interpolate(A, q.x.shape[2:], mode="bilinear", align_corners=False)[0][:, None]
    low, high = up.amin(PIXELS, keepdim=True), up.amax(PIXELS, keepdim=True)
    flat = high == low
    return A, torch.where(flat, 0, (up - low) / torch.where(flat, 1, high - low))


def scored(q: Question, seen: Callable[[Any, int], Any], times: int) -> Any:
    """sum_k softmax(mean over times of f(seen(mask_k, time)) - f(0)) A_k."""
    A, M = masks(q)
    with torch.no_grad():
        rounds = [torch.cat([q.model(part)[:, q.target] for part in seen(M, t).split(16)]) for t in range(times)]
        increase = torch.stack(rounds).mean(0) - q.model(torch.zeros_like(q.x))[0, q.target]
    weight = torch.softmax(increase, 0) * (M.amax((1, 2, 3)) > 0)
    return detached((weight[:, None, None] * A[0]).sum(0, keepdim=True))


def score(q: Question) -> Any:
    return scored(q, lambda M, t: q.x * M, 1)


def smoothed_score(q: Question, num_samples: int, std: float) -> Any:
    rng = np.random.default_rng(q.seed)

    def seen(M: Any, t: int) -> Any:
        noise = rng.standard_normal(tuple(M.shape[1:2] + M.shape[:1] + M.shape[2:])).astype(np.float32)
        q.draws.setdefault("noise", []).append(noise * np.float32(std))
        return q.x * (M + std * torch.from_numpy(noise)[0][:, None])

    return scored(q, seen, num_samples)


def integrated_score(q: Question, num_samples: int) -> Any:
    shares = np.cumsum(np.arange(1, num_samples + 1)) / num_samples
    return scored(q, lambda M, t: float(shares[t]) * (q.x * M), num_samples)


def ablation(q: Question) -> Any:
    """w_k = (y - y_k) / |y| with the channel set to 0, of tokens in the patches."""
    A, _ = at_layer(q)
    scores = []
    with torch.no_grad():
        for k in range(A.shape[1]):
            handle = q.module.register_forward_hook(lambda m, i, o, k=k: without(q, o, k))
            scores.append(q.model(q.x)[0, q.target])
            handle.remove()
        y = q.model(q.x)[0, q.target]
        return detached(((y - torch.stack(scores)) / y.abs())[None, :, None, None].mul(A).sum(1))


def without(q: Question, output: Any, channel: int) -> Any:
    output = output.clone()
    if output.ndim == 3:
        output[:, 1:, channel] = 0
    elif q.fold:
        output[..., channel] = 0
    else:
        output[:, channel] = 0
    return output


# ---- of the picture ----


def fullgrad(q: Question) -> Any:
    """psi of x * dx and of each bias: absolute, to [0, 1] channel by channel, upsampled bilinearly; the sum."""
    sites = [m for m in q.model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    kept: dict[Any, Any] = {}
    handles = [m.register_forward_hook(lambda m, i, o: (kept.__setitem__(m, o), o.clone())[1]) for m in sites]
    x = q.x.requires_grad_()
    value = q.model(x)[0, q.target]
    for handle in handles:
        handle.remove()
    biases = {m: implied(m) for m in kept if implied(m) is not None}
    grads = torch.autograd.grad(value, [x, *(kept[m] for m in biases)])
    terms = [x * grads[0], *(b[:, None, None] * G for b, G in zip(biases.values(), grads[1:], strict=True))]
    return detached(sum(psi(t.detach().abs(), q.x.shape[2:]) for t in terms))


def implied(module: Any) -> Any:
    if isinstance(module, torch.nn.BatchNorm2d):
        return module.bias - module.weight * module.running_mean / torch.sqrt(module.running_var + module.eps)
    return module.bias


def psi(term: Any, size: Any) -> Any:
    low, high = term.amin(PIXELS, keepdim=True), term.amax(PIXELS, keepdim=True)
    scaled = torch.where(high > low, (term - low) / torch.where(high > low, high - low, 1), 0)
    return functional.interpolate(scaled, size, mode="bilinear", align_corners=False).sum(1)


def trapezoid(q: Question, n_steps: int) -> Any:
    """x times the integral by the trapezoid rule, whose weights sum to 1."""
    total = torch.zeros_like(q.x)
    for k in range(n_steps):
        x = (q.x * (k / (n_steps - 1))).requires_grad_()
        slope = torch.autograd.grad(q.model(x)[0, q.target], x)[0]
        total += slope * ((0.5 if k in (0, n_steps - 1) else 1) / (n_steps - 1))
    return detached(q.x * total)


class Rectifier(torch.autograd.Function):
    """min(max(x, 0), top) with a policy for what comes back."""

    @staticmethod
    def forward(ctx: Any, x: Any, top: float, guided: bool) -> Any:
        ctx.passed = (x > 0) & (x < top)
        ctx.guided = guided
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return dy.clamp(min=0) * (ctx.passed if ctx.guided else 1), None, None


@contextmanager
def rectified(guided: bool) -> Iterator[None]:
    """Every rectifier, whether a module or a function."""
    plain = functional.relu, functional.hardtanh, functional.relu6
    functional.relu = lambda x, inplace=False: Rectifier.apply(x, torch.inf, guided)
    functional.relu6 = lambda x, inplace=False: Rectifier.apply(x, 6.0, guided)
    functional.hardtanh = lambda x, low, high, inplace=False: Rectifier.apply(x, high, guided)
    try:
        yield
    finally:
        functional.relu, functional.hardtanh, functional.relu6 = plain


def backprop(q: Question, guided: bool) -> Any:
    x = q.x.requires_grad_()
    with rectified(guided):
        value = q.model(x)[0, q.target]
    return detached(torch.autograd.grad(value, x)[0])


def guided_gradcam(q: Question) -> Any:
    """Guided backprop times the upsampled Grad-CAM, whose largest value is made 1."""
    A, G = at_layer(q)
    cam = (G.mean(PIXELS, keepdim=True) * A).sum(1, keepdim=True).relu()
    cam = functional.interpolate(cam, q.x.shape[2:], mode="bilinear", align_corners=False)
    return backprop(q, guided=True) * detached(cam / cam.max())


def _pixel(ask: Callable[..., Any], options: dict[str, Any] | None = None, **more: Any) -> Method:
    return Method(ask, options or {}, "image", "attribution", **more)


METHODS = {
    "paper/Grad-CAM++": Method(plus_plus),
    "paper/XGrad-CAM": Method(xgrad),
    "paper/FEM": Method(fem, classes=False),
    "paper/Eigen-CAM": Method(eigen, classes=False, free_sign=True),
    "paper/Smooth Grad-CAM++": Method(smooth_plus_plus, {"num_samples": 3, "std": 0.3}),
    "paper/Shapley-CAM": Method(shapley),
    "paper/Grad-CAM augmented": Method(augmented, {}, "last", "heatmap"),
    "paper/Deep Feature Factorization": Method(
        factors, {"n_components": 4}, "last", "factors", classes=False, never=(*TRANSFORMERS, "densenet121")
    ),
    "paper/Score-CAM": Method(score, {}, "few", classes=False, never=("vgg16",)),
    "paper/SS-CAM": Method(smoothed_score, {"num_samples": 2, "std": 2.0}, "few", classes=False, slow=True),
    "paper/IS-CAM": Method(integrated_score, {"num_samples": 4}, "few", classes=False, slow=True),
    "paper/Ablation-CAM": Method(ablation, {}, "few", classes=False, never=("vgg16",)),
    "paper/FullGrad": Method(fullgrad, where="image", never=TRANSFORMERS),
    "paper/Integrated Gradients trapezoid": _pixel(trapezoid, {"n_steps": "few"}, slow=True),
    "paper/Guided Backpropagation": _pixel(backprop, {"guided": True}, never=TRANSFORMERS),
    "paper/Deconvnet": _pixel(backprop, {"guided": False}, never=TRANSFORMERS),
    "paper/Guided Grad-CAM": Method(guided_gradcam, {}, "last", "attribution", never=TRANSFORMERS),
}
