# `make demo` and `make test` do the setup they need, once: the virtual environment .venv is updated
# only when pyproject.toml or constraints.txt changes.

# Python 3.11 is first because the pinned torch has the most builds for it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
# PIP_CONSTRAINT also applies to the tools that pip builds the package with.
INSTALL := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
PICTURES := datasets/mycat
WORKERS ?= 2

.PHONY: help demo test lint types tests campaign mutants gpu clean

help:
	@echo 'make demo   train a LoRA on $(PICTURES) with the bundled model and sample from it'
	@echo 'make test   lint, types and tests'
	@echo 'make campaign  attack the whole program: kills, broken files, full disks (a quarter of an hour)'
	@echo 'make mutants   change the code in small ways: do the tests notice? (hours; resumes where it stopped)'
	@echo 'make gpu    tests and benchmarks that need an NVIDIA GPU (ten minutes)'
	@echo 'make clean  remove .venv and caches (never runs/ or samples/)'

demo: .venv/installed
	$(BIN)/finetune lora --instance-dir $(PICTURES)
	$(BIN)/finetune sample 'a photo of mycat' 'a photo of mycat wearing a red hat on snow' \
		'mycat on the beach' 'mycat wearing a blue hat in the forest' \
		--lora "$$(ls -td runs/mycat-lora*/ | head -n 1)" --num 3 --output-dir samples/demo
	@echo
	@echo 'The pictures are in samples/demo, the LoRA is in' "$$(ls -td runs/mycat-lora*/ | head -n 1)"

test: lint types tests

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

# One thread per worker: the tests' models are too small for more.
tests: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Many attacks of every kind; exits nonzero if any does harm.
campaign: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaigns

# Exits nonzero if a mutant survives that is not listed with a reason.
# Some modules, or one mutant of ten: make mutants ONLY='finetune.diffusion.*' SAMPLE=10
ONLY ?= *
SAMPLE ?= 1
mutants: .venv/installed-mutants
	OMP_NUM_THREADS=1 PATH='$(abspath $(BIN))':"$$PATH" $(BIN)/python -m tests.mutants '$(ONLY)' \
		--sample $(SAMPLE) --workers $(WORKERS)

# With an environment made by hand, with a CUDA build of torch: make gpu BIN=/path/to/its/bin
gpu: $(if $(filter .venv/bin,$(BIN)),.venv/installed-dev)
	$(BIN)/python -m tests.gpu

.venv/bin/python:
	@test -n '$(PYTHON)' || { echo 'No Python >= 3.10 with venv was found. Name one: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing the pinned dependencies into .venv (a few minutes, once)'
	$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

.venv/installed-mutants: .venv/installed-dev
	$(INSTALL) --editable '.[dev,mutants]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache mutants build *.egg-info
