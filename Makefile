# make demo: from nothing to a recogniser that has heard only synthetic speech. make test: the whole test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(2, os.cpu_count() or 1))')
HOURS ?= 4
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
# oneDNN keeps a kernel and its memory for each of the last 1,024 shapes of batches: 2.1 GB a process in place of 1.4
export ONEDNN_PRIMITIVE_CACHE_CAPACITY = 16

.PHONY: help install demo test test-slow lint format clean-demo

help:
	@echo "make demo    demo corpus, vocabulary, shards, training, evaluation, transcription (12 minutes on two cores)"
	@echo "make test    the test suite (9 minutes)"
	@echo "make lint    ruff and mypy"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

demo: install
	$(BIN)/prepare-corpus demo --hours $(HOURS) --out manifests/demo
	$(BIN)/build-vocab --manifest manifests/demo --size 64 --out vocab/demo
	$(BIN)/write-shards --manifest manifests/demo --out shards/demo
	$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) --module asr.train --config tiny \
		--shards shards/demo/urls-train.txt --dev-shards shards/demo/urls-dev.txt \
		--vocab vocab/demo/bpe-64.model --out runs/demo --resume
	$(BIN)/evaluate-asr --bundle runs/demo/best --shards shards/demo/urls-test.txt
	@file=$$(find manifests/demo/corpus/LibriSpeech/test -name '*.flac' | sort | head -n 1); \
	said=$$(grep -h "^$$(basename $$file .flac) " $$(dirname $$file)/*.trans.txt | cut -d' ' -f2- | tr A-Z a-z); \
	echo "$$file"; echo "reference:  $$said"; printf 'recognised: '; $(BIN)/transcribe $$file --bundle runs/demo/best

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy asr shards manifests pipelines configs

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean-demo:
	rm -rf manifests/demo vocab/demo shards/demo runs/demo
