"""A loopback file server that keeps what it was asked and what it sent, and breaks on demand."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from builders import classifier
from served import beside

BODY = np.random.default_rng(3).bytes(1_000_000)
REAL = classifier().SerializeToString()
FILES = {"/deep/big.onnx": BODY, "/deep/real.onnx": REAL}


class FileServer(ThreadingHTTPServer):
    """Serves ``files``, {path: bytes}, with ranges.

    Attributes:
        asked: (path, Range header or None) of every request, in order.
        sent: bytes of bodies.
        breaks_after: bytes of a body after which the connection is closed, once.
        status: an answer for all requests, in place of the file.
        redirect: another server's address; the path is kept.
        ranges: False ignores Range, as a plain server does; "refuse" answers 416, "wrong" another range.
        length: what Content-Length says; None leaves it out.
        pace: seconds before every 64 kB.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.sent = {}, [], 0
        self.breaks_after = self.status = self.redirect = None
        self.ranges, self.length, self.pace = True, "true", 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """GET with ranges."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append((self.path, asked))
        if server.redirect:
            return self.head(302, Location=server.redirect + self.path)
        body = server.files.get(self.path)
        if server.status or body is None:
            return self.head(server.status or 404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start and server.ranges == "refuse":
            return self.head(416)
        if start and server.ranges == "wrong":
            start = 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
        elif start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.length is not None:
            self.send_header("Content-Length", len(body) - start if server.length == "true" else server.length)
        self.end_headers()
        return self.send(body[start:])

    def head(self, status, **headers):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, body):
        server = self.server
        end, server.breaks_after = server.breaks_after, None
        for at in range(0, len(body), 1 << 16):
            time.sleep(server.pace)
            part = body[at : at + (1 << 16)][: None if end is None else max(end - at, 0)]
            server.sent += len(part)
            self.wfile.write(part)


def file_server() -> AbstractContextManager[FileServer]:
    return beside(FileServer())


def public_table() -> str:
    """A table of public models: ``big``, which is only bytes, and ``real``, which is a model."""
    head = [
        "[[family]]",
        'licence = "MIT"',
        'description = "for tests"',
        "input_size = [16, 16]",
        'labels = "labels.txt"',
        'preprocess = { name = "unit", color = "BGR" }',
    ]
    return "\n".join([*head, *(line for path, body in FILES.items() for line in _row(path, body))])


def _row(path: str, body: bytes) -> list[str]:
    name = path.removeprefix("/deep/").removesuffix(".onnx")
    told = {"name": repr(name), "source": repr(path[1:]), "sha256": f'"{sha256(body).hexdigest()}"', "bytes": len(body)}
    return ["[[family.model]]", "opset = 18", *(f"{key} = {value}" for key, value in told.items())]
