"""Frames of files, cameras and streams; frames into files, whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from videos import FPS, decoded, facts, scenes, video

from onnxcam.errors import ImageError, OptionError, OutputError
from onnxcam.serving import Show
from onnxcam.video import ENCODERS, Writer, check_output, open_source
from onnxcam.video import source as source_module

pytestmark = pytest.mark.anyruntime


def ramps(count: int, height: int = 48, width: int = 64):
    """Smooth pictures, told apart by their red level, which every codec keeps."""
    y, x = np.mgrid[:height, :width]
    return [np.stack([0 * x + 40 + 8 * k, 3 * y, 3 * x], axis=2).clip(0, 255).astype(np.uint8) for k in range(count)]


def damaged(path: Path, places: Sequence[int]) -> Path:
    """A video of PNG pictures, of which some are spoilt within their data, so that none of their checksums holds."""
    data = bytearray(path.read_bytes())
    starts = [found.start() for found in re.finditer(rb"IHDR", data)]
    for k in places:
        data[starts[k] + 100 : starts[k] + 1000] = np.random.default_rng(1).bytes(900)
    path.write_bytes(data)
    return path


# ---- in ----


def test_every_frame_of_a_file_comes_as_it_was(tmp_path):
    frames = scenes(14)
    source = open_source(str(video(tmp_path / "in.avi", frames)))
    assert (source.live, source.fps, source.count) == (False, FPS, 14)
    for _ in range(2):  # a file can be seen again
        found = list(source)
        assert [f.index for f in found] == list(range(14))
        np.testing.assert_allclose([f.time for f in found], np.arange(14) / FPS, atol=1e-6)
        assert all(np.array_equal(f.pixels, frame) for f, frame in zip(found, frames, strict=True))
    assert source.trouble == ""


def test_a_phones_video_comes_upright(tmp_path):
    """A rotation in the header of the track: the matrix of ISO/IEC 14496-12, 8.3.2."""
    path = video(tmp_path / "in.mp4", ramps(3), "png ")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, matrix) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    for found, frame in zip(open_source(str(path)), ramps(3), strict=True):
        assert np.array_equal(found.pixels, np.rot90(frame, 3))


@pytest.mark.parametrize("spoilt", [(8,), (8, 9, 14)])
def test_behind_a_damaged_place_the_file_goes_on(tmp_path, spoilt):
    frames = [np.random.default_rng(k).integers(0, 256, (48, 64, 3), dtype=np.uint8) for k in range(20)]
    source = open_source(str(damaged(video(tmp_path / "in.avi", frames, "MPNG"), spoilt)))
    places = [[k for k, frame in enumerate(frames) if np.array_equal(found.pixels, frame)] for found in source]
    assert places == [[k] for k in range(20) if k not in spoilt]
    assert source.trouble == f"{source.name} is damaged or cut off: {len(places)} of 20 frames could be decoded"


def test_a_file_that_was_cut_off_gives_what_it_has(tmp_path):
    frames = scenes(20)
    path = video(tmp_path / "in.avi", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(path))
    found = list(source)
    assert 5 < len(found) < 15
    assert all(np.array_equal(f.pixels, frame) for f, frame in zip(found[:-1], frames, strict=False))
    assert f"cut off: {len(found)} of 20" in source.trouble


def test_what_is_no_video_is_told(tmp_path):
    def message(given: object) -> str:
        with pytest.raises(ImageError) as told:
            open_source(str(given))
        return str(told.value)

    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("FFmpeg would type this on a screen. " * 20)
    cut = video(tmp_path / "cut.mp4", ramps(5), "mp4v")
    cut.write_bytes(cut.read_bytes()[:-900])  # the index of an .mp4 comes last
    for name in ("empty.mp4", "notes.txt", "cut.mp4"):
        assert "cannot be decoded: it is no video, is damaged, was cut off" in message(tmp_path / name)
    assert "there is no such file" in message(tmp_path / "gone.mp4")
    assert "is a folder" in message(tmp_path)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.mp4")
    Path(odd).touch()
    assert "not UTF-8" in message(odd)
    assert "there is no such file" in message(tmp_path / "nul\0.mp4")
    assert "camera 99 cannot be opened" in message("99")
    assert "camera 99999999999999999999 cannot be opened" in message("99999999999999999999")
    secret = message("http://user:secret@127.0.0.1:9/stream")
    assert secret.startswith("http://127.0.0.1:9/stream cannot be opened: nobody answers")
    with pytest.raises(OptionError, match=r"gopher:// is no address of a video: give rtsp://"):
        open_source("gopher://host/video")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rtsp://admin:sesame@host/", "rtsp://host/"),
        ("rtsp://admin:ses@me@host:554/live", "rtsp://host:554/live"),
        ("rtsp://admin:ses/me@host/live", "rtsp://host/live"),
        ("rtsp://admin:ses?me#x@host", "rtsp://host"),
        ("http://host/live.cgi?user=admin&password=sesame", "http://host/live.cgi?..."),
        ("http://[::1]:80/live?sesame", "http://[::1]:80/live?..."),
        ("rtsp://host:554/user=admin&password=sesame&channel=1", "rtsp://host:554/user=admin&password=...&channel=1"),
        ("rtsp://host/user=admin_Pwd=ses_me_channel=1", "rtsp://host/user=admin_Pwd=..."),
        ("rtsp://host:554/live/1", "rtsp://host:554/live/1"),
    ],
)
def test_passwords_in_addresses_are_not_told(given, shown, monkeypatch):
    monkeypatch.setattr(source_module, "opened", lambda what: None)
    with pytest.raises(ImageError) as told:
        open_source(given)
    assert str(told.value).startswith(f"{shown} cannot be opened: nobody answers")
    camera = Slow(0)
    monkeypatch.setattr(source_module, "opened", lambda what: camera if what == given else None)
    assert open_source(given).name == shown


class Slow:
    """A camera that gives a frame when it is told to, then breaks."""

    def __init__(self, count: int) -> None:
        self.given, self.asked, self.released = threading.Semaphore(0), threading.Semaphore(0), False
        self.frames = ramps(count)

    def isOpened(self):
        return True

    def get(self, key):
        return 30.0 if key == cv2.CAP_PROP_FPS else -1.0

    def read(self):
        self.asked.release()
        self.given.acquire(timeout=5)
        return (True, self.frames.pop(0)[..., ::-1].copy()) if self.frames else (False, None)

    def release(self):
        self.released = True


def test_of_a_camera_the_newest_frame_comes_and_stale_ones_are_dropped(monkeypatch):
    camera = Slow(5)
    monkeypatch.setattr(source_module, "opened", lambda what: camera if what == 0 else None)
    monkeypatch.setattr(source_module, "_TRIES", 1)
    source = open_source("0")
    assert (source.live, source.fps, source.count, source.name) == (True, 30.0, None, "camera 0")
    frames = iter(source)
    camera.given.release()
    first = next(frames)
    assert camera.asked.acquire(timeout=5)
    assert (first.index, first.time) == (0, pytest.approx(0, abs=0.1))
    assert np.array_equal(first.pixels, ramps(1)[0])
    for _ in range(3):
        assert camera.asked.acquire(timeout=5)
        camera.given.release()
    assert camera.asked.acquire(timeout=5)  # it asks for the fifth: the fourth lies ready
    newest = next(frames)
    assert newest.index == 3
    assert np.array_equal(newest.pixels, ramps(4)[3])
    camera.given.release(9)
    assert [f.index for f in frames] == [4]
    assert camera.released


def test_a_stream_over_http_is_live(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Show(0) as show:
        stop = threading.Event()

        def film() -> None:
            while not stop.wait(0.02):
                show.update(ramps(1)[0], {})

        thread = threading.Thread(target=film)
        thread.start()
        try:
            source = open_source(f"{show.url}stream")
            assert source.live
            frames = iter(source)
            for _ in range(3):
                assert np.abs(next(frames).pixels.astype(int) - ramps(1)[0]).mean() < 4
            frames.close()
        finally:
            stop.set()
            thread.join()


# ---- out ----


def film(path: Path, frames, error: BaseException | None = None) -> None:
    with Writer(path) as writer:
        for frame in frames:
            writer.write(frame)
        if error is not None:
            raise error


@pytest.mark.parametrize("suffix", ENCODERS)
def test_a_video_has_the_frames_and_the_rate_that_were_written(tmp_path, capfd, suffix):
    path, frames = tmp_path / f"out{suffix}", ramps(20)
    with Writer(path, 23.976) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    assert os.listdir(tmp_path) == [path.name]
    count, fps, size = facts(path)
    assert (count, round(fps, 3), size) == (20, 23.976, (48, 64))
    errors = [np.abs(found.astype(int) - frame).mean() for found, frame in zip(decoded(path), frames, strict=True)]
    assert max(errors) < 3.5  # frames are 8 red levels apart: 2.7 in the mean
    reds = [np.median(found[..., 0]) for found in decoded(path)]
    np.testing.assert_allclose(reds, [40 + 8 * k for k in range(20)], atol=3.5)
    assert capfd.readouterr() == ("", "")  # codecs talk


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_odd_sizes_are_filled_up_and_nothing_is_cut(tmp_path, suffix):
    frame = ramps(1, 49, 65)[0]
    frame[48], frame[:, 64] = 250, 250
    with Writer(tmp_path / f"out{suffix}") as writer:
        for _ in range(3):
            writer.write(frame)
    assert writer.size == (50, 66)
    for found in decoded(tmp_path / f"out{suffix}"):
        assert found.shape == (50, 66, 3)
        assert found[48:, 4:60].min() > 180  # both the last row and the one that repeats it
        assert found[4:44, 64:].min() > 180
        assert np.abs(found[:44, :60].astype(int) - frame[:44, :60]).mean() < 8


def test_a_frame_of_another_size_is_brought_to_the_first_ones(tmp_path):
    with Writer(tmp_path / "out.avi") as writer:
        writer.write(ramps(1)[0])
        writer.write(cv2.resize(ramps(1)[0], (128, 96), interpolation=cv2.INTER_LINEAR))
    first, second = decoded(tmp_path / "out.avi")
    assert np.abs(first.astype(int) - second).mean() < 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError(), BrokenPipeError(), SystemExit(3)])
def test_whatever_ends_it_the_frames_so_far_are_kept(tmp_path, error):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    with pytest.raises(type(error)):
        film(path, [], error)
    assert (os.listdir(tmp_path), path.read_bytes()) == (["out.mp4"], b"before")
    with pytest.raises(type(error)):
        film(path, ramps(7), error)
    assert (os.listdir(tmp_path), facts(path)[0]) == (["out.mp4"], 7)
    film(tmp_path / "none.mp4", [])
    assert os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals as Unix has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_the_file_is_completed_waits_for_its_end(tmp_path, number):
    """Pressed once more: the second one comes when the encoder has just been let go."""
    path, heard = tmp_path / "out.mp4", []

    class Late:
        def __init__(self, encoder):
            self.encoder = encoder

        def release(self):
            self.encoder.release()
            signal.raise_signal(number)
            signal.raise_signal(number)

    def film_late():
        with Writer(path) as writer:
            for frame in ramps(7):
                writer.write(frame)
            writer._encoder = Late(writer._encoder)
            raise KeyboardInterrupt

    def handler(number, frame):
        heard.append((number, path.exists()))
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            film_late()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert heard == [(number, True)]
    assert (os.listdir(tmp_path), facts(path)[0]) == (["out.mp4"], 7)


@pytest.mark.parametrize(("suffix", "room"), [(".mp4", 100_000), (".avi", 100_000), (".mp4", 1000)])
def test_a_full_disk_is_told(tmp_path, suffix, room):
    """No file may grow beyond ``room``; the smallest room is found out at the end alone, when buffers are written."""
    resource = pytest.importorskip("resource", reason="limits of a file's size are Unix's")
    noise = np.random.default_rng(0).integers(0, 256, (20, 120, 160, 3), dtype=np.uint8)
    frames = noise if room > 1000 else noise[:1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*the disk may be full"):
            film(tmp_path / f"out{suffix}", frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = [tmp_path / name for name in os.listdir(tmp_path)]
    assert [path.name for path in kept] == (["out.avi"] if suffix == ".avi" else [])  # an .mp4 needs its index
    for path in kept:
        found = decoded(path)
        assert 3 < len(found) < 20
        nearest = [np.abs(noise.astype(int) - frame).mean(axis=(1, 2, 3)).argmin() for frame in found[:-1]]
        assert nearest == list(range(len(found) - 1))


def test_names_that_cannot_be_written_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    source = video(tmp_path / "in.avi", ramps(2))
    (tmp_path / "link.avi").hardlink_to(source)
    (tmp_path / "folder.mp4").mkdir()
    for name, error, text in [
        ("out.gif", OptionError, r"must end in \.mp4, \.mov, \.mkv, \.avi, \.webm"),
        ("folder.mp4", OutputError, "this is a folder"),
        ("gone/out.mp4", OutputError, "there is no folder"),
        ("link.avi", OptionError, "is the source itself"),
    ]:
        with pytest.raises(error, match=text):
            check_output(tmp_path / name, str(source))
    check_output(tmp_path / "other.avi", str(source))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="permission denied"):
        check_output(tmp_path / "out.mp4")


def test_rates_and_codecs_that_are_not_there_are_told(tmp_path, monkeypatch):
    for fps in (0, -1, 1001, float("nan")):
        with pytest.raises(OptionError, match="a video has more than 0 and at most 1000 frames per second"):
            Writer(tmp_path / "out.mp4", fps)
    monkeypatch.setitem(ENCODERS, ".mp4", ("avc1", "none"))
    with pytest.raises(OutputError, match=r"no encoder for \.mp4 of 64 x 48.*try \.mov, \.mkv"):
        film(tmp_path / "out.mp4", ramps(1))
    assert os.listdir(tmp_path) == []
