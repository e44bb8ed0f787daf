# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := demo,retrieval,report,docs,serve,test
# No model hub is needed by anything below.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export NO_MKDOCS_2_WARNING ?= 1

.PHONY: help venv demo test test-slow test-faults test-rounding test-versions test-integrations test-export soak mutants \
	study-smoke lint format docs docs-check bench dist clean

help:            ## This list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

venv: $(STAMP)   ## Create .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(STAMP)

demo: $(STAMP)   ## The main job on real input, offline (FAST=1: the short form)
	$(BIN)/cmp-rerank demo $(if $(FAST),--fast)

test: $(STAMP)   ## The test suite and the doctests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP)  ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

test-faults: $(STAMP)  ## Damaged files by the thousand, full disks, kills (about half an hour)
	$(BIN)/python -m pytest tests/faults -m "slow or not slow"

test-rounding: $(STAMP)  ## The test suite as on a processor that rounds differently
	$(BIN)/python -m pytest -n 2 --dist worksteal --rounding 1

soak: $(STAMP)   ## Two hours of mixed commands and 10,000 training steps: nothing may pile up
	$(BIN)/python tests/faults/soak.py

test-versions: $(STAMP)  ## The test suite with the lowest, older and pinned versions (ARGS: python tests/versions/run_versions.py -h)
	$(BIN)/python tests/versions/run_versions.py $(ARGS)

test-integrations: .venv-integrations/.installed  ## The tests with LangChain, LlamaIndex, Haystack, PyTerrier, ranx, and what shows curves
	.venv-integrations/bin/python -m pytest tests/integrations tests/losses/test_reporting.py tests/test_docs.py -m "slow or not slow"

.venv-integrations/.installed: pyproject.toml constraints.txt constraints/integrations.txt
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/pip install -q --upgrade pip
	.venv-integrations/bin/pip install -q -c constraints.txt torch
	.venv-integrations/bin/pip install -q -c constraints.txt -c constraints/integrations.txt -e '.[$(EXTRAS),test-integrations]'
	touch $@

test-export: .venv-export/.installed .venv-export-onnx/.installed  ## The tests with OpenVINO and ONNX, each in an environment of its own
	.venv-export/bin/python -m pytest tests/export "tests/test_docs.py::test_code_blocks_run[docs/integrations.md]" -m "slow or not slow"

# transformers fails where torchvision is built for another torch, as that of PyPI is for a CPU build. It is for images.
.venv-export/.installed: pyproject.toml constraints/export.txt
	$(PYTHON) -m venv .venv-export
	.venv-export/bin/pip install -q --upgrade pip
	.venv-export/bin/pip install -q -c constraints/export.txt torch
	.venv-export/bin/pip install -q -c constraints/export.txt -e '.[demo,test,test-export]'
	.venv-export/bin/pip uninstall -q -y torchvision
	touch $@

.venv-export-onnx/.installed: constraints/export-onnx.txt
	$(PYTHON) -m venv .venv-export-onnx
	.venv-export-onnx/bin/pip install -q --upgrade pip
	.venv-export-onnx/bin/pip install -q -c constraints/export-onnx.txt torch
	.venv-export-onnx/bin/pip install -q -r constraints/export-onnx.txt
	touch $@

mutants: $(STAMP) ## Break the core in small ways, one at a time: the tests must notice each (about 15 minutes)
	$(BIN)/python tests/mutants/run_mutants.py --out benchmarks/results/mutants.json

lint: $(STAMP)   ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Rewrite the files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)   ## The documentation as a site that opens from a file, site/index.html; its figures are drawn anew
	$(BIN)/python docs/scripts/figures.py
	$(BIN)/mkdocs build --strict

docs-check: $(STAMP) ## Build the documentation, with warnings as errors, and keep nothing
	folder=$$(mktemp -d) && $(BIN)/mkdocs build --strict --site-dir $$folder && rm -r $$folder

bench: $(STAMP) .venv-export/.installed .venv-export-onnx/.installed  ## All benchmarks; results go to benchmarks/results
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

study-smoke: $(STAMP) ## The study on made-up rows, to see that everything runs
	$(BIN)/python -m benchmarks.study prepare --task smoke --layers 1 --cache .study-smoke
	$(BIN)/python -m benchmarks.study run smoke --size 16 --arm plain --arm "mean, c=2" --arm "compared, c=2" \
		--cache .study-smoke --results .study-smoke
	$(BIN)/python -m benchmarks.study table smoke --size 16 --results .study-smoke
	rm -rf .study-smoke

dist: $(STAMP)   ## Wheel and sdist in dist/, checked; the version is that of the git tag
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:           ## Remove what the other targets made
	rm -rf .venv site .venv-integrations .venv-export .venv-export-onnx .versions dist .pytest_cache .mypy_cache .ruff_cache
