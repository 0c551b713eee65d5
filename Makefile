# The commands of this project. Each works in a fresh clone; `make` alone lists them.

PYTHON          ?= python3
PORT            ?= 8000
MANAGEMENT_PORT ?= 8001
ARGS            ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo install test test-newest check bench docs lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: export MLSERVER_SERVER__PORT = $(PORT)
demo: export MLSERVER_SERVER__MANAGEMENT__PORT = $(MANAGEMENT_PORT)
demo: install ## serve a real model on PORT=8000 (and MANAGEMENT_PORT=8001) until Ctrl-C
	@$(BIN)/python examples/demo.py

install: $(STAMP) ## make .venv with the package, its extras and all that tests need, from the lock
	@:

test: install ## run the tests; ARGS="-k word" is passed to pytest
	@$(BIN)/python -m pytest $(ARGS)

test-newest: ## run the unit and HTTP tests on the newest Python of this machine, if it is newer than 3.11
	@newest=$$(scripts/newest-python) || { echo "No Python newer than 3.11 was found."; exit 0; }; \
	$(MAKE) --no-print-directory test PYTHON="$$newest" VENV=.run/newest ARGS="tests/unit tests/http $(ARGS)"

check: install ## lint, check formatting, types, the import rule and generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check

bench: install ## measure beside other servers, 15 minutes; ARGS=micro measures single parts
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: install ## write docs/reference anew from the code
	@$(BIN)/python docs/generate.py

lock: | $(BIN)/uv ## resolve pyproject.toml into requirements.lock; ARGS=--upgrade takes newer versions
	@$(BIN)/uv pip compile pyproject.toml --output-file requirements.lock --quiet --no-config \
		--all-extras --group dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command "make lock" $(ARGS)

clean: ## remove all that these commands made, .venv included
	@rm -rf $(VENV) build dist .run .*_cache .hypothesis src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# First the locked pip and setuptools: they build what comes as source, so nothing unlocked is fetched.
$(STAMP): pyproject.toml requirements.lock | $(BIN)/pip
	@echo "Installing what requirements.lock lists into $(VENV): a minute or two the first time."
	@awk '/^(pip|setuptools)==/, /[^\\]$$/' requirements.lock > $(VENV)/build.lock
	@$(PIP_INSTALL) --require-hashes --requirement $(VENV)/build.lock
	@$(PIP_INSTALL) --require-hashes --no-build-isolation --requirement requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/pip:
	@sh scripts/make-venv "$(PYTHON)" $(VENV)

$(BIN)/uv:
	@$(MAKE) --no-print-directory install
