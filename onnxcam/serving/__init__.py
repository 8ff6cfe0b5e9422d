"""What is shown live, in a browser on this machine: a page, a stream of pictures, a choice of the class."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any

from onnxcam.errors import OnnxcamError, OptionError, reason
from onnxcam.image import Pixels, encode_image
from onnxcam.serving.page import PAGE, SCRIPT, STYLE

HOST = "127.0.0.1"  # other machines cannot reach it
_BOUNDARY = "onnxcam-frame"
_MOST_BYTES = 10_000  # of a request's body
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": (PAGE, "text/html"),
    "/style.css": (STYLE, "text/css"),
    "/script.js": (SCRIPT, "text/javascript"),
}


class Show:
    """A server on 127.0.0.1 that shows the newest picture to whoever watches; a context, within which it answers.

    A browser lets any page that it visits send requests to this address, so only those are answered that name this
    server as their host and come from its own page.

    Args:
        port: 0 takes a free one; `url` tells which.
        choices: what can be explained, as (name to :attr:`aim`, text to show).
        aim: called with one of these names, or None for the top class, when somebody chooses; an `OnnxcamError` of
            it is told to them.

    Raises:
        OptionError: the port is in use, or not to be had.
    """

    def __init__(
        self, port: int, choices: Sequence[tuple[str, str]] = (), aim: Callable[[str | None], None] | None = None
    ) -> None:
        self.choices, self.aim = list(choices), aim
        self._names = {name for name, _ in self.choices}
        self._news = threading.Condition()
        self._encoding = threading.Lock()
        self._number, self._state = 0, "{}"
        self._picture: Pixels | None = None
        self._jpeg: tuple[int, bytes] = (0, b"")
        self._over = False
        try:
            self._server = _Server(self, port)
        except (OSError, OverflowError) as error:
            raise OptionError(
                f"cannot serve at {HOST}:{port}: {reason(error).rstrip('.')}. Give another port, 0 for any that is free"
            ) from error
        self.url = f"http://{HOST}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Show:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._over = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def update(self, picture: Pixels, state: dict[str, Any]) -> None:
        """Show a picture, uint8 (H, W, 3) RGB, and what is said of it, as JSON values.

        ``target`` is what it is explained for: the name of a choice, or None for the top class.
        """
        with self._news:
            self._number, self._picture, self._state = self._number + 1, picture, json.dumps(state)
            self._news.notify_all()

    def state(self) -> str:
        """What is said of the newest picture, as JSON."""
        with self._news:
            return self._state

    def after(self, number: int) -> tuple[int, bytes]:
        """The newest picture's number and JPEG, once it is newer than ``number``; (0, b"") when there is no more."""
        with self._news:
            self._news.wait_for(lambda: self._over or self._number > number)
            newest, picture = self._number, self._picture
            if self._over or picture is None:
                return 0, b""
        with self._encoding:  # once, however many watch
            if self._jpeg[0] < newest:
                self._jpeg = newest, encode_image(picture, ".jpg")
            return self._jpeg

    def choose(self, body: bytes) -> None:
        """What somebody chose: ``{"target": name or null}``.

        Raises:
            OptionError: it is none of the choices.
            OnnxcamError: it cannot be explained.
        """
        try:
            name = json.loads(body)["target"]
        except (ValueError, TypeError, KeyError):
            raise OptionError('send {"target": NAME}, null for the top class') from None
        if name is not None and (not isinstance(name, str) or name not in self._names):
            raise OptionError("that is none of the classes to choose from")
        if self.aim is not None:
            self.aim(name)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let two servers have one port

    def __init__(self, show: Show, port: int) -> None:
        self.show = show
        super().__init__((HOST, port), _Handler)
        names = [f"{name}:{self.server_port}" for name in (HOST, "localhost")]
        self.hosts = {*names, *((HOST, "localhost") if self.server_port == 80 else ())}
        self.origins = {f"http://{name}" for name in self.hosts}

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, *_: Any) -> None:
        """A browser that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    server_version, sys_version = "onnxcam", ""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, show = self.path.partition("?")[0], self.server.show
        if self._foreign():
            return
        if path in _FILES:
            text, kind = _FILES[path]
            self._answer(text, kind)
        elif path == "/state":
            self._answer(show.state(), "application/json")
        elif path == "/choices":
            self._answer(json.dumps(show.choices), "application/json")
        elif path == "/stream":
            self._stream()
        else:
            self._answer("there is no such page", status=HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(min(int(length), _MOST_BYTES) if length.isdecimal() else 0)  # unread, it cuts the answer
        if self._foreign():
            return
        if self.path != "/target":
            self._answer("there is nothing to send here", status=HTTPStatus.NOT_FOUND)
            return
        try:
            self.server.show.choose(body)
        except OnnxcamError as error:
            self._answer(str(error), status=HTTPStatus.BAD_REQUEST)
        else:
            self._answer("", status=HTTPStatus.OK)

    def _foreign(self) -> bool:
        """Whether it was refused: a name that merely leads here, or a page of somebody else."""
        headers, known = self.headers, self.server
        own_host = headers.get("Host", "").lower() in known.hosts
        own_origin = headers.get("Origin", next(iter(known.origins))) in known.origins
        followed = headers.get("Sec-Fetch-Mode") == "navigate"  # a link, from wherever, that opens the page itself
        if own_host and own_origin and (followed or headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")):
            return False
        self._answer("this is for the page at this address alone", status=HTTPStatus.FORBIDDEN)
        return True

    def _answer(self, text: str, kind: str = "text/plain", status: HTTPStatus = HTTPStatus.OK) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self._head(f"{kind}; charset=utf-8", status, len(data))
        self.wfile.write(data)

    def _head(self, kind: str, status: HTTPStatus = HTTPStatus.OK, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **_HEADERS}.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _stream(self) -> None:
        """Pictures behind one another (multipart/x-mixed-replace), as cameras send them; slow readers miss some."""
        self._head(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        number, jpeg = self.server.show.after(0)
        while jpeg:
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            number, jpeg = self.server.show.after(number)
        self.wfile.write(f"--{_BOUNDARY}--\r\n".encode())
