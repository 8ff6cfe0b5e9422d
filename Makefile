# Two commands: `make demo` explains the sample images, `make test` checks in minutes whether all is well.
PYTHON ?= python3
VENV := .venv
VENV_CPU := .venv-cpu
VENV_BROWSER := .venv-browser
VENV_RAY := .venv-ray
# The training build has wheels for CPython 3.10 to 3.12 on x86-64, and on arm64 for macOS alone.
EXTRA ?= $(shell $(PYTHON) -c "import platform as p, sys; \
	arm = p.machine().lower() in ('arm64', 'aarch64') and p.system() != 'Darwin'; \
	print('cpu' if sys.version_info >= (3, 13) or arm else 'training')")
STAMPS := .stamps
PYTEST := python -m pytest -n 2
unexport PYTHONDONTWRITEBYTECODE  # the tests start some two hundred processes: compiled once, not by each of them

.PHONY: demo test test-slow conformance runtimes lint test-training test-cpu fuzz soak test-browser test-web test-examples test-ray package pictures clean

demo: $(STAMPS)/run
	@echo "ONNX Runtime: onnxcam[$(EXTRA)]"
	$(VENV)/bin/onnxcam explain zoo:shapes-cnn $(sort $(wildcard model_zoo/samples/scene-?.png)) -o demo
	@echo "Open the overlays in demo/"

test: lint test-training test-cpu

lint: $(STAMPS)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-training: $(STAMPS)/dev
	$(VENV)/bin/$(PYTEST) -m "not anyruntime and not slow"

test-cpu: $(STAMPS)/cpu
	$(VENV_CPU)/bin/$(PYTEST) -m "not slow"

# What takes longer: whole suites of operators and exports, fuzzing, stories told by audits.
test-slow: $(STAMPS)/cpu
	$(VENV_CPU)/bin/$(PYTEST) -m slow

# Reports in Chromium: apt-get install chromium chromium-driver.
test-browser: $(STAMPS)/browser
	$(VENV_BROWSER)/bin/python -m pytest -rs tests/batch/test_report_browser.py tests/test_serving_browser.py

# The page of `onnxcam web`, in Node.js and in Chromium with a camera that is none: apt-get install chromium
# chromium-driver nodejs npm.
test-web: $(STAMPS)/browser
	$(VENV_BROWSER)/bin/python -m pytest -rs tests/export/test_web.py tests/export/test_web_pixels.py \
		tests/export/test_web_service.py tests/export/test_web_browser.py

# The programs of examples/, also those that install something: pip and npm need a network.
test-examples: $(STAMPS)/cpu
	ONNXCAM_EXAMPLES=1 $(VENV_CPU)/bin/python -m pytest -rs tests/export/test_examples.py

# Jobs on two machines, as far as Ray can tell.
test-ray: $(STAMPS)/ray
	$(VENV_RAY)/bin/python -m pytest -rs tests/batch/test_ray.py

# Damaged and hostile files: each must give a result or an error of onnxcam. FUZZ_ZOO adds models and pictures.
fuzz: $(STAMPS)/cpu
	$(VENV_CPU)/bin/python -m benchmarks.fuzz models --count 5000 $(FUZZ_ZOO:%=--zoo %)
	$(VENV_CPU)/bin/python -m benchmarks.fuzz images --count 5000 $(FUZZ_ZOO:%=--zoo %)
	$(VENV_CPU)/bin/python -m benchmarks.fuzz words --count 2000

# Half an hour of mixed work: memory must stay where it was.
soak: $(STAMPS)/cpu
	$(VENV_CPU)/bin/python -m benchmarks.soak

# The figures of docs/operators.md: the portable engine on the newest runtime, the training engine on its own build.
conformance: $(STAMPS)/dev $(STAMPS)/cpu
	@mkdir -p build
	$(VENV_CPU)/bin/python -W ignore -m benchmarks.conformance_report judge -o build/portable.json
	$(VENV)/bin/python -W ignore -m benchmarks.conformance_report judge --engine training -o build/training.json
	$(VENV_CPU)/bin/python -W ignore -m benchmarks.conformance_report write build/portable.json build/training.json \
		-o docs/operators.md

# docs/runtimes.md and .csv: exported models on every runtime that pip and npm give. MODELS and PHOTO add models to the zoo's.
RUNTIMES := build/runtimes
RUNTIMES_PIP := openvino tract mnn ncnn litert onnxruntime-oldest
PACKAGES_openvino := openvino
PACKAGES_tract := tract numpy
PACKAGES_mnn := MNN numpy
PACKAGES_ncnn := ncnn pnnx numpy
PACKAGES_litert := onnx2tf ai-edge-litert tensorflow-cpu tf_keras onnxsim onnx_graphsurgeon sng4onnx psutil onnxruntime
PACKAGES_onnxruntime-oldest := onnxruntime==1.14.1 "numpy<2"
$(RUNTIMES)/venv/onnxruntime-oldest: PYTHON := python3.10
SLOW_ONES := --only=[.](model|gradcam)$$
SHAPES := model_zoo/shapes-cnn.onnx model_zoo/shapes-vit.onnx \
	$(filter-out %-external.onnx %-weak.onnx,$(wildcard model_zoo/shapes-net-*.onnx))

$(RUNTIMES)/venv/%:
	$(PYTHON) -m venv $@
	$@/bin/pip install -q $(PACKAGES_$*)

runtimes: $(STAMPS)/dev $(STAMPS)/cpu $(RUNTIMES_PIP:%=$(RUNTIMES)/venv/%)
	npm install --silent --prefix $(RUNTIMES) onnxruntime-web
	$(VENV_CPU)/bin/python -W ignore -m benchmarks.runtimes make $(RUNTIMES) $(SHAPES) $(MODELS) $(PHOTO:%=--photo %)
	for r in $(RUNTIMES_PIP); do $(VENV_CPU)/bin/python -m benchmarks.runtimes run $(RUNTIMES) $$r \
		--python $(abspath $(RUNTIMES))/venv/$$r/bin/python \
		$$(case $$r in ncnn|litert) echo '$(SLOW_ONES)';; esac) || exit 1; done
	for r in web-node chromium; do $(VENV_CPU)/bin/python -m benchmarks.runtimes run $(RUNTIMES) $$r \
		--modules $(RUNTIMES)/node_modules || exit 1; done
	for r in opencv reference; do $(VENV_CPU)/bin/python -m benchmarks.runtimes run $(RUNTIMES) $$r || exit 1; done
	$(VENV_CPU)/bin/python -m benchmarks.runtimes run $(RUNTIMES) onnxruntime-training --python $(VENV)/bin/python
	$(VENV_CPU)/bin/python -m benchmarks.runtimes write $(RUNTIMES) -o docs/runtimes.md

# The wheel on its own, away from the checkout: it must carry the zoo.
package:
	rm -rf dist $(STAMPS)/wheel && mkdir -p $(STAMPS)/wheel
	$(PYTHON) -m venv $(STAMPS)/wheel/venv
	$(STAMPS)/wheel/venv/bin/pip wheel -q --no-deps -w dist .
	$(STAMPS)/wheel/venv/bin/pip install -q "$$(ls dist/*.whl)[cpu]"
	cd $(STAMPS)/wheel && venv/bin/python -c "import onnxcam.zoo as z; print(*z.samples('shapes-cnn')[:2], sep='\n')" > samples
	cd $(STAMPS)/wheel && venv/bin/onnxcam explain zoo:shapes-cnn $$(cat samples) -o out

# The README's pictures, by the commands that it prints.
pictures: $(STAMPS)/run
	grep '^\$$ onnxcam.*-o docs/images' README.md | sed 's/^\$$ //' | while read -r c; do $(VENV)/bin/$$c || exit 1; done
	rm -f docs/images/*.json docs/images/*.npz docs/images/*.attribution.png

$(STAMPS)/run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e ".[$(EXTRA)]"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/run
	$(VENV)/bin/pip install -q -e ".[$(EXTRA),dev]"
	@touch $@

$(STAMPS)/cpu: pyproject.toml
	$(PYTHON) -m venv $(VENV_CPU)
	$(VENV_CPU)/bin/pip install -q -e ".[cpu,dev]"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/browser: pyproject.toml
	$(PYTHON) -m venv $(VENV_BROWSER)
	$(VENV_BROWSER)/bin/pip install -q -e ".[cpu,dev,browser]"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/ray: pyproject.toml
	$(PYTHON) -m venv $(VENV_RAY)
	$(VENV_RAY)/bin/pip install -q -e ".[cpu,ray,dev]"
	@mkdir -p $(STAMPS) && touch $@

clean:
	rm -rf $(VENV) $(VENV_CPU) $(VENV_BROWSER) $(VENV_RAY) $(STAMPS) demo
