# `make` alone lists the targets. PYTHON picks the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# gradio and what of its dependencies nothing else brings. Its metadata ask for pillow<13, but the
# golden pixels of the tests are Pillow 13's; the page has gradio decode nothing.
GRADIO := gradio gradio_client groovy hf-gradio safehttpx semantic-version tomlkit pydub \
	python-multipart brotli orjson pytz httpx httpcore certifi
OLD_PYTHON := "Python 3.10 or newer is needed; choose one: make PYTHON=python3.12 ..."

.DEFAULT_GOAL := help
.PHONY: help setup charts stages test gpu interop lint docs embedded clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s%s\n", $$1, $$2}'

setup: $(STAMP)  ## .venv with the pinned versions of constraints.txt

# torch goes first and alone: resolved together with the rest, another package could pull in another
# build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and $(OLD_PYTHON))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[test,lint,docs]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		$(GRADIO)
	@touch $@

charts: setup  ## tune the small model on generated charts: CPU, minutes
	$(BIN)/dsvl-tune fit --config recipes/charts_lora.yaml

stages: setup  ## the paper's three stages in small, on generated data: CPU, minutes
	for stage in 1_align 2_pretrain 3_sft; do \
		$(BIN)/dsvl-tune fit --config stages_$$stage && \
		$(BIN)/dsvl-tune merge runs/stages_$$stage || exit $$?; \
	done

test: setup  ## the tests, but those marked slow and `make interop`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

gpu: setup  ## tests and figures on one CUDA device with bfloat16, at most 25 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/gpu
	$(BIN)/python benchmarks/gpu.py

interop: setup  ## exports in other people's software; DEEPSEEK_VL_CODE names a checkout of the original code
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m interop tests/interop

lint: setup  ## ruff (rules and format), mypy, and the import contracts of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## the documentation into site/; warnings are errors, those about docstrings too
	$(BIN)/zensical build --strict --clean > .docs.log 2>&1 || { cat .docs.log; exit 1; }
	@if grep '^griffe' .docs.log; then exit 1; fi

embedded: setup  ## train the embedded checkpoint again, from nothing: CPU, about half an hour
	$(BIN)/dsvl-tune init runs/embedded_0
	for stage in 1_towers 2_read 3_ask; do \
		$(BIN)/dsvl-tune fit --config embedded_$$stage && \
		$(BIN)/dsvl-tune merge runs/embedded_$$stage || exit $$?; \
	done
	@echo "the trained checkpoint: runs/embedded_3_ask/merged"

clean:  ## remove .venv, builds and caches; runs/ stays
	rm -rf .venv build dist site .docs.log *.egg-info
	rm -rf .cache .interop .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
