"""Methods that need nothing but scores."""

from __future__ import annotations

from onnxcam.core import perturb, perturb_segments
from onnxcam.core.rise import rise
from onnxcam.methods.row import Method, papers

BLACK_BOX = (
    Method(
        "occlusion", "Occlusion sensitivity", "mean over the windows W at a pixel of y(x) - y(x without W)",
        papers("zeiler2014visualizing"), procedure=perturb.occlusion, gives="map", runs="about 100",
        target="probability", aliases=("occlusion_sensitivity", "occlusion_map"),
    ),
    Method(
        "rise", "RISE", "1 / (E[M] N) sum_i y(x * M_i) M_i, M_i random soft masks", papers("petsiuk2018rise"),
        procedure=rise, gives="map", runs="2000", budget="samples", target="probability", normalize="minmax",
    ),
    Method(
        "aise", "AISE", "sum_i (g_i - min g) K_i, g_i = y(x * K_i) - y(x * (1 - K_i)), Gaussians K_i found by DIRECT",
        papers("openvino2024aise"), procedure=perturb.aise, gives="map", runs="300", budget="samples",
        target="probability", normalize="minmax",
    ),
    Method(
        "feature_ablation", "Feature ablation", "y(x) - y(x without segment k)", papers("zeiler2014visualizing"),
        procedure=perturb_segments.feature_ablation, gives="map", runs="1 per segment (64)", target="probability",
    ),
    Method(
        "lime", "LIME", "b of the weighted linear fit y(x of z) = a + z b, z random coalitions of segments",
        papers("ribeiro2016why"), procedure=perturb_segments.lime, gives="map", runs="1000", budget="samples",
        target="probability",
    ),
    Method(
        "kernelshap", "Kernel SHAP", "Shapley values of segments by a linear fit with Shapley's kernel",
        papers("lundberg2017unified", "covert2021improving"), procedure=perturb_segments.kernelshap, gives="map",
        runs="1002", budget="samples", target="probability", aliases=("kernel_shap", "shap"),
    ),
)  # fmt: skip
