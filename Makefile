# make demo      set up .venv and train on the digits that come with scikit-learn: the run is in runs/demo
# make test      set up .venv for developers, then lint, format check, types and the quick tests: minutes
# make test-all  the same with the slow tests: networks that must learn, processes that are killed; what CI runs
# make fuzz      ten thousand malformed files of each kind against every loader
# make gpu-check on a machine with a GPU: every rule, body and feature on it, a few steps each; minutes
# make draw      put the files of the page "Draw digits" into docs/draw: a trained network, and onnxruntime-web by npm
# make clean     remove .venv and the tools' caches; runs and data stay
#
# Another Python:            make demo PYTHON=python3.12
# Linux without a graphics card: pip's default PyTorch for Linux brings gigabytes of CUDA; the small build is
#                            make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo install lint test test-all fuzz gpu-check draw clean

demo: .venv/demo.stamp
	rm -rf runs/demo
	$(BIN)/forwardonly train --out runs/demo
	@echo "the program is $(BIN)/forwardonly; source $(BIN)/activate makes it plain forwardonly"

install: .venv/all.stamp

lint: .venv/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each worker begins with half of the tests in their order, and takes from the other when it has done its own.
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

fuzz: .venv/all.stamp
	FORWARDONLY_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz

gpu-check: .venv/all.stamp
	$(BIN)/python benchmarks/gpu_check.py --out gpu-check.json

draw: .venv/all.stamp
	$(BIN)/python docs/build_draw.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than the files it depends on when an installation is due, so a repeated call costs nothing.
.venv/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing forwardonly and PyTorch into .venv (a minute or two)"
	$(INSTALL) -e '.[sklearn,images]'
	@touch $@

.venv/all.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing forwardonly, PyTorch and the developer's tools into .venv (a minute or two)"
	$(INSTALL) -e '.[all,docs,dev]'
	@touch $@ .venv/demo.stamp

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "forwardonly needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
