# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup check slow clean
demo: .venv/core-installed
	$(BIN)/resnets demo

test: .venv/dev-installed
	$(BIN)/python -m pytest -n 2

setup: .venv/dev-installed

check: .venv/dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

slow: .venv/dev-installed
	$(BIN)/python -m pytest -m slow

.venv/core-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing resnets and its core libraries into .venv (torch is large: a minute or more)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[report]'
	touch $@

.venv/dev-installed: pyproject.toml .venv/core-installed
	@echo "installing the extras and the developers' tools into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist
