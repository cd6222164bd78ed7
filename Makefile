# Needs Python 3.10 to 3.13 and git. The first target that needs packages installs the
# tested versions into .venv: constraints/newest.txt, or oldest.txt below Python 3.12.
# `make VENV=.venv-3.13 PYTHON=python3.13 test` tests with another Python.

VENV := .venv
BIN := $(VENV)/bin
# The name depends on the requirements, so that a change of them updates .venv.
STAMP := $(VENV)/installed-$(shell cat setup.cfg pyproject.toml constraints/* .ci/tested_set | cksum | cut -d' ' -f1)
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo try starter starter-data test test-quick test-slow test-scale exchange lint format types \
    wheel clean

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

$(STAMP):
	@test -x $(BIN)/python && $(BIN)/python -c '' || .ci/make_venv $(VENV)
	@echo 'Installing the packages into $(VENV) (about 2.6 GB; once) ...'
	@# The pinned setuptools builds the package, not whichever is newest.
	@set=$$($(BIN)/python .ci/tested_set) && \
	    $(BIN)/python -m pip install --quiet --constraint $$set setuptools wheel && \
	    $(BIN)/python -m pip install --quiet --constraint $$set \
	    --no-build-isolation --editable '.[dev]'
	@rm -f $(VENV)/installed-*
	@touch $@

CORPUS := demo/corpus
CLIPS := $(CORPUS)/genres/genres_original
demo: $(STAMP) ## all steps on synthesised music, from files to predictions (about two minutes)
	@$(BIN)/python -m tools.make_demo_corpus --output_dir=$(CORPUS) \
	    --num_tagged=240 --clips_per_genre=10
	@$(BIN)/python -m tools.pretrain --data_dir=$(CORPUS)/tagged \
	    --features_dir=demo/features/tagged --run_dir=demo/pretrain --max_epochs=8
	@$(BIN)/python -m tools.finetune --data_dir=$(CORPUS)/genres --start=demo/pretrain \
	    --features_dir=demo/features/genres --run_dir=demo/finetune --max_epochs=8
	@$(BIN)/python -m tools.evaluate --data_dir=$(CORPUS)/genres \
	    --features_dir=demo/features/genres --run_dir=demo/finetune
	@$(BIN)/python -m tools.export --run_dir=demo/finetune --name=demo
	@echo 'Predictions for four held-out clips (the folder is the true genre):'
	@$(BIN)/python -c 'import json; run = json.load(open("demo/finetune/run.json")); \
	    print(*run["data"]["test"][1:8:2], sep="\n")' | \
	    sed 's,^,$(CLIPS)/,' | \
	    xargs $(BIN)/python -m tools.predict --model=saved_models/demo --chart
	@echo 'Pictures: demo/pretrain/curves.png, demo/finetune/curves.png,'
	@echo '          demo/finetune/evaluation/confusion.png'
	@echo 'Next, tags of your music, by the model that ships; and genres of your own,'
	@echo 'one folder for each (see README.md):'
	@echo '  . $(BIN)/activate'
	@echo '  python -m tools.predict song.mp3'
	@echo '  python -m tools.train --data_dir=my_music --name=mine'
	@echo '  python -m tools.predict --model=saved_models/mine song.mp3'

MODEL ?= saved_models/starter
try: $(STAMP) ## build the page that labels songs in the browser, in site (MODEL=export; needs npm)
	@npm ci --prefix docs/try
	@$(BIN)/python docs/try/build.py --model="$(MODEL)" --output=site

SHARED ?= ../shared/data
STARTER_DATA := real_tagged/table.csv mini_mtt soft_tags.csv soft_vectors.npz
starter-data:
	@for name in $(STARTER_DATA); do test -e "$(SHARED)/$$name" || { \
	    echo "error: $(SHARED)/$$name is missing; name the folder of the training" \
	        "data: make starter SHARED=FOLDER" >&2; exit 1; }; done

starter: starter-data $(STAMP) ## train and export the model that ships (SHARED=folder of its data)
	@$(BIN)/python -m tools.pretrain --table="$(SHARED)/real_tagged/table.csv" \
	    --table="$(SHARED)/mini_mtt" --table="$(SHARED)/soft_tags.csv" \
	    --target_vectors="$(SHARED)/soft_vectors.npz" --min_clips=8 --seed=0 \
	    --features_dir=features/starter --run_dir=runs/starter
	@$(BIN)/python -m tools.export --run_dir=runs/starter --name=starter --half \
	    --facts=saved_models/starter/facts.json

PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile \
    --max-worker-restart=1
test: $(STAMP) ## run the tests (WORKERS=4: in four processes)
	@$(PYTEST)

# What depends on versions most: kymatio with SciPy, decoders, Keras files, LiteRT, the
# lines that TensorFlow prints, packaging, and every tool once.
QUICK := architecture_test.py audio/decoding_test.py audio/ffmpeg_test.py \
    end_to_end_test.py model platforms_test.py scattering/kymatio_test.py \
    scattering/wavelets_test.py serving/tflite_and_keras_test.py tools/command_test.py
test-quick: $(STAMP) ## run the tests that depend most on versions of packages
	@$(PYTEST) $(addprefix tests/,$(QUICK))

test-slow: $(STAMP) ## run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-scale: $(STAMP) ## test large stores and Ray (24 GB of disk, about 16 minutes)
	@$(BIN)/python -m pip install --quiet --constraint $$($(BIN)/python .ci/tested_set) 'ray>=2.40,<3'
	@$(BIN)/python -m pytest -m scale

lint: $(STAMP) ## check rules and format with ruff
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

format: $(STAMP) ## fix what ruff can fix
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

types: $(STAMP) ## check types with mypy
	@$(BIN)/python -m mypy

wheel: $(STAMP) ## build the wheel and test it in a new environment
	@$(BIN)/python tests/check_wheel.py

OTHER ?= .venv-other
exchange: $(STAMP) ## check that files work in OTHER=environment, and its files in .venv
	@$(BIN)/python tests/check_exchange.py $(BIN)/python $(OTHER)/bin/python

clean: ## remove .venv, the demo, builds and caches
	rm -rf .venv .venv-* build dist demo site docs/try/node_modules saved_models/demo *.egg-info .pytest_cache \
	    .mypy_cache .ruff_cache
