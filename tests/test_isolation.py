"""Crashes of native code, contained: in a worker, in a session, in an explainer, in a job."""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import classifier, png, write

from onnxcam import Explainer, load_model
from onnxcam.errors import ImageError, ModelError, OptionError
from onnxcam.isolation import CrashError, Worker
from onnxcam.runtime import Session

pytestmark = [pytest.mark.anyruntime, pytest.mark.skipif(os.name != "posix", reason="names the signal")]

# What a worker imports before all else: pictures and models that kill it, as none is known that does on every machine.
KILLER = """
import os, signal
import onnxcam.image, onnxcam.runtime, onnxcam.opening

def deadly(module, name, asked):
    function = getattr(module, name)
    def killed(*given, **more):
        if asked(given):
            os.kill(os.getpid(), signal.SIGSEGV)
        return function(*given, **more)
    killed.__module__, killed.__qualname__ = module.__name__, name
    setattr(module, name, killed)

deadly(onnxcam.image, "decode_image", lambda given: b"deadly" in given[0])
deadly(onnxcam.runtime, "_run_there", lambda given: any(not s.any() for a in given[2].values() for s in a))
deadly(onnxcam.opening, "_open", lambda given: "deadly" in str(given[0]))
"""


@pytest.fixture
def killer(tmp_path, monkeypatch):
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KILLER)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier())


# A worker


def test_a_crash_is_an_exception_and_the_next_call_gets_another_process():
    worker = Worker()
    assert worker.call(math.hypot, 3, 4) == 5
    with pytest.raises(CrashError, match=r"^crashed \(SIGSEGV\)$") as crash:
        worker.call(ctypes.string_at, 0)
    assert not crash.value.ended
    assert worker.life == 1
    assert worker.call(math.hypot, 6, 8) == 10
    assert worker.life == 2


@pytest.mark.skipif(sys.platform != "linux", reason="has signals without a name")
def test_a_signal_without_a_name_goes_by_its_number():
    number = signal.SIGRTMIN + 1
    with pytest.raises(CrashError, match=rf"^crashed \(signal {number}\)$"):
        Worker().call(signal.raise_signal, number)


def test_a_killed_process_is_no_crash():
    with pytest.raises(CrashError, match=r"^was killed \(SIGKILL, likely for want of memory\)$") as crash:
        Worker().call(signal.raise_signal, signal.SIGKILL)
    assert crash.value.ended


def test_what_a_function_raises_comes_back():
    worker = Worker()
    with pytest.raises(ModelError, match="no such file"):
        worker.call(load_model, Path("nowhere.onnx"))
    with pytest.raises(RuntimeError, match="math domain error"):
        worker.call(math.sqrt, -1)
    assert worker.call(os.getpid) != os.getpid()
    assert worker.life == 1


def test_what_takes_too_long_is_ended():
    began = time.monotonic()
    with pytest.raises(CrashError, match=r"^did not finish within 1\.5 s$") as crash:
        Worker(patience=1.5).call(time.sleep, 60)
    assert crash.value.ended
    assert time.monotonic() - began < 30


def test_what_is_printed_there_spoils_no_answer():
    worker = Worker()
    worker.call(print, "to the answers")
    worker.call(os.write, 1, b"to the answers")
    assert worker.call(math.hypot, 3, 4) == 5


def test_threads_get_their_own_answers():
    worker = Worker()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda k: worker.call(pow, k, 2), range(200))) == [k * k for k in range(200)]


def test_a_forked_process_begins_its_own():
    worker = Worker()
    there = worker.call(os.getpid)
    if (child := os.fork()) == 0:
        os._exit(0 if worker.call(os.getpid) not in (there, os.getpid()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker.call(os.getpid) == there


def test_it_ends_with_its_owner_and_with_its_process():
    worker = Worker()
    there = worker.call(os.getpid)
    del worker
    with pytest.raises(ProcessLookupError):
        os.kill(there, 0)
    script = (
        "import os, sys; from onnxcam.isolation import Worker; w = Worker(); print(w.call(os.getpid), flush=True); "
    )
    done = subprocess.run([sys.executable, "-c", script + "os._exit(0)"], capture_output=True, text=True, check=True)
    assert _ends(int(done.stdout))


def test_a_fork_during_the_call_of_another_thread_begins_its_own():
    worker = Worker()
    there = worker.call(os.getpid)
    late = threading.Thread(target=worker.call, args=(time.sleep, 3))
    late.start()
    time.sleep(0.5)
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os._exit(0 if worker.call(os.getpid) not in (there, os.getpid()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    late.join()
    assert worker.call(os.getpid) == there


def test_a_fork_writes_nothing_into_the_pipe_of_its_parent():
    worker = Worker()
    process = worker.ready()
    assert process.stdin is not None
    process.stdin.write(b"half a call")
    if (child := os.fork()) == 0:
        process.stdin.close()
        os._exit(0)
    os.waitpid(child, 0)
    process.stdin.raw.close()  # type: ignore[attr-defined]
    assert process.wait(20) == 0


def test_it_ends_with_its_owner_though_a_fork_lives_on():
    script = """
import os, time
from onnxcam.isolation import Worker
worker = Worker()
there = worker.call(os.getpid)
if (fork := os.fork()) == 0:
    os.closerange(0, 3)
    time.sleep(60)
    os._exit(0)
print(there, fork, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    there, fork = map(int, done.stdout.split())
    try:
        assert _ends(there)
    finally:
        os.kill(fork, signal.SIGKILL)


def _ends(process: int) -> bool:
    for _ in range(100):
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.05)
    return False


def test_modules_in_the_working_folder_are_not_imported(tmp_path):
    for name in ("onnxcam", "numpy", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of a stranger')")
    (script := tmp_path / "scripts" / "ask.py").parent.mkdir()
    script.write_text("import math; from onnxcam.isolation import Worker; print(Worker().call(math.hypot, 3, 4))")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("5.0\n", "")


def test_a_sitecustomize_in_the_working_folder_is_not_run(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(2, b'of a stranger')")
    script = "import math; from onnxcam.isolation import Worker; print(Worker().call(math.hypot, 3, 4))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("5.0\n", "")


def test_it_finds_the_package_that_lies_in_the_working_folder():
    script = "import math; from onnxcam.isolation import Worker; print(Worker().call(math.hypot, 3, 4))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("5.0\n", "")


def test_an_interrupt_leaves_no_answer_behind():
    worker = Worker()
    worker.call(math.hypot, 3, 4)
    late = threading.Timer(0.3, lambda: os.kill(os.getpid(), 2))
    late.start()
    with pytest.raises(KeyboardInterrupt):
        worker.call(time.sleep, 30)
    assert worker.call(math.hypot, 6, 8) == 10


# A session


def test_a_session_elsewhere_answers_alike_and_outlives_a_crash(model, killer):
    opened, worker = load_model(model), Worker()
    apart, here = Session(opened, threads=1, worker=worker), Session(opened, threads=1)
    assert (apart.inputs, apart.providers) == (here.inputs, here.providers)
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(apart.run({"image": x})[0], here.run({"image": x})[0])
    with pytest.raises(ModelError, match=r"ONNX Runtime crashed \(SIGSEGV\) while it ran .*model\.onnx"):
        apart.run({"image": np.zeros_like(x)})
    np.testing.assert_array_equal(apart.run({"image": x})[0], here.run({"image": x})[0])
    with pytest.raises(ModelError, match=r"could not run the model: .*[Ii]nvalid rank"):
        apart.run({"image": x[0]})
    assert worker.life == 2


def test_a_session_that_is_ended_is_not_blamed_on_the_model(model):
    opened = load_model(model)
    with pytest.raises(
        ModelError, match=r"did not finish within 0\.001 s while it opened .* Give it more memory or time"
    ):
        Session(opened, worker=Worker(patience=0.001))


def test_sessions_that_nobody_has_any_more_are_let_go(model):
    opened, worker = load_model(model), Worker()
    x = {"image": np.ones((1, 3, 12, 12), np.float32)}
    first = Session(opened, worker=worker)
    for _ in range(5):
        Session(opened, worker=worker)
    first.run(x)
    assert worker.call(_held) == 1


def _held() -> int:
    from onnxcam import runtime

    return len(runtime._there)


# An explainer, a job, a command


def test_an_isolated_explainer_explains_alike(model, tmp_path, killer):
    photo, deadly = png(tmp_path / "a.png"), tmp_path / "b.png"
    deadly.write_bytes(photo.read_bytes() + b"deadly")
    plain = Explainer(model, preprocess="unit", threads=1).explain(photo)
    apart = Explainer(model, preprocess="unit", threads=1, isolate=True)
    np.testing.assert_array_equal(apart.explain(photo).heatmap, plain.heatmap)
    with pytest.raises(ImageError, match=r"cannot read '.*b\.png': its decoder crashed \(SIGSEGV\)"):
        apart.explain(deadly)
    with pytest.raises(ModelError, match=r"crashed \(SIGSEGV\) while it ran"):
        apart.explain(np.zeros((9, 9, 3), np.uint8))
    assert apart.explain(photo).score == plain.score


def test_a_model_that_crashes_what_opens_it_is_refused(model, killer):
    deadly = model.rename(model.with_name("deadly.onnx"))
    with pytest.raises(ModelError, match=r"deadly\.onnx: native code crashed \(SIGSEGV\) while it was opened"):
        Explainer(deadly, isolate=True)
    with pytest.raises(ModelError, match="no such file"):
        Explainer(model, isolate=True)
    with pytest.raises(OptionError, match="no model"):
        Explainer([], isolate=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["batch", "explain"])
def test_a_picture_that_crashes_native_code_is_one_error(model, tmp_path, killer, command):
    photos = [png(tmp_path / "photos" / f"{k}.png", k) for k in range(6)]
    photos[2].write_bytes(photos[2].read_bytes() + b"deadly")
    cv2.imwrite(str(photos[4]), np.zeros((20, 16, 3), np.uint8))
    given = [str(tmp_path / "photos")] if command == "batch" else [str(p) for p in photos]
    options = ["-o", str(tmp_path / "out"), "--preprocess", "unit", "--isolate", "--json"]
    script = "import sys; from onnxcam.cli import run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", script, command, str(model), *given, *options],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    rows = {Path(r["source"]).stem: r.get("error", "") for r in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1, done.stderr
    assert {name for name, error in rows.items() if not error} == {"0", "1", "3", "5"}
    assert "its decoder crashed (SIGSEGV)" in rows["2"]
    assert "ONNX Runtime crashed (SIGSEGV) while it ran" in rows["4"]
