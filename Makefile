VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY := $(VENV)/.parity
comma := ,
# The tests start many processes; each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-full lint format bench rows clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[test]'
	@touch $@

# The reference libraries; torch first, since what depends on it would choose another build.
$(PARITY): $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python 'torch==2.13.*'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test,text,parity,aot]'
	@touch $@

quickstart: $(STAMP)  ## train a small network on real digits
	$(BIN)/jaxdl train experiments/quickstart.py

test: $(STAMP)  ## the tests that fit in 15 minutes on two cores
	$(BIN)/pytest -n 2 -m "not slow and not gpu and not tpu_aot and not gpu_aot"

# A GPU joins as the second platform: the default device stays the CPU, gpu tests ask for theirs.
test-full: export JAX_PLATFORMS ?= cpu$(if $(shell command -v nvidia-smi),$(comma)cuda)
test-full: $(PARITY)  ## every test that this machine can run; records the rows it proves
	rm -f build/rows.json
	$(BIN)/pytest -n 2; status=$$?; $(BIN)/python tests/rows.py merge && exit $$status

lint: $(STAMP)  ## ruff, pyright and the size of files and functions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/house/sizes.py

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(PARITY)  ## time of step, loop and input, beside the frameworks installed here
	$(BIN)/jaxdl bench step --peers
	$(BIN)/jaxdl bench loop --peers
	$(BIN)/jaxdl bench input --peers

rows: $(STAMP)  ## which checklist rows the tests prove
	@$(BIN)/python tests/rows.py show

clean:  ## remove what the build and the tests left; keeps runs/ and the virtual environment
	rm -rf build dist *.egg-info .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
