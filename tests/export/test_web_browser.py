"""The page in a real browser: Chromium without a window, with a camera that is none (`make test-web`)."""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from pathlib import Path

import browsers
import cv2
import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.download import cache
from onnxcam.errors import RuntimeUnavailableError
from onnxcam.export import Form, export
from onnxcam.image import read_image, save_image
from onnxcam.web import write_site
from onnxcam.web.library import find_library
from onnxcam.zoo import samples

pytestmark = browsers.installed
MODEL = "zoo:shapes-cnn"
NEAR = 1e-3

SHOWN = """
const done = arguments[arguments.length - 1];
import(new URL('app.js', document.baseURI)).then(({shown}) => {
  if (!shown.answer) return done(null);
  const {picture, answer, count, threads} = shown, canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext('2d').putImageData(picture, 0, 0);
  done({count, threads, index: answer.index, scores: answer.scores, size: answer.where.size,
    maps: answer.maps.map(map => Array.from(map)), picture: canvas.toDataURL('image/png')});
}, error => done(String(error)));
"""
DROP = """
const [name, type, data] = arguments, bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], name, {type}));
document.getElementById('stage').dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain server of files, as `python -m http.server`."""

    def log_message(self, *told: object) -> None:
        """Nothing."""


class Page:
    """A site in the browser."""

    def __init__(self, browser, folder: Path) -> None:
        handler = functools.partial(Quiet, directory=str(folder))
        self.browser, self.server = browser, http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://localhost:{self.server.server_port}/"

    def open(self):
        self.browser.get(self.url)
        self.wait(lambda: self.text("title") != "onnxcam" and self.text("trouble") == "")

    def kept(self):
        """Until the page can do without a network."""
        self.browser.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0]())")

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def text(self, name):
        return self.browser.find_element("id", name).text

    def wait(self, until, seconds=30):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, poll_frequency=0.05).until(lambda _: until())

    def shown(self):
        return self.browser.execute_async_script(SHOWN)

    def after(self, act):
        """What is shown once ``act`` has had its effect."""
        before = (self.shown() or {"count": 0})["count"]
        act()
        return self.wait(lambda: (s := self.shown()) and s["count"] > before and s)

    def drop(self, path):
        kind = "image/png" if path.suffix == ".png" else "text/plain"
        data = base64.b64encode(path.read_bytes()).decode()
        self.browser.execute_script(DROP, path.name, kind, data)

    def choose(self, label):
        from selenium.webdriver.support.ui import Select

        Select(self.browser.find_element("id", "class")).select_by_visible_text(label)


def heat(shown, which=0):
    return np.asarray(shown["maps"][which], np.float32).reshape(shown["size"])


def picture_of(shown):
    data = np.frombuffer(base64.b64decode(shown["picture"].partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


@pytest.fixture(scope="module")
def library():
    try:
        return next(iter(find_library(None, cache()).values())).parent
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    export([Explainer(MODEL), Explainer(MODEL, method="layercam")], folder / "x.onnx", form=Form())
    write_site(folder / "x.onnx", folder / "page", runtime=library)
    return folder / "page"


@pytest.fixture(scope="module")
def browser():
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browsers.chromium("--window-size=1000,1000", *camera) as driver:
        driver.set_script_timeout(60)
        yield driver


@pytest.fixture
def page(browser, site):
    page = Page(browser, site)
    page.open()
    yield page
    page.close()
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def explainers():
    return [Explainer(MODEL, threads=1), Explainer(MODEL, method="layercam", threads=1)]


def same(shown, explainers, picture, target=None):
    for which, explainer in enumerate(explainers):
        want = explainer.explain(picture, target)
        assert np.abs(heat(shown, which) - want.heatmap).max() < NEAR
        assert shown["index"] == want.class_index
        assert shown["scores"][want.class_index] == pytest.approx(want.score, abs=1e-3)


def test_a_dropped_picture_is_explained_as_in_python(page, explainers):
    for path in samples("shapes-cnn")[:2]:
        same(page.after(lambda path=path: page.drop(path)), explainers, path)
        assert page.text("explained") == explainers[0].explain(path).label


def test_another_class_is_explained_as_in_python(page, explainers):
    scene = samples("shapes-cnn")[0]
    first = page.after(lambda: page.drop(scene))
    other = next(name for name in explainers[0].labels if name != page.text("explained"))
    same(second := page.after(lambda: page.choose(other)), explainers, scene, other)
    assert np.abs(heat(first) - heat(second)).max() > 0.1
    same(page.after(lambda: page.choose("the top class")), explainers, scene)


def test_the_other_map_is_drawn(page):
    from selenium.webdriver.support.ui import Select

    page.after(lambda: page.drop(samples("shapes-cnn")[0]))
    drawn = "return document.getElementById('overlay').toDataURL()"
    first = page.browser.execute_script(drawn)
    Select(page.browser.find_element("id", "map")).select_by_visible_text("LayerCAM")
    assert page.browser.execute_script(drawn) != first
    assert page.text("what").startswith("LayerCAM at ")


def test_a_large_picture_is_shrunk_as_in_python(page, explainers, tmp_path):
    large = cv2.resize(read_image(samples("shapes-cnn")[1]), (1500, 1111), interpolation=cv2.INTER_CUBIC)
    save_image(tmp_path / "large.png", large)
    shown = page.after(lambda: page.browser.find_element("id", "file").send_keys(str(tmp_path / "large.png")))
    same(shown, explainers, large)
    canvas = page.browser.find_element("id", "overlay")
    assert [canvas.get_property("width"), canvas.get_property("height")] == [1280, 948]


def test_what_is_transparent_is_seen_as_it_is_stored(page, explainers, tmp_path):
    rgb = read_image(samples("shapes-cnn")[2])
    alpha = np.random.default_rng(0).integers(0, 256, rgb.shape[:2], dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "glass.png"), cv2.cvtColor(np.dstack([rgb, alpha]), cv2.COLOR_RGBA2BGRA))
    same(page.after(lambda: page.drop(tmp_path / "glass.png")), explainers, rgb)


def test_the_camera_is_explained_frame_by_frame(page, explainers):
    button = page.browser.find_element("id", "camera")
    button.click()
    page.wait(lambda: (s := page.shown()) and s["count"] > 5 and page.text("rate"))
    shown = page.shown()
    same(shown, explainers, picture_of(shown))
    assert float(page.text("rate")) > 0.5
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.text("rate") == ""


COUNTING = """
window.streams = [];
const media = navigator.mediaDevices, get = media.getUserMedia.bind(media);
media.getUserMedia = async (...given) => {
  const found = await get(...given);
  window.streams.push(found);
  return found;
};
"""
LIVE = "return window.streams.map(s => s.getTracks().some(t => t.readyState === 'live'))"


@pytest.mark.parametrize("clicks", [2, 3])
def test_quick_clicks_open_one_camera_at_most(page, clicks):
    page.browser.execute_script(COUNTING)
    page.browser.execute_script(f"for (let k = 0; k < {clicks}; k++) document.getElementById('camera').click();")
    opened = (clicks + 1) // 2
    page.wait(lambda: len(page.browser.execute_script(LIVE)) == opened)
    page.wait(lambda: sum(page.browser.execute_script(LIVE)) == opened - 1)
    pressed = page.browser.find_element("id", "camera").get_attribute("aria-pressed")
    assert pressed == ("true" if opened == 2 else "false")
    if opened == 2:
        page.wait(lambda: page.text("rate"))
        page.browser.find_element("id", "camera").click()
    assert not any(page.browser.execute_script(LIVE))


FAILING = """
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function({id}) {
  Worker.prototype.postMessage = post;
  setTimeout(() => this.onmessage({data: {id, error: 'made up'}}), 300);
};
"""


def test_what_is_asked_for_while_a_run_fails_is_answered(page, explainers):
    scene = samples("shapes-cnn")[0]
    first = page.after(lambda: page.drop(scene))
    names = [name for name in explainers[0].labels if name != page.text("explained")][:2]
    page.browser.execute_script(FAILING)
    page.choose(names[0])
    page.choose(names[1])
    shown = page.wait(lambda: (s := page.shown()) and s["count"] > first["count"] and s, seconds=10)
    same(shown, explainers, scene, names[1])
    assert page.text("explained") == names[1]


def test_a_file_that_is_no_picture_is_said_to_be_none(page, tmp_path):
    (tmp_path / "note.txt").write_text("no picture")
    page.drop(tmp_path / "note.txt")
    assert page.wait(lambda: page.text("trouble")).startswith("This is no picture that the browser can read")


def test_it_works_without_a_network_once_it_has_been_seen(page, explainers):
    page.kept()
    page.server.shutdown()
    page.server.socket.close()
    page.open()
    shown = page.after(lambda: page.drop(samples("shapes-cnn")[3]))
    same(shown, explainers, samples("shapes-cnn")[3])
    assert page.browser.execute_script("return crossOriginIsolated")
    assert shown["threads"] == min(4, page.browser.execute_script("return navigator.hardwareConcurrency"))


def test_a_site_that_is_written_anew_replaces_the_kept_one(library, browser, tmp_path):
    Explainer(MODEL).export(tmp_path / "a.onnx")
    Explainer(MODEL, method="layercam").export(tmp_path / "b.onnx")
    write_site(tmp_path / "a.onnx", tmp_path / "page", runtime=library)
    page = Page(browser, tmp_path / "page")
    page.open()
    page.kept()
    write_site(tmp_path / "b.onnx", tmp_path / "page", runtime=library, force=True)
    page.open()
    page.wait(lambda: page.open() or page.text("what").startswith("LayerCAM"))
    page.after(lambda: page.drop(samples("shapes-cnn")[0]))
    page.close()
    assert browser.get_log("browser") == []


def test_names_of_classes_and_files_are_text(library, browser, tmp_path):
    evil = "<img src=x onerror=\"document.title='taken'\">"
    labels = [f"{evil}{k}" for k in range(7)]
    export([Explainer(MODEL, labels=labels)], tmp_path / "x.onnx")
    write_site(tmp_path / "x.onnx", tmp_path / "page", runtime=library)
    page = Page(browser, tmp_path / "page")
    page.open()
    page.after(lambda: page.drop(samples("shapes-cnn")[0]))
    assert page.text("explained") in labels
    assert browser.title == "shapes-cnn · onnxcam"
    page.close()
    assert browser.get_log("browser") == []
