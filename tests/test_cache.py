"""Graphs that are kept on disk: the same answers, from nobody else's files, whatever happens to these."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from builders import classifier, write

from onnxcam import Custom, Explainer, cache, load_model
from onnxcam.cache import Cache, key_of
from onnxcam.graph.surgery import expose
from onnxcam.opening import opened
from onnxcam.programs import Programs
from onnxcam.runtime import installed_builds

X = np.random.default_rng(3).standard_normal((3, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where graphs are kept."""
    monkeypatch.setenv("ONNXCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier(seed=5))


@pytest.fixture
def written(monkeypatch) -> list[object]:
    """What was asked of the graphs that were worked out, and not recalled."""
    asked: list[object] = []
    drafted = Programs._drafted

    def noted(self: Programs, target: object, plan: object) -> object:
        asked.append((target, plan))
        return drafted(self, target, plan)

    monkeypatch.setattr(Programs, "_drafted", noted)
    return asked


def told(explainer: Explainer, x: np.ndarray = X, target: object = 2) -> list[object]:
    found = explainer.explain_tensor(x, target)
    arrays = [a for e in found for a in (e.heatmap, e.cam, e.attribution) if a is not None]
    return [[e.to_dict() for e in found], [(a.dtype, a.shape, a.tobytes()) for a in arrays]]


# The same answers


@pytest.mark.parametrize("method", ["gradcam", "guided_backprop", "gradcam++", "smoothgrad", "scorecam", "fullgrad"])
def test_a_kept_graph_answers_bit_for_bit_as_a_new_one(monkeypatch, folder, model, written, method):
    """With all that the record tells, and weights of its own as well as the model's."""
    with monkeypatch.context() as off:
        off.setenv("ONNXCAM_CACHE", "")
        want = told(Explainer(model, method=method, threads=1))
    assert told(Explainer(model, method=method, threads=1)) == want
    assert len(list(folder.iterdir())) > 0
    written.clear()
    assert told(Explainer(model, method=method, threads=1)) == want
    assert written == []


def test_inputs_that_nothing_reads_are_still_fed(folder, tmp_path, written):
    proto = classifier()
    proto.graph.input.append(builders.value("idle", [2, 5]))
    path = write(tmp_path / "m.onnx", proto)
    want = told(Explainer(path, threads=1))
    assert told(Explainer(path, threads=1)) == want
    assert len(written) == 1


def test_a_model_that_has_moved_is_the_same_and_is_called_by_its_new_name(folder, tmp_path, model, written):
    want = told(Explainer(model, threads=1))
    moved = tmp_path / "elsewhere.onnx"
    shutil.copy(model, moved)
    explainer = Explainer(moved, threads=1)
    assert told(explainer)[1] == want[1]
    assert len(written) == 1
    with pytest.raises(Exception, match=r"elsewhere\.onnx"):
        explainer.explain_tensor(X[:, :, :5])


# Everything else is another entry


@pytest.mark.parametrize(
    "other",
    [
        {"method": "guided_backprop"},
        {"method": "hirescam", "target_layer": "relu1"},
        {"target_layer": "conv2"},
        {"straight_through": True},
        {"engine": "portable"},
    ],
)
def test_another_question_is_answered_anew(folder, model, written, other):
    Explainer(model).explain_tensor(X)
    written.clear()
    Explainer(model, **other).explain_tensor(X)
    assert len(written) == 1


def test_another_kind_of_target_is_another_graph_and_another_class_is_not(folder, model, written):
    Explainer(model).explain_tensor(X, 1)
    written.clear()
    Explainer(model).explain_tensor(X, 3)
    assert written == []
    Explainer(model).explain_tensor(X, "probability:1")
    Explainer(model).explain_tensor(X, "margin:1,2")
    assert len(written) == 2


def test_another_model_of_the_same_name_is_another_one(folder, model, written):
    first = told(Explainer(model, threads=1))
    write(model, classifier(seed=6))
    second = told(Explainer(model, threads=1))
    assert len(written) == 2
    assert first[1] != second[1]


@pytest.mark.parametrize("changed", ["_source", "_writers"])
def test_another_version_of_what_writes_them_recalls_nothing(monkeypatch, folder, model, written, changed):
    Explainer(model).explain_tensor(X)
    monkeypatch.setattr(cache, changed, lambda: "another")
    Explainer(model).explain_tensor(X)
    assert len(written) == 2


def test_the_versions_are_those_of_all_that_writes_a_graph(monkeypatch):
    cache._writers.cache_clear()
    told = set(cache._writers())
    assert {f"{m.__name__}=={m.__version__}" for m in (np, onnx, onnx_ir, onnxruntime)} <= told
    assert set(installed_builds()) <= told
    monkeypatch.setattr(onnx_ir, "__version__", "9.9")
    cache._writers.cache_clear()
    assert "onnx_ir==9.9" in cache._writers()
    cache._writers.cache_clear()


def test_a_line_changed_in_the_package_changes_what_it_is(monkeypatch, tmp_path):
    """Also where size and time of the file stay, as in archives whose times were all set to one."""
    shutil.copytree(Path(cache.__file__).parent / "core", tmp_path / "core")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    one, other = tmp_path / "core" / "maps.py", tmp_path / "core" / "sparse.py"
    one.write_text("a = 1\n")

    def told() -> str:
        cache._source.cache_clear()
        return cache._source()

    found = [told()]
    os.utime(one, (1, 1))
    assert told() == found[0]
    for change in (lambda: one.write_text("a = 2\n"), lambda: one.rename(other), lambda: other.write_text("")):
        change()
        os.utime(other if other.exists() else one, (1, 1))
        found.append(told())
    monkeypatch.setattr(cache, "__version__", "another")
    found.append(told())
    cache._source.cache_clear()
    assert len(set(found)) == 5


def test_what_has_no_certain_identity_is_not_kept(folder, tmp_path, model, written):
    """A model that was edited in memory or may have been, a target that is a function."""
    edited = expose(load_model(model), ["relu1"])
    own = load_model(model)
    function = Custom(lambda xp, out: xp.sum(out["logits"], axis=1), "sum of scores")
    for _ in range(2):
        Explainer(edited).explain_tensor(X)
        Explainer(own).explain_tensor(X)
        Explainer(model).explain_tensor(X, function)
    assert len(written) == 6
    assert not folder.exists()


def test_weights_in_another_file_belong_to_what_a_model_is(folder, tmp_path, written):
    """The model's own bytes stay the same when these change."""
    path = write(tmp_path / "apart.onnx", builders.external(classifier(seed=5), "w.bin", tmp_path))
    want = told(Explainer(path, threads=1))
    assert told(Explainer(path, threads=1)) == want
    assert len(written) == 1
    held, weights = path.read_bytes(), (tmp_path / "w.bin").read_bytes()
    write(path, builders.external(classifier(seed=6), "w.bin", tmp_path))
    assert path.read_bytes() == held
    assert len((tmp_path / "w.bin").read_bytes()) == len(weights)
    assert told(Explainer(path, threads=1))[1] != want[1]
    assert len(written) == 2


def test_more_weights_than_are_hashed_quickly_are_not_read_for_it(monkeypatch, folder, tmp_path, written):
    path = write(tmp_path / "apart.onnx", builders.external(classifier(), "w.bin", tmp_path))
    size = (tmp_path / "w.bin").stat().st_size
    monkeypatch.setattr(cache, "_QUICKLY", size - 1)
    assert cache.identity(opened(path)) == ""
    monkeypatch.setattr(cache, "_QUICKLY", size)
    assert len(cache.identity(opened(path))) == 64


def test_what_is_warned_about_is_warned_about_each_time(folder, tmp_path):
    proto = classifier()
    for node in proto.graph.node:
        node.op_type = "Tanh" if node.op_type == "Relu" else node.op_type
    path = write(tmp_path / "m.onnx", proto)
    for _ in range(2):
        with pytest.warns(UserWarning, match="the path has no ReLU"):
            Explainer(path, method="guided_backprop").explain_tensor(X)


@pytest.mark.parametrize("parts", [(object(),), (lambda: 0,), (("a", (print,)),), (np.int64(3),)])
def test_what_has_no_text_of_its_own_has_no_key(parts):
    assert key_of(*parts) is None


def test_keys_tell_apart_what_is_alike():
    alike = [("1",), (1,), (1.0,), (True,), (None,), ("None",), (("a", "b"),), ("a", "b"), (("a",), "b"), ("a b",), ()]
    assert len({key_of(*parts) for parts in alike}) == len(alike)


# Whatever happens to the files


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "no end": lambda data: data[:-1],
    "a bit at the start": lambda data: flipped(data, 200),
    "a bit in the middle": lambda data: flipped(data, len(data) // 2),
    "another kind": lambda data: b"\x93NUMPY\x01\x00",
    "text": lambda data: b"not at all",
}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_written_anew(folder, model, written, damage):
    want = told(Explainer(model, threads=1))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert told(Explainer(model, threads=1)) == want
    assert len(written) == 2
    assert told(Explainer(model, threads=1)) == want
    assert len(written) == 2


@pytest.mark.parametrize("facts", [None, [], {}, {"own": ["a"]}, {"own": [], "shared": ["gone"]}])
def test_a_sound_file_with_something_else_in_it_is_passed_over(folder, model, written, facts):
    want = told(Explainer(model, threads=1))
    (path,) = folder.iterdir()
    held = {} if facts is None else {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    with path.open("wb") as file:
        np.savez(file, **held)
    assert told(Explainer(model, threads=1)) == want
    assert len(written) == 2


def test_no_object_is_unpickled(tmp_path):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})
    (path,) = kept.folder.iterdir()
    np.savez(path, a=np.array([{"an": "object"}], dtype=object))
    assert kept.get("k") is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no such modes")
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o702])
def test_a_folder_that_others_reach_is_neither_read_nor_written(tmp_path, mode):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})
    kept.folder.chmod(mode)
    assert kept.get("k") is None
    kept.put("other", {"a": np.arange(3)})
    assert len(list(kept.folder.iterdir())) == 1
    kept.folder.chmod(0o700)
    assert kept.get("k") is not None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners")
def test_neither_another_users_folder_nor_a_link_to_one(tmp_path, monkeypatch):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(kept.folder)
    assert Cache(tmp_path / "link").get("k") is None
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert kept.get("k") is None
    assert len(list(kept.folder.iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners")
def test_another_users_file_is_not_believed(tmp_path, monkeypatch):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})
    (path,) = kept.folder.iterdir()
    mine = os.fstat

    def other(descriptor: int) -> os.stat_result:
        found = list(mine(descriptor))
        found[4] += 1
        return os.stat_result(found)

    monkeypatch.setattr(cache.os, "fstat", other)
    assert kept.get("k") is None
    assert not path.exists()


def test_where_nothing_can_be_written_everything_works(tmp_path, monkeypatch, model, written):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ONNXCAM_CACHE", str(tmp_path / "file"))
    assert told(Explainer(model, threads=1)) == told(Explainer(model, threads=1))
    assert len(written) == 2
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_disk_that_is_only_read_serves_what_it_has(monkeypatch, tmp_path):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})

    def refused(*given: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("utime", "replace", "mkdir"):
        monkeypatch.setattr(os, name, refused)
    found = kept.get("k")
    assert found is not None
    np.testing.assert_array_equal(found["a"], np.arange(3))
    kept.put("other", {"a": np.arange(3)})
    assert kept.get("other") is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_full_disk_is_no_error_and_nothing_of_the_entry_stays(tmp_path):
    """No file of the process may grow beyond 2,000 bytes."""
    kept = Cache(tmp_path / "c")
    kept.put("k", {"a": np.arange(3)})
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_full, [kept]).get(timeout=60)
    assert len(list(kept.folder.iterdir())) == 1
    assert kept.get("k") is not None


def _full(kept: Cache) -> bool:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    kept.put("large", {"a": np.zeros(10_000)})
    return kept.get("large") is None


def test_set_to_nothing_it_keeps_nothing(monkeypatch, tmp_path, model, written):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ONNXCAM_CACHE", "")
    for _ in range(2):
        Explainer(model).explain_tensor(X)
    assert len(written) == 2
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(os.name == "nt", reason="the folder of another system")
def test_the_usual_place_is_the_systems(monkeypatch, tmp_path):
    monkeypatch.delenv("ONNXCAM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    place = cache.usual()
    assert place is not None
    assert place.folder.relative_to(tmp_path) in (Path(".cache/onnxcam/graphs"), Path("Library/Caches/onnxcam/graphs"))
    monkeypatch.setenv("ONNXCAM_CACHE", "~/mine")
    assert cache.usual() == Cache(tmp_path / "mine" / "graphs")


# Room


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    kept = Cache(tmp_path / "c", most=3 * 1400)
    for k, name in enumerate("abc"):
        kept.put(name, {"x": np.full(1000, k, np.uint8)})
        os.utime(kept._path(name), (k, k))
    assert kept.get("a") is not None  # used now
    kept.put("d", {"x": np.full(1000, 3, np.uint8)})
    assert [name for name in "abcd" if kept.get(name) is not None] == ["a", "c", "d"]


def test_what_is_larger_than_all_room_is_not_kept(tmp_path):
    kept = Cache(tmp_path / "c", most=3000)
    kept.put("small", {"x": np.zeros(1000, np.uint8)})
    kept.put("large", {"x": np.zeros(3001, np.uint8)})
    assert kept.get("small") is not None
    assert kept.get("large") is None


def test_what_a_killed_process_left_is_swept_away_once_it_is_old(tmp_path):
    kept = Cache(tmp_path / "c")
    kept.put("k", {"x": np.zeros(3)})
    old, new, foreign = (kept.folder / name for name in (".old.part", ".new.part", "notes.txt"))
    for path in (old, new, foreign):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    os.utime(new, (time.time() - 60, time.time() - 60))
    kept.put("l", {"x": np.zeros(3)})
    assert not old.exists()
    assert new.exists()
    assert foreign.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_processes_at_once_read_what_is_whole_or_nothing(tmp_path):
    """Eight keys that each process writes over and over, in room for five."""
    place = str(tmp_path / "c")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        counts = pool.starmap_async(_busy, [(place, seed) for seed in range(4)]).get(timeout=60)
    assert all(right > 10 for right, _ in counts)
    assert sum(wrong for _, wrong in counts) == 0
    assert not [p for p in Path(place).iterdir() if p.suffix == ".part"]


def _busy(place: str, seed: int) -> tuple[int, int]:
    kept, rng, right, wrong = Cache(Path(place), most=5 * 41_000), np.random.default_rng(seed), 0, 0
    for _ in range(150):
        k = int(rng.integers(8))
        if rng.random() < 0.4:
            kept.put(str(k), {"x": np.full(10_000, k, np.int32), "y": np.array([seed])})
        elif (found := kept.get(str(k))) is not None:
            good = bool((found["x"] == k).all()) and found["y"].shape == (1,)
            right, wrong = right + good, wrong + (not good)
    return right, wrong
