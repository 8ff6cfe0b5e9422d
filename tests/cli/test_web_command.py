"""`onnxcam web`: an exported model in, a page out."""

from __future__ import annotations

from builders import classifier, write

from onnxcam import Explainer


def test_a_page_is_written_once(run, tmp_path):
    runtime, site = tmp_path / "dist", tmp_path / "site"
    runtime.mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / name).write_text(name)
    Explainer("zoo:shapes-cnn").export(tmp_path / "x.onnx")
    done = run("web", tmp_path / "x.onnx", "-o", site, "--runtime", runtime, "--json")
    size = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
    assert (done.code, done.json) == (0, [{"page": str(site / "index.html"), "bytes": size}])
    assert f"python -m http.server --directory {site}" in done.err
    again = run("web", tmp_path / "x.onnx", "-o", site, "--runtime", runtime)
    assert (again.code, again.out) == (2, "")
    assert "--force" in again.err
    assert run("web", tmp_path / "x.onnx", "-o", site, "--runtime", runtime, "--force").code == 0


def test_a_model_that_does_not_explain_itself_is_refused(run, tmp_path):
    done = run("web", write(tmp_path / "plain.onnx", classifier()), "-o", tmp_path / "site")
    assert (done.code, done.out) == (2, "")
    assert "onnxcam export" in done.err
    assert not (tmp_path / "site").exists()
