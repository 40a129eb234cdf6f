# make demo   export the trained examples, one with a TensorRT plan, and use them: retrieval, captions, a conversation
# make gpu-check   what only a GPU can show; writes gpu-report.md and gpu-report.json
# make check-dependencies   the lowest and the newest versions of every extra, each in an environment of its own
# make coverage   which lines and branches no test runs; takes about twice as long as the tests
# make test   lint, types and the whole test suite, as CI runs them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.demo-ready
READY := $(VENV)/.ready
PIP := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install --quiet -c constraints.txt
TRITON := .triton/.ready
ROOMS := internvl_edge.cli internvl_edge.commands internvl_edge.export internvl_edge.calib \
  internvl_edge.runtime internvl_edge.optimum_register
EMOJI := examples/emoji
BUNDLE := demo-bundle
CHAT := examples/chat
CHAT_BUNDLE := demo-chat-bundle
CHAT_PICTURES := demo-chat-pictures
# Whole files, in the order that tests/conftest.py gives them.
SHARED_OUT := -n 2 --dist loadfile --no-loadscope-reorder
PICTURES := demo-pictures

.PHONY: demo test lint types unit gpu-check check-dependencies coverage clean

# What the demo needs; setuptools' word on editable installs, that folders named like the package hide it, is left out.
$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) -e ".[export,cpu,rtx,chat]"
	mkdir -p .mypy_root && ln -sfn .. .mypy_root/internvl_edge
	touch $@

$(READY): $(DEMO_READY)
	$(PIP) -e ".[export,cpu,rtx,chat,optimum,plugins,openvino,parquet,video,serve,tracing,ray,dev]"
	touch $@

$(TRITON): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) "nvidia-pytriton==0.7.0" "numpy==1.26.4"
	chmod +x $(@D)/pytriton/tritonserver/bin/tritonserver
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D)/perf_analyzer "tritonclient==2.48.0"
	mkdir -p $(@D)/lib
	ln -sf $(CURDIR)/$(@D)/nvidia_pytriton.libs/libb64-*.so.0d $(@D)/lib/libb64.so.0d
	ln -sf $(CURDIR)/$(@D)/nvidia_pytriton.libs/libcudart-*.so.12.* $(@D)/lib/libcudart.so.12
	touch $@

demo: $(DEMO_READY)
	$(BIN)/internvl-edge export $(EMOJI)/checkpoint -o $(BUNDLE) --target rtx-4090 --samples $(EMOJI)/data/test.jsonl
	$(BIN)/python -m zipfile -e $(EMOJI)/data/test.zip $(PICTURES)
	$(BIN)/internvl-edge run retrieve $(BUNDLE) $(PICTURES)/0011.png $(PICTURES)/0053.png \
	  -t "gem stone" -t "flag: Nepal" -t "sleeping face" -t "a slice of pizza"
	$(BIN)/internvl-edge run caption $(BUNDLE) $(PICTURES)/0011.png $(PICTURES)/0053.png
	$(BIN)/internvl-edge run caption $(BUNDLE) $(PICTURES)/0011.png $(PICTURES)/0053.png --prompt "Japanese caption:"
	$(BIN)/internvl-edge export $(CHAT)/checkpoint -o $(CHAT_BUNDLE)
	$(BIN)/python -m zipfile -e $(CHAT)/data/test.zip $(CHAT_PICTURES)
	$(BIN)/internvl-edge run chat $(CHAT_BUNDLE) $(CHAT_PICTURES)/0185.png \
	  -q "List the things from left to right." -q "Which one belongs to food & drink?"

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	MYPYPATH=.mypy_root $(BIN)/mypy --strict $(ROOMS:%=-p %)
	MYPYPATH=.mypy_root:benchmarks:scripts $(BIN)/mypy --strict benchmarks scripts

unit: $(READY) $(TRITON)
	$(BIN)/python -m pytest $(SHARED_OUT)

gpu-check: $(READY)
	$(BIN)/python -m pytest tests/gpu -m gpu -rs --gpu-report gpu-report.json

check-dependencies: $(DEMO_READY)
	$(BIN)/python scripts/check_dependencies.py $(VERSIONS:%=--versions %)

coverage: $(READY) $(TRITON)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SHARED_OUT) -q
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf $(VENV) .coverage* .triton .mypy_root $(BUNDLE) $(PICTURES) $(CHAT_BUNDLE) $(CHAT_PICTURES) .$(BUNDLE).partial .$(CHAT_BUNDLE).partial gpu-report.json gpu-report.md
