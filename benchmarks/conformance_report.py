"""Runs the conformance cases and writes docs/operators.md.

    python -m benchmarks.conformance_report judge --engine portable -o portable.json
    python -m benchmarks.conformance_report judge --engine training -o training.json     (with the training build)
    python -m benchmarks.conformance_report write portable.json training.json -o docs/operators.md

`make conformance` does all three. Cases run in a process of their own, which is started anew behind one that dies.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

from benchmarks.conformance import Verdict, judge, listed, newer_cases, suite
from onnxcam.shapes import opset_of

Results = dict[str, Verdict]
PASSES = {
    "plain": {},
    "free": {"free": True},
    "fed": {"constant": False},
    "weights": {"weights": True},
    "newer": {"newer": True},
}
OUTCOMES = ("right", "wrong", "refused", "crash", "untested")


def work(names: Sequence[str], engine: str, which: str) -> None:
    """Judge cases; one line of JSON for each."""
    for name in names:
        print(json.dumps({"start": name}), flush=True)
        try:
            verdict = judge(name, engine, **PASSES[which])
        except Exception as error:  # the runtime refuses what was written: that is wrong, whatever the reason
            verdict = Verdict("wrong", f"{type(error).__name__}: {str(error)[:200]}")
        print(json.dumps({"name": name, "outcome": verdict.outcome, "why": verdict.why}), flush=True)


def judged(names: Sequence[str], engine: str, which: str) -> Results:
    """The verdicts, native crashes included."""
    found: Results = {}
    while rest := [n for n in names if n not in found]:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.conformance_report", "work"]
        options = ["--engine", engine, "--which", which]
        done = subprocess.run([*command, *options], input="\n".join(rest), capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found.update({r["name"]: Verdict(r["outcome"], r["why"]) for r in lines if "name" in r})
        started = [r["start"] for r in lines if "start" in r]
        if not started:
            raise SystemExit(done.stderr[-2000:])
        if done.returncode and started[-1] not in found:
            found[started[-1]] = Verdict("crash", f"the process died with code {done.returncode}")
    return found


def everything(engine: str) -> dict[str, Results]:
    """All passes of an engine."""
    whiches = list(PASSES) if engine == "portable" else ["plain"]
    found = {}
    for which in whiches:
        found[which] = judged(newer_cases() if which == "newer" else listed(), engine, which)
        print(which, dict(Counter(v.outcome for v in found[which].values())), file=sys.stderr)
    return found


def operator_of(name: str) -> str:
    """The operator that a case is about; a function's expansion counts under the operator that it defines."""
    for plain in (name, name.partition("_expanded")[0]):
        nodes = suite()[plain].model.graph.node if plain in suite() else []
        if "_expanded" not in plain and nodes:
            kinds = [n.op_type for n in nodes if n.op_type != "Constant"]
            return Counter(kinds).most_common(1)[0][0]
    return "functions written out"


def table(portable: dict[str, Results], training: Results) -> list[str]:
    """A line per operator."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in [*portable["plain"], *portable["newer"]]:
        groups[operator_of(name)].append(name)
    lines = [
        "| operator | opsets | cases | portable | symbolic axes | integers fed | training |",
        "|---|---|---:|---|---|---|---|",
    ]
    for op, names in sorted(groups.items(), key=lambda item: item[0].lower()):
        opsets = [opset_of(suite()[n].model) for n in names]
        span = f"{min(opsets)}" if min(opsets) == max(opsets) else f"{min(opsets)}-{max(opsets)}"
        both = portable["plain"] | portable["newer"]
        cells = [counts(both[n] for n in names)]
        cells += [counts(portable[w][n] for n in names if n in portable[w]) for w in ("free", "fed")]
        cells.append(counts(training[n] for n in names if n in training))
        lines.append(f"| {op} | {span} | {len(names)} | " + " | ".join(cells) + " |")
    return lines


def counts(verdicts: Iterable[Verdict]) -> str:
    """Such as "12 right, 1 refused"."""
    found = Counter(v.outcome for v in verdicts)
    return ", ".join(f"{found[o]} {o}" for o in OUTCOMES if found[o]) or "-"


def not_right(results: Results) -> list[str]:
    """The rest, by name and reason."""
    rest = [(n, v) for n, v in results.items() if v.outcome != "right"]
    return [f"- `{n}`: {v.outcome}; {reason(v.why)}" for n, v in rest] or ["- none"]


def reason(why: str) -> str:
    """The first refusal of a message."""
    lines = [line.strip() for line in why.splitlines() if line.startswith("  ")]
    return (lines or [why.replace("\n", " ")])[0]


def page(portable: dict[str, Results], training: Results, versions: str) -> str:
    """docs/operators.md."""
    plain, newer = portable["plain"], portable["newer"]
    tested = {n: v for n, v in newer.items() if v.outcome != "untested"}
    held = {n: v for n, v in portable["weights"].items() if v.outcome != "untested"}
    share = sum(v.outcome == "right" for v in plain.values()) / len(plain)
    title = f"""# Operators whose gradients are right

{len(plain)} cases of the ONNX backend node suite (onnx 1.23.2) that ONNX Runtime 1.31 runs and that are differentiable
in a float32 input: a fixed list, `benchmarks/conformance_cases.txt`. A case is **right** if all directional derivatives
of all float outputs by all float inputs agree with central differences of its own model to 0.2 % and what the
differences leave in doubt; where a case's inputs lie at a kink (a tie of a maximum, a grid point on a pixel), it is
judged beside it. **Refused** means an error that names node and reason, **untested** that the runtime does not load
the case (the training build knows opsets up to 21). Rules are held to 1e-7 in float64 by the test suite besides.
Written by `make conformance` ({versions}).

| | right | wrong | refused | crash | untested |
|---|---:|---:|---:|---:|---:|"""
    passes = [
        ("portable", plain),
        ("portable, every axis of the float inputs symbolic, but for kernels and unrolled lengths", portable["free"]),
        ("portable, integer inputs (axes, shapes, indices) fed at run time", portable["fed"]),
        ("portable, all inputs but the first constant, where that leaves something to differentiate", held),
        ("portable, opsets 26 to 28, in ONNX's reference evaluator", tested),
        ("training", training),
    ]
    rows = []
    for label, results in passes:
        found = Counter(v.outcome for v in results.values())
        rows.append(f"| {label} ({len(results)}) | " + " | ".join(str(found[o]) for o in OUTCOMES) + " |")
    parts = [
        title, *rows, "", f"The portable engine is right on {share:.1%} of the list.", "",
        "## By operator", "", *table({**portable, "newer": tested}, training), "",
        "## What the portable engine does not get right", "", "Constant integers:", "", *not_right(plain), "",
        "Symbolic axes:", "", *not_right(portable["free"]), "",
        "Integers fed at run time:", "", *not_right(portable["fed"]), "",
        "Opsets 26 to 28:", "", *not_right(tested),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("judge", "work", "write"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--engine", choices=("portable", "training"), default="portable")
    parser.add_argument("--which", choices=tuple(PASSES), default="plain")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args(arguments)
    if given.what == "work":
        work(sys.stdin.read().split(), given.engine, given.which)
    elif given.what == "judge":
        import onnxruntime

        found: dict[str, Any] = {w: {n: vars(v) for n, v in r.items()} for w, r in everything(given.engine).items()}
        found["runtime"] = f"onnxruntime {onnxruntime.__version__}"
        given.out.write_text(json.dumps(found))
    else:
        portable, training = (json.loads(f.read_text()) for f in given.files)
        versions = (
            f"onnx {onnx.__version__}; portable on {portable.pop('runtime')}, training on {training.pop('runtime')}"
        )
        read = [{w: {n: Verdict(**v) for n, v in r.items()} for w, r in f.items()} for f in (portable, training)]
        given.out.write_text(page(read[0], read[1]["plain"], versions))


if __name__ == "__main__":
    main()
