# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup check slow benchmarks fuzz docs notebook wheel clean
demo: .venv/demo-installed
	$(BIN)/resnets demo

test: .venv/dev-installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

setup: .venv/dev-installed

check: .venv/dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: .venv/dev-installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# The benchmark scripts that take long, with their smallest arguments.
benchmarks: .venv/dev-installed
	$(BIN)/python -m pytest -m benchmark

# Ten minutes of fuzzing the readers of strangers' files; findings go to tests/fuzz/findings.
fuzz: .venv/fuzz-installed
	$(BIN)/python tests/fuzz/fuzz.py --seconds 600

# The site; warnings are errors.
docs: .venv/docs-installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "site: docs/_build/html/index.html"

notebook: .venv/docs-installed
	$(BIN)/python docs/tour_notebook.py

# The wheel alone, in an empty environment: it holds no tests, and it trains.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	! $(PYTHON) -m zipfile --list dist/resnets-*.whl | grep -E '(^|/)(tests|benchmarks)/'
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check dist/resnets-*.whl
	cd build/wheel && bin/resnets --help >/dev/null && \
	  bin/resnets train fashion-mini --model resnet8_fast_half --epochs 1 --out run --quiet

.venv/demo-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing resnets with its charts into .venv (torch is large: a minute or more)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[report]'
	touch $@

.venv/dev-installed: pyproject.toml .venv/demo-installed
	@echo "installing the extras and the developers' tools into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.venv/fuzz-installed: pyproject.toml .venv/dev-installed
	@echo "installing the fuzzer into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

.venv/docs-installed: pyproject.toml .venv/demo-installed
	@echo "installing what builds the site into .venv"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist docs/_build
