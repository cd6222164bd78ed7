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

CORPUS := demo/corpus
CLIPS := $(CORPUS)/genres/genres_original
demo: $(STAMP) ## the whole way on a synthesised corpus, some minutes
	@$(BIN)/python -m tools.make_demo_corpus --output_dir=$(CORPUS) \
	    --num_tagged=240 --clips_per_genre=10
	@$(BIN)/python -m tools.pretrain --data_dir=$(CORPUS)/tagged \
	    --features_dir=demo/features/tagged --run_dir=demo/pretrain --max_epochs=8
	@$(BIN)/python -m tools.finetune --data_dir=$(CORPUS)/genres --start=demo/pretrain \
	    --features_dir=demo/features/genres --run_dir=demo/finetune --max_epochs=8
	@$(BIN)/python -m tools.evaluate --data_dir=$(CORPUS)/genres \
	    --features_dir=demo/features/genres --run_dir=demo/finetune
	@$(BIN)/python -m tools.export --run_dir=demo/finetune --name=demo
	@echo 'Four clips that were held out:'
	@$(BIN)/python -c 'import json; run = json.load(open("demo/finetune/run.json")); \
	    print(*run["data"]["test"][1:8:2], sep="\n")' | \
	    sed 's,^,$(CLIPS)/,' | \
	    xargs $(BIN)/python -m tools.predict --model=saved_models/demo --chart
	@echo 'Pictures: demo/pretrain/curves.png, demo/finetune/curves.png,'
	@echo '          demo/finetune/evaluation/confusion.png'
	@echo 'Now with your own music, sorted into one folder a genre:'
	@echo '  $(BIN)/python -m tools.train --data_dir=MY_MUSIC --name=mine'
	@echo '  $(BIN)/python -m tools.predict --model=saved_models/mine MY_SONG.mp3'

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
	rm -rf $(VENV) build dist demo saved_models/demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
