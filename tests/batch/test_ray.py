"""The same job on many machines: what is dealt out, what a machine must see, what happens when one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import classifier, png, write

import onnxcam.batch
from onnxcam.batch import ray as runner
from onnxcam.batch.job import Job
from onnxcam.batch.plan import Item
from onnxcam.batch.ray import cluster as rays
from onnxcam.batch.settings import Settings
from onnxcam.batch.work import Work
from onnxcam.errors import GradientError, OptionError, OutputError

pytestmark = pytest.mark.anyruntime
LABELS = ["ant", "bee", "cat", "dog"]
OPTIONS: dict[str, Any] = {"labels": LABELS, "preprocess": "unit", "threads": 1}
BAD = 5  # this picture is none


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier())


def pictures(folder: Path, many: int) -> Path:
    folder.mkdir()
    for k in range(many):
        png(folder / f"{k:03}.png", k, 20, 16)
    (folder / f"{BAD:03}.png").write_bytes(b"no picture")
    return folder


def job(model: Path | str, source: Path, out: Path, **options: Any) -> Job:
    return onnxcam.batch.run(model, source, out, **{**OPTIONS, "workers": 2, "batch": 2, **options})


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "timings"} for row in rows]


def saved(out: Path) -> list[dict[str, Any]]:
    return untimed([json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()])


def files(out: Path) -> dict[str, bytes]:
    """What a job leaves, but for what tells its times."""
    told = (p for p in out.rglob("*") if p.is_file() and p.name not in ("lock", "run.json", "results.jsonl"))
    return {str(p.relative_to(out)): p.read_bytes() for p in told}


# Without Ray


def test_without_ray_the_command_that_installs_it_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'onnxcam\[ray\]'"):
        job(model, pictures(tmp_path / "photos", 6), tmp_path / "out", runner="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_an_address_from_outside_the_cluster_is_refused(where, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001" if where == "environment" else "")
    with pytest.raises(OptionError, match=r"'ray://head:10001'.*--ray-address auto"):
        runner.check("ray://head:10001" if where == "argument" else None)


def settings(**options: Any) -> Settings:
    return Settings("model.onnx", options)


@pytest.mark.parametrize(
    ("options", "workers", "share"),
    [
        ({}, None, (12, 1, None)),
        ({"threads": 4}, None, (2, 4, None)),  # 8 // 4 + 3 // 4 + 1 // 4
        ({"threads": 4}, 7, (7, 4, None)),
        ({"providers": ["CUDAExecutionProvider"]}, None, (3, 1, 1.0)),
        ({"providers": ["CUDAExecutionProvider"], "threads": 2}, None, (2, 2, 1.0)),
        ({"providers": ["TensorrtExecutionProvider", "CPUExecutionProvider"]}, 7, (7, 1, 0.3333)),  # 3 on a GPU
    ],
)
def test_actors_are_as_many_as_the_cluster_has_room_for(options, workers, share):
    nodes = [{"CPU": 8.0, "GPU": 2.0, "memory": 1e9}, {"CPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert rays.share(settings(**options), nodes, workers) == share


@pytest.mark.parametrize("options", [{"threads": 9}, {"providers": ["CUDAExecutionProvider"]}])
def test_a_cluster_without_room_is_refused_rather_than_waited_for(options):
    with pytest.raises(OptionError, match="no machine of the 1"):
        rays.share(settings(**options), [{"CPU": 8.0}], 2)


def todo(out: Path, groups: int, each: int = 2) -> runner._Todo:
    (out / ".onnxcam" / "tmp").mkdir(parents=True, exist_ok=True)
    items = (Item(k, f"{k}.png", f"{k}.png", None, None, "") for k in range(groups * each))
    return runner._Todo(out, iter(lambda: list(islice(items, each)), []))


def test_where_nothing_is_to_do_ray_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "check", lambda address: None)
    monkeypatch.setattr(runner, "connected", lambda *given: pytest.fail("Ray is started"))
    out = todo(tmp_path, 0).out
    assert list(runner.run(settings(), out, iter([]), 2, None, lambda: False)) == []


def test_groups_are_dealt_out_in_ranges_of_what_is_left(tmp_path):
    work = todo(tmp_path, 5001)
    for number in (*range(100), 103):
        assert work.done(number)
    assert not work.done(103)
    assert work.left == 4900
    ranges = work.ranges()
    assert max(r["many"] for r in ranges) == 3  # 4,900 / 2,000, rounded up
    assert [n for r in ranges for n in range(r["first"], r["first"] + r["many"])] == [
        n for n in range(5001) if n >= 100 and n != 103
    ]
    lines = work.path.read_bytes()
    for r in ranges[:3]:
        assert json.loads(lines[r["place"] :].split(b"\n")[0])[0][0] == 2 * r["first"]
    work.close()
    assert not work.path.exists()


def prepared(model: Path, tmp_path: Path, **options: Any) -> tuple[Job, runner._Todo]:
    """A job that is planned, and its groups in their file."""
    one = job(model, pictures(tmp_path / "photos", 8), tmp_path / "out", **options)
    return one, runner._Todo(one.out, one.plan.pending(bytes(one.plan.count)))


def worker(one: Job, work: runner._Todo, version: str = onnxcam.__version__) -> runner.Worker:
    return runner.Worker(one.settings, one.out, work.path, os.getcwd(), version)


def answers(one: runner.Worker, work: runner._Todo) -> list[dict[str, Any]]:
    ranges = work.ranges()
    batch = {key: [r[key] for r in ranges] for key in ranges[0]}
    return [json.loads(text) for told in one(batch) for text in told["answer"]]


def scratch(out: Path) -> list[str]:
    return sorted(p.name for p in (out / ".onnxcam" / "tmp").iterdir())


def test_an_actor_answers_with_the_rows_of_each_group(model, tmp_path):
    one, work = prepared(model, tmp_path)
    told = answers(worker(one, work), work)
    expected = [Work(one.settings, one.out).group(g) for g in one.plan.pending(bytes(one.plan.count))]
    assert [a["number"] for a in told] == [0, 1, 2, 3]
    assert [untimed(a["rows"]) for a in told] == [untimed(rows) for rows in expected]
    assert [a["dead"] for a in told] == [0, 0, 0, 0]
    assert scratch(one.out) == [work.path.name]


def test_a_group_at_which_processes_died_is_done_picture_by_picture(model, tmp_path, monkeypatch):
    one, work = prepared(model, tmp_path)
    sizes: list[int] = []
    group = Work.group
    monkeypatch.setattr(Work, "group", lambda self, items: sizes.append(len(items)) or group(self, items))
    work.path.with_suffix(".0").write_bytes(b".")
    work.path.with_suffix(".1").write_bytes(b"..")
    work.path.with_suffix(".3").write_bytes(b"..")
    work.path.with_suffix(".3-7").write_bytes(b".")  # alone, too
    told = answers(worker(one, work), work)
    assert sizes == [2, 1, 1, 2, 1]
    assert [a["dead"] for a in told] == [0, 0, 0, 1]
    assert [[row["index"] for row in a["rows"]] for a in told] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    spoilt = told[3]["rows"][1]
    assert spoilt["kind"] == "ImageError"
    assert "3 processes died" in spoilt["error"]
    assert not [row for a in told for row in a["rows"] if "error" in row and row["index"] not in (BAD, 7)]


def test_what_a_machine_must_have(model, tmp_path):
    one, work = prepared(model, tmp_path)
    told = answers(worker(one, work, version="0.0.1"), work)[0]
    assert told["kind"] == "OptionError"
    assert "not 0.0.1" in told["error"]
    other = job(model, tmp_path / "photos", tmp_path / "other", method="layercam")
    stranger = runner.Worker(other.settings, one.out, work.path, os.getcwd(), onnxcam.__version__)
    told = answers(stranger, work)[0]
    assert told["kind"] == "OptionError"
    assert "method" in told["error"]
    work.close()
    ranges = work.ranges()[0]
    told = json.loads(next(worker(one, work)({k: [v] for k, v in ranges.items()}))["answer"][0])
    assert told["kind"] == "OutputError"
    assert work.path.name in told["error"]


def test_paths_are_those_of_the_folder_in_which_the_job_was_started(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = job("model.onnx", Path(pictures(tmp_path / "photos", 6).name), Path("out"))
    work = runner._Todo(one.out, one.plan.pending(bytes(one.plan.count)))
    there = worker(one, work)
    monkeypatch.chdir("/")
    there._out = work.out
    told = answers(there, work)
    assert [bool(row["sha256"]) for a in told for row in a["rows"]] == [True] * 6


@pytest.mark.parametrize("fault", [GradientError("no way"), OutputError("disk full"), ZeroDivisionError("a slip")])
def test_what_is_wrong_with_the_job_ends_it(fault, model, tmp_path, monkeypatch):
    one, work = prepared(model, tmp_path)

    def group(self: Work, items: list[Item]) -> list[dict[str, Any]]:
        raise fault

    monkeypatch.setattr(Work, "group", group)
    told = answers(worker(one, work), work)[0]
    seen = runner._Seen()
    expected = RuntimeError if isinstance(fault, ZeroDivisionError) else type(fault)
    with pytest.raises(expected, match=rf"(?s)on the machine '.*{fault}"):
        seen.goes_on(told, stopped=False)


def test_a_job_that_is_stopped_waits_for_each_actor_that_was_at_work():
    seen, nothing = runner._Seen(), {"error": "the list is gone", "kind": "OutputError"}
    assert seen.goes_on(answer("one", {"source": "b.png", "sha256": "1"}), stopped=False)
    assert seen.goes_on(answer("two", {"source": "c.png", "sha256": "1"}), stopped=True)
    assert seen.goes_on({**nothing, "actor": "one", "node": "one"}, stopped=True)
    assert seen.goes_on(answer("two", {"source": "d.png", "sha256": "1"}), stopped=True)
    assert not seen.goes_on({**nothing, "actor": "two", "node": "two"}, stopped=True)


def answer(node: str, *rows: dict[str, Any], dead: int = 0) -> dict[str, Any]:
    return {"actor": node, "node": node, "number": 0, "rows": list(rows), "dead": dead}


def test_a_machine_that_does_not_see_the_pictures_ends_the_job(tmp_path):
    png(tmp_path / "a.png", 0, 20, 16)
    unread = {"source": str(tmp_path / "a.png"), "sha256": None, "error": "there is no such file"}
    gone = {**unread, "source": str(tmp_path / "gone.png")}
    seen = runner._Seen()
    assert seen.goes_on(answer("one", gone), stopped=False)
    assert seen.goes_on(answer("one", {"source": "b.png", "sha256": "1"}), stopped=False)
    assert seen.goes_on(answer("one", unread), stopped=False)  # it has seen others
    with pytest.raises(OptionError, match=r"machine 'two' cannot read '.*a.png'"):
        seen.goes_on(answer("two", unread), stopped=False)


def test_processes_that_die_at_each_picture_end_the_job():
    spoilt = {"source": "a.png", "sha256": None, "error": "died"}
    seen = runner._Seen()
    assert all(seen.goes_on(answer("one", spoilt, dead=1), stopped=False) for _ in range(7))
    with pytest.raises(OptionError, match="die at each picture"):
        seen.goes_on(answer("one", spoilt, dead=1), stopped=False)
    seen = runner._Seen()
    seen.goes_on(answer("one", {"source": "b.png", "sha256": "1"}), stopped=False)
    assert all(seen.goes_on(answer("one", spoilt, dead=1), stopped=False) for _ in range(20))


@pytest.fixture
def lost(monkeypatch) -> type[Exception]:
    """The error of a Ray that is not there."""

    class RayError(Exception):
        pass

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError)))
    return RayError


def test_what_ray_loses_is_dealt_out_again_and_what_comes_twice_counts_once(lost, tmp_path, monkeypatch):
    work, rounds = todo(tmp_path, 4), iter([[2, 2, 0], [], [2, 1], [], [], [3, 3]])

    def answers(given: Settings, work: runner._Todo, workers: int | None) -> Iterator[dict[str, Any]]:
        for number in next(rounds):
            yield {**answer("one", {"source": "b.png", "sha256": "1", "index": number}), "number": number}
        if work.left:
            raise lost("a block is gone")

    monkeypatch.setattr(runner, "_answers", answers)
    found = runner._rounds(settings(), work, 2, lambda: False)
    assert [row["index"] for rows in found for row in rows] == [2, 0, 1, 3]


def test_a_cluster_that_does_nothing_is_given_up(lost, tmp_path, monkeypatch):
    def answers(*given: Any) -> Iterator[dict[str, Any]]:
        yield from ()
        raise lost("\nno luck\nat all")

    monkeypatch.setattr(runner, "_answers", answers)
    with pytest.raises(OptionError, match=r"lost the work on 4 groups 3 times over \(no luck\)"):
        list(runner._rounds(settings(), todo(tmp_path, 4), 2, lambda: False))


# On two machines, as far as Ray can tell


STORE = 100 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray.data", reason="Ray is not installed: make test-ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    one = Cluster(initialize_head=True, head_node_args=head)
    one.add_node(num_cpus=1, object_store_memory=STORE)
    yield one
    one.shutdown()


class Deadly(runner.Worker):
    """Dies without a word at two pictures: at one the first time only, at the other each time."""

    def _open(self) -> Work:
        work, group = super()._open(), Work.group
        flag = self._out / "died"

        def deadly(items: list[Item]) -> list[dict[str, Any]]:
            names = [item.name for item in items]
            if "002.png" in names or ("006.png" in names and not flag.exists()):
                flag.touch(exist_ok=True) if "006.png" in names else None
                os._exit(1)
            return group(work, items)

        work.group = deadly  # type: ignore[method-assign]
        return work


@pytest.mark.slow
def test_a_picture_that_kills_the_process_is_one_error_row(cluster, model, tmp_path, monkeypatch):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import this file
    monkeypatch.setattr(runner, "Worker", Deadly)
    photos = pictures(tmp_path / "photos", 10)
    one = job(model, photos, tmp_path / "out", runner="ray", ray_address=cluster.address)
    assert one.finish() == {"explained": 8, "errors": 2, "flagged": 0}
    assert (tmp_path / "out" / "died").exists()
    assert [row["index"] for row in saved(tmp_path / "out") if "error" in row] == [2, BAD]
    job(model, photos, tmp_path / "here").finish()
    rows = zip(saved(tmp_path / "out"), saved(tmp_path / "here"), strict=True)
    assert [a["index"] for a, b in rows if a != b] == [2]


class Refusing(runner.Worker):
    """Has no gradient for one picture."""

    def _open(self) -> Work:
        work, group = super()._open(), Work.group

        def refuse(items: list[Item]) -> list[dict[str, Any]]:
            if items[0].index == 8:
                raise GradientError("there is none")
            return group(work, items)

        work.group = refuse  # type: ignore[method-assign]
        return work


@pytest.mark.slow
def test_jobs_are_stopped_and_go_on_here_or_there(cluster, model, tmp_path, monkeypatch):
    """Begun here, on the cluster, where an error ends it, there again, where it is stopped, and finished here."""
    from ray import cloudpickle

    photos, out = pictures(tmp_path / "photos", 60), tmp_path / "out"
    there = {"runner": "ray", "ray_address": cluster.address, "resume": True}
    one = job(model, photos, out, workers=1)
    for row in one:
        if row["index"] == 3:
            one.stop()
    assert one.done < 8

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Worker", Refusing)
        with pytest.raises(GradientError, match=r"on the machine '.*': there is none"):
            job(model, photos, out, **there).finish()
    assert 8 not in [row["index"] for row in saved(out)]

    one = job(model, photos, out, **{**there, "workers": None})
    before = one.done
    for _ in one:
        one.stop()
    assert before < one.done < 60
    assert not (out / ".onnxcam" / "tmp").exists()

    one = job(model, photos, out, resume=True)
    one.finish()
    assert one.complete
    job(model, photos, tmp_path / "here").finish()
    assert saved(out) == saved(tmp_path / "here")
    assert files(out) == files(tmp_path / "here")


@pytest.mark.slow
def test_a_process_that_leaves_a_job_ends(model, tmp_path):
    """A loop that is left, with the job kept: Ray Data, stopped after Ray, would start it anew and wait."""
    pytest.importorskip("ray.data", reason="Ray is not installed: make test-ray")
    script = f"""
        import onnxcam.batch
        job = onnxcam.batch.run({str(model)!r}, {str(pictures(tmp_path / "photos", 40))!r}, {str(tmp_path / "out")!r},
                                runner="ray", **{OPTIONS!r}, workers=1, batch=1)
        steps = iter(job)
        print(next(steps)["name"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout in [f"{k:03}.png\n" for k in range(40)]  # and nothing of Ray's
    assert done.stderr == ""
    assert 0 < len(saved(tmp_path / "out")) < 40


@pytest.mark.slow
def test_the_command_prints_rows_alone(model, tmp_path):
    """Ray tells on standard output of a process that dies."""
    pytest.importorskip("ray.data", reason="Ray is not installed: make test-ray")
    script = """
        import os
        from onnxcam.batch import ray
        from onnxcam.cli import main

        class Deadly(ray.Worker):
            def _open(self):
                if not (flag := self._out / "died").exists():
                    flag.touch()
                    os._exit(1)
                return super()._open()

        ray.Worker = Deadly
        main()
    """
    photos, out = pictures(tmp_path / "photos", 6), tmp_path / "out"
    arguments = ["batch", model, photos, "-o", out, "--runner", "ray", "--workers", "1", "--batch", "2", "--json"]
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments, "--preprocess", "unit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, (out / "died").exists()) == (1, True)
    assert sorted(json.loads(line)["index"] for line in done.stdout.splitlines()) == list(range(6))


class Together(runner.Worker):
    """Begins when another one is there."""

    def _open(self) -> Work:
        if self._work is None:
            there, end = self._out.parent / "actors", time.monotonic() + 60
            there.mkdir(exist_ok=True)
            (there / self._me["actor"]).touch()
            while len(list(there.iterdir())) < 2 and time.monotonic() < end:
                time.sleep(0.01)
        return super()._open()


def both_at_work(out: Path) -> bool:
    """Whether, within a moment, each of two actors has a group in hand."""
    end = time.monotonic() + 0.3
    while not (found := sum(name.rpartition(".")[2].isdigit() for name in scratch(out)) == 2):
        if time.monotonic() > end:
            break
    return found


@pytest.mark.slow
def test_a_machine_that_dies_takes_nothing_with_it(cluster, tmp_path, monkeypatch, capfd):
    """The last one: it kills a machine of the cluster."""
    import ray

    photos, out = pictures(tmp_path / "photos", 120), tmp_path / "out"
    options = {**OPTIONS, "labels": None, "preprocess": "auto", "method": "occlusion"}
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(runner, "Worker", Together)
    one = job("zoo:shapes-cnn", photos, out, runner="ray", ray_address=cluster.address, **options)
    (machine,) = cluster.worker_nodes
    killed_at = 0
    for _ in one:
        if not killed_at and one.done >= 10 and both_at_work(out):
            cluster.remove_node(machine, allow_graceful=False)
            killed_at = one.done
    assert 10 <= killed_at < 60
    assert capfd.readouterr().out == ""
    assert one.complete
    job("zoo:shapes-cnn", photos, tmp_path / "here", **options).finish()
    assert saved(out) == saved(tmp_path / "here")
    assert files(out) == files(tmp_path / "here")
    assert len(list(out.glob("*.overlay.jpg"))) == 119
