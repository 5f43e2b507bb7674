# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup check slow docs notebook clean
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

docs: .venv/docs-installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "site: docs/_build/html/index.html"

notebook: .venv/docs-installed
	$(BIN)/python docs/tour_notebook.py

.venv/core-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing resnets and its core libraries into .venv (torch is large: a minute or more)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/dev-installed: pyproject.toml .venv/core-installed
	@echo "installing the extras and the developers' tools into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.venv/docs-installed: pyproject.toml .venv/core-installed
	@echo "installing what builds the site into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist docs/_build
