# Everything below needs Python 3.10, 3.11 or 3.12, git, and nothing else: the
# first target that needs packages installs the tested set into .venv.

VENV := .venv
BIN := $(VENV)/bin
# Changes with what is to be installed, so an environment is never out of date.
STAMP := $(VENV)/installed-$(shell cat setup.cfg pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types wheel clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

$(STAMP):
	@test -x $(BIN)/python && $(BIN)/python -c '' || .ci/make_venv $(VENV)
	@echo 'Installing the packages into $(VENV) (about 2.6 GB; once) ...'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	@# The pinned setuptools builds the package, not whichever is newest.
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --no-build-isolation --editable '.[dev]'
	@rm -f $(VENV)/installed-*
	@touch $@

demo: $(STAMP) ## the whole way on a synthesised corpus, at most 6 minutes
	@$(BIN)/python -m tools.make_demo_corpus --output_dir=demo/corpus
	@$(BIN)/python -m tools.extract_features --data_dir=demo/corpus/tagged
	@$(BIN)/python -m tools.pretrain --data_dir=demo/corpus/tagged --run_dir=demo/pretrain
	@$(BIN)/python -m tools.finetune --data_dir=demo/corpus/genres --run_dir=demo/finetune
	@$(BIN)/python -m tools.evaluate --data_dir=demo/corpus/genres --run_dir=demo/finetune
	@$(BIN)/python -m tools.export --run_dir=demo/finetune
	@$(BIN)/python -m tools.predict demo/corpus/genres

test: $(STAMP) ## the test suite (WORKERS=2)
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

format: $(STAMP) ## ruff: mend what it can
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

types: $(STAMP) ## mypy
	@$(BIN)/python -m mypy

wheel: $(STAMP) ## build the wheel and try it in an environment of its own
	@$(BIN)/python tests/check_wheel.py

clean: ## remove what these targets made, the demo included
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
