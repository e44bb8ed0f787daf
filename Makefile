# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := demo,retrieval,report,serve,test
# No model hub is needed by anything below.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help venv demo test test-slow test-faults test-rounding test-versions test-integrations soak mutants \
	study-smoke lint format bench dist clean

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

test-integrations: .venv-integrations/.installed  ## The tests with LangChain, LlamaIndex, Haystack, PyTerrier and ranx
	.venv-integrations/bin/python -m pytest tests/integrations tests/test_docs.py -m "slow or not slow"

.venv-integrations/.installed: pyproject.toml constraints.txt constraints/integrations.txt
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/pip install -q --upgrade pip
	.venv-integrations/bin/pip install -q -c constraints.txt torch
	.venv-integrations/bin/pip install -q -c constraints.txt -c constraints/integrations.txt -e '.[test-integrations,test]'
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

bench: $(STAMP)  ## All benchmarks; results go to benchmarks/results
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
	rm -rf .venv .venv-integrations .versions dist .pytest_cache .mypy_cache .ruff_cache
