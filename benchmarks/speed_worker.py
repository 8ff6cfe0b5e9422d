"""The process of one competitor: it makes a call ready, and repeats it when its turn comes.

    python -m benchmarks.speed_worker QUESTION.json

Of this file, those of onnxcam and of ONNX Runtime alone; ``benchmarks.speed_torch`` has the peers'. Told by lines of
JSON on standard input, it answers each by one on standard output: at first, unasked, what making ready took; to
``{"warm", "least", "seconds"}`` the seconds of each call of a turn; at the end of the input, the peak of its memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Mapping[str, Any]]
Clock = Callable[[], float]


class Steps:
    """Seconds of each step of making ready."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._last = clock()

    def done(self, name: str) -> None:
        now = self._clock()
        self.seconds[name], self._last = now - self._last, now


def serve(make: Callable[[dict[str, Any], Steps], Call]) -> None:
    """Make the call that the question file asks for, then take turns. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    question, steps = json.loads(Path(sys.argv[1]).read_text()), Steps()
    call = make(question, steps)
    found = call()
    steps.done("first")
    np.savez(question["answer"], **found)
    _tell(answers, steps.seconds)
    for line in sys.stdin:
        _tell(answers, turn(call, **json.loads(line)))
    _tell(answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _tell(answers: Any, what: Any) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def turn(
    call: Callable[[], Any], warm: float, least: int, seconds: float, clock: Clock = time.perf_counter
) -> list[float]:
    """Seconds of each call, after calls for ``warm`` seconds that do not count."""
    start = clock()
    while clock() - start < warm:
        call()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        begin = clock()
        call()
        times.append(clock() - begin)
    return times


def make(question: dict[str, Any], steps: Steps) -> Call:
    return {"onnxruntime": bare, "onnxcam": explained, "onnxcam session": session}[question["who"]](question, steps)


def bare(question: dict[str, Any], steps: Steps) -> Call:
    """The model as it is."""
    import onnxruntime

    steps.done("import")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = question["threads"]
    runs = onnxruntime.InferenceSession(question["model"], options, providers=["CPUExecutionProvider"])
    feeds = {runs.get_inputs()[0].name: np.load(question["image"])}
    steps.done("build")
    return lambda: {"logits": runs.run(None, feeds)[0]}


def explained(question: dict[str, Any], steps: Steps) -> Call:
    """What a user calls: from the preprocessed tensor to the finished Explanation."""
    explainer, image = _explainer(question, steps)
    target = question["score"]

    def call() -> dict[str, Any]:
        found = explainer.explain_tensor(image, target)
        arrays = {"heatmap": [e.heatmap for e in found]}
        if found[0].cam is not None:
            arrays["cam"] = [e.cam for e in found]
        if found[0].attribution is not None:
            arrays["attribution"] = [e.attribution for e in found]
        return {name: np.stack(values) for name, values in arrays.items()}

    return call


def session(question: dict[str, Any], steps: Steps) -> Call:
    """The run of the edited graph alone: prediction, features and gradients."""
    explainer, image = _explainer(question, steps)
    explainer.explain_tensor(image, question["score"])
    program = next(reversed(explainer.programs.built.values()))
    feeds = {explainer.model.image_input.name: image, **explainer.check_target(question["score"]).feeds(len(image))}
    return lambda: program.run(feeds)


def _explainer(question: dict[str, Any], steps: Steps) -> tuple[Any, Any]:
    from onnxcam import Explainer

    Explainer.explain  # noqa: B018  (imported when it is first asked for)
    steps.done("import")
    layer = {"target_layer": question["layer"]} if question["at_layer"] else {}
    explainer = Explainer(
        question["model"], "unit", method=question["method"], options=question["options"],
        threads=question["threads"], **layer,
    )  # fmt: skip
    steps.done("build")
    return explainer, np.load(question["image"])


if __name__ == "__main__":
    serve(make)
