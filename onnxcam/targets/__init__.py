"""What is explained: each target writes one scalar per sample, the score, in front of the reverse walk."""

from onnxcam.targets.base import CLASS, TOP1, ClassTarget, Head, Scene, Target, View, class_index
from onnxcam.targets.boxes import Box
from onnxcam.targets.classes import Finer, Logit, LogProbability, Margin, Probability, Rest, Sum
from onnxcam.targets.dense import Region
from onnxcam.targets.parse import FORMS, TARGETS, as_target, split_output
from onnxcam.targets.tokens import Token, Tokens
from onnxcam.targets.values import Custom, Element, Similarity

__all__ = [
    "CLASS",
    "FORMS",
    "TARGETS",
    "TOP1",
    "Box",
    "ClassTarget",
    "Custom",
    "Element",
    "Finer",
    "Head",
    "LogProbability",
    "Logit",
    "Margin",
    "Probability",
    "Region",
    "Rest",
    "Scene",
    "Similarity",
    "Sum",
    "Target",
    "Token",
    "Tokens",
    "View",
    "as_target",
    "class_index",
    "split_output",
]
