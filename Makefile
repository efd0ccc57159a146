# make run   trains the heart example and names the report it wrote
# make test  lints, types, tests; make test-engines  deployments of engines, as processes on this machine

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check tests test-engines test-slow fuzz coverage docs report-examples format clean

run: $(VENV)/.run
	$(BIN)/secfl run examples/heart/config.toml

test: check tests

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/pytest -n 2

# Deployments share the processor with nothing else: one after another.
test-engines: $(VENV)/.dev
	$(BIN)/pytest -m "engines and not slow"

# Statistical tests, long fuzzing, many processes.
test-slow: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m slow

# Half an hour a target, one after another; what reaches new code is kept under tests/fuzz/.found.
fuzz: $(VENV)/.dev
	for target in decoders ledger secagg oneshot ckks; do $(BIN)/python -m tests.fuzz.run $$target --seconds 1800 || exit 1; done

coverage: $(VENV)/.dev
	$(BIN)/pytest tests/protocols tests/attacks --cov=protocols --cov-report=term-missing

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# Runs the examples of docs/examples anew: about ten minutes.
report-examples: $(VENV)/.dev
	$(BIN)/python docs/_build/report_examples.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[train,report]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[train,report,he,flower,docs,dev]"
	touch $@
