# The commands a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo/flights

.PHONY: help demo test soak bench lint format lock services clean

help:
	@echo "make demo   the whole loop on real data (about 10 minutes)"
	@echo "make test   the test suite (at most 15 minutes)"
	@echo "make soak   the long tests: hundreds of kills, long fuzzing, large simulations"
	@echo "make bench  the benchmarks, side by side with their peers; make bench NAME=features runs one"
	@echo "make lint   ruff, mypy, import contracts"
	@echo "make lock   write the pinned locks anew"

# One virtual environment, from the lock: names, versions and hashes. The project itself goes in without dependencies.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The demo's data: read from the package's own CSV files, so its old dependencies stay out.
$(VENV)/.data: $(VENV)/.installed examples/flights/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes -r examples/flights/requirements.lock
	touch $@

demo: $(VENV)/.data
	$(BIN)/python examples/flights/demo.py $(DEMO)

test: $(VENV)/.data
	$(BIN)/python scripts/services.py
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak" $(ARGS)

soak: $(VENV)/.data
	$(BIN)/python scripts/services.py
	$(BIN)/python -m pytest -m soak --timeout 7200 $(ARGS)

bench: $(VENV)/.data
	$(BIN)/python -m benchmarks $(or $(NAME),all)

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --all-extras pyproject.toml --group dev -o requirements-dev.lock

clean:
	rm -rf .demo .cache build dist
