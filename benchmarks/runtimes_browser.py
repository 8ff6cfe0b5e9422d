"""onnxruntime-web (WASM) over the cells in headless Chromium.

    python runtimes_browser.py NODE_MODULES FOLDER RUNTIME

A server on this machine hands out the page, the runtime and the files, and takes the results; the protocol is that of
runtimes_adapters.py.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

PAGE = """<!doctype html><title>runtimes</title><script type="module">
import * as ort from "/modules/onnxruntime-web/dist/ort.min.mjs";
import { run } from "/here/runtimes_web.mjs";
ort.env.wasm.wasmPaths = "/modules/onnxruntime-web/dist/";
ort.env.wasm.numThreads = 1;
const bytes = async (file) => (await fetch(`/cells/${file}`)).arrayBuffer();
const post = (path, body) => fetch(path, { method: "POST", body });
const todo = new Set(await (await fetch("/cells/RUNTIME/todo.json")).json());
for (const cell of await (await fetch("/cells/cells.json")).json()) {
  const name = cell.file.slice(0, -5);
  if (!todo.has(name)) continue;
  await post("/say", JSON.stringify({ start: name }));
  try {
    const feeds = await Promise.all(cell.feeds.map(async (f) => ({ ...f, data: await bytes(f.file) })));
    const model = new Uint8Array(await bytes(cell.file));
    const [flat, load_s, run_s] = await run(ort, model, feeds, cell.outputs);
    for (const [k, a] of flat.entries()) await post(`/out/${name}.${k}.bin`, a);
    await post("/say", JSON.stringify({ name, load_s, run_s }));
  } catch (error) {
    await post("/say", JSON.stringify({ name, error: String(error.message ?? error).slice(0, 500) }));
  }
}
await post("/done", "");
</script>"""
LIMIT_S = 880


def main(modules: Path, folder: Path, runtime: str) -> None:
    over = threading.Event()
    roots = {"modules": modules, "cells": folder, "here": Path(__file__).resolve().parent}

    class Handler(SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def translate_path(self, path: str) -> str:
            root, _, rest = path.lstrip("/").partition("/")
            return str(roots[root] / rest)

        def do_GET(self) -> None:
            if self.path != "/":
                return super().do_GET()
            self.answer(PAGE.replace("RUNTIME", runtime).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/say":
                print(body.decode(), flush=True)
            elif self.path == "/done":
                over.set()
            else:
                (folder / runtime / Path(self.path).name).write_bytes(body)
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    package = json.loads((modules / "onnxruntime-web" / "package.json").read_text())
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    print(json.dumps({"version": f"onnxruntime-web {package['version']}, {' '.join(told[:2])}"}), flush=True)
    with tempfile.TemporaryDirectory() as profile:
        page = f"http://127.0.0.1:{server.server_port}/"
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--no-proxy-server"]
        browser = subprocess.Popen([program, *options, page], stdout=sys.stderr, stderr=sys.stderr)
        over.wait(LIMIT_S)
        browser.terminate()
        browser.wait()
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
