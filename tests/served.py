"""A loopback server of a small NumPy model that speaks the Open Inference Protocol, or breaks it on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

PATH = "/v2/models/corners"
IMAGE = {"name": "image", "datatype": "UINT8", "shape": [-1, 12, 16, 3]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}


def corners(pictures):
    """How red the upper left quarter is, how blue the lower right one."""
    p = pictures.astype(np.float32)
    return np.stack([p[:, :6, :8, 0].mean((1, 2)), p[:, 6:, 8:, 2].mean((1, 2))], axis=1) / 255


class Server(ThreadingHTTPServer):
    """Keeps what it was asked; ``answers`` are given first, one a request: (status, text or seconds to wait)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.metadata = {"name": "corners", "inputs": [IMAGE], "outputs": [SCORES]}
        self.model, self.answers, self.requests, self.headers = corners, [], [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}{PATH}"

    def infer(self, body):
        """The protocol, in the order of its specification."""
        (given,) = body["inputs"]
        kinds = {"UINT8": np.uint8, "FP32": np.float32, "INT64": np.int64}
        x = np.array(given["data"], kinds[given["datatype"]]).reshape(given["shape"])
        y = np.asarray(self.model(x))
        found = {"name": "scores", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
        return {"model_name": "corners", "outputs": [found]}


class Handler(BaseHTTPRequestHandler):
    """Metadata on GET, scores on POST."""

    def log_message(self, *_):
        pass

    def reply(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def handle_one(self, make):
        self.server.headers.append(dict(self.headers))
        status, text = self.server.answers.pop(0) if self.server.answers else (200, None)
        if isinstance(text, float):
            return time.sleep(text)
        return self.reply(status, text if text is not None else json.dumps(make()))

    def do_GET(self):
        known = self.path == PATH
        self.handle_one(lambda: self.server.metadata) if known else self.reply(404, '{"error": "no such model"}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.handle_one(lambda: self.server.infer(body))


def serving() -> AbstractContextManager[Server]:
    return beside(Server())


@contextmanager
def beside(server: Any) -> Iterator[Any]:
    """The server runs beside the test."""
    with server as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()
