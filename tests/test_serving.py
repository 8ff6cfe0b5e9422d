"""The page on 127.0.0.1: who is answered, what is streamed, what can be chosen."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import numpy as np
import pytest

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.image import decode_image
from onnxcam.serving import Show

pytestmark = pytest.mark.anyruntime

CHOICES = [("0", "<script>alert(1)</script>"), ("1", "dog")]


@pytest.fixture
def chosen():
    return []


@pytest.fixture
def show(chosen):
    def aim(name):
        if name == "1":
            raise UnknownNameError("no dogs today")
        chosen.append(name)

    with Show(0, CHOICES, aim) as one:
        yield one


def port(show: Show) -> int:
    return int(show.url.split(":")[2].strip("/"))


def ask(show: Show, path: str, body: str | None = None, **headers: str):
    """Status, headers and body; a header's ``_`` stands for ``-``."""
    connection = http.client.HTTPConnection("127.0.0.1", port(show), timeout=5)
    connection.request(
        "GET" if body is None else "POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()}
    )
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read().decode()
    connection.close()
    return found


def grey(level: int):
    return np.full((30, 40, 3), level, np.uint8)


def parts(answer, count: int):
    """Pictures of a multipart/x-mixed-replace stream (RFC 2046, 5.1)."""
    found = []
    for _ in range(count):
        assert answer.readline() == b"--onnxcam-frame\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(answer.readline().decode().removeprefix("Content-Length: "))
        assert answer.readline() == b"\r\n"
        found.append(decode_image(answer.read(length), "frame"))
        assert answer.readline() == b"\r\n"
    return found


def test_the_newest_pictures_are_streamed_until_it_is_over():
    with Show(0) as show:
        connection = http.client.HTTPConnection("127.0.0.1", port(show), timeout=5)
        show.update(grey(10), {})
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=onnxcam-frame"
        seen = []
        for level in (10, 90, 170):
            show.update(grey(level), {})
            seen += parts(answer, 1)
        levels = [round(float(p.mean())) for p in seen]
        assert levels == sorted(levels)
        assert levels[0] == 10
        assert all(p.shape == (30, 40, 3) for p in seen)
        closer = threading.Thread(target=show.__exit__, args=(None, None, None))
        closer.start()
        rest = answer.read()
        assert rest.endswith(b"--onnxcam-frame--\r\n")
        closer.join()


def test_every_watcher_sees_the_newest_and_a_picture_is_encoded_once(show, monkeypatch):
    from onnxcam import serving

    encoded, real = [], serving.encode_image
    monkeypatch.setattr(serving, "encode_image", lambda *a: encoded.append(1) or real(*a))
    for level in (10, 200):
        show.update(grey(level), {})
    assert encoded == []  # nobody watches
    found = {show.after(0), show.after(1)}
    assert len(found) == len(encoded) == 1
    assert found.pop()[0] == 2


def test_the_page_has_what_it_needs_and_nothing_from_elsewhere(show):
    show.update(grey(1), {"frame": 3, "label": "<b>"})
    status, headers, page = ask(show, "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    for path, kind in (("/style.css", "text/css"), ("/script.js", "text/javascript")):
        assert path[1:] in page
        assert ask(show, path)[0] == 200
        assert ask(show, path)[1].get_content_type() == kind
    assert "http" not in page.replace("http-equiv", "")
    assert "<script>" not in page  # data comes as JSON, and is set as text
    assert "innerHTML" not in ask(show, "/script.js")[2]
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert json.loads(ask(show, "/choices")[2]) == [list(c) for c in CHOICES]
    assert json.loads(ask(show, "/state")[2]) == {"frame": 3, "label": "<b>"}
    assert ask(show, "/etc/passwd")[0] == ask(show, "/../x")[0] == 404


def test_a_choice_changes_the_target(show, chosen):
    assert ask(show, "/target", '{"target": "0"}')[0] == 200
    assert ask(show, "/target", '{"target": null}')[0] == 200
    assert chosen == ["0", None]
    assert ask(show, "/target", '{"target": "1"}')[::2] == (400, "no dogs today")
    for body in ('{"target": "similar:/etc/passwd"}', '{"target": 0}', '{"target": ["0"]}'):
        assert ask(show, "/target", body)[::2] == (400, "that is none of the classes to choose from")
    for body in ("", "[]", "{}", "{", "\xff"):
        assert ask(show, "/target", body)[0] == 400
    assert ask(show, "/target", '{"target": "0"}' + " " * 20_000)[0] == 200  # what is too long is cut off
    assert ask(show, "/elsewhere", '{"target": "0"}')[0] == 404
    assert chosen == ["0", None, "0"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},  # a name that was made to lead here
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port of this machine
    ],
)
def test_others_are_refused(show, chosen, headers):
    headers = {k: v.format(port=port(show)) for k, v in headers.items()}
    show.update(grey(1), {"frame": 1})
    for path in ("/", "/state", "/stream", "/choices"):
        assert ask(show, path, **headers)[0] == 403
    assert ask(show, "/target", '{"target": "0"}', **headers)[0] == 403
    assert chosen == []


def test_its_own_page_and_links_to_it_are_answered(show):
    own = f"http://localhost:{port(show)}"
    assert ask(show, "/state", Host=f"LOCALHOST:{port(show)}", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert ask(show, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


def test_it_listens_on_the_loopback_address_alone(show):
    """Every other address of this machine refuses, one of the loopback network included."""
    assert show._server.socket.getsockname() == ("127.0.0.1", port(show))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port(show)), timeout=2).close()


def test_a_port_in_use_is_told(show):
    for taken in (port(show), 70_000):
        with pytest.raises(OptionError, match=rf"cannot serve at 127\.0\.0\.1:{taken}: .*0 for any that is free"):
            Show(taken)
    with pytest.raises(OptionError, match=r"[^.]\. Give another port"):
        Show(70_000)  # of which the system's message ends in a full stop


def test_afterwards_nobody_answers_and_the_port_is_free():
    with Show(0) as show:
        show.update(grey(1), {})
        assert ask(show, "/state")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(show, "/state")
    with Show(port(show)) as again:
        assert ask(again, "/state")[0] == 200
