# Two commands are all the set-up there is: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := $(shell find plugin producers consumers feature_repo -type f -not -path '*/data/*' -not -name '*.pyc')

.PHONY: demo test dev lint constraints clean

demo: .venv/demo.done
	$(BIN)/provender demo

test: .venv/test.done lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p provender.plugin -p provender.producers -p provender.consumers
	$(BIN)/mypy tests
	$(BIN)/lint-imports

# The libraries first, as a layer of their own: they change less often than the sources do.
.venv/libraries.done: setup.cfg constraints.txt pyproject.toml
	@echo "Installing the libraries into .venv: two minutes, more on a slow line."
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch==2.13.0 setuptools
	touch $@

# A plain install, so that what is tried is the wheel and not the checkout.
.venv/demo.done: .venv/libraries.done $(SOURCES)
	$(PIP) install -c constraints.txt --no-build-isolation .
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	touch $@

.venv/test.done: .venv/libraries.done $(SOURCES)
	$(PIP) install -c constraints.txt --no-build-isolation '.[test]'
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	touch $@

# For work on the sources: edits are live, a new file needs `make dev` again.
dev: .venv/libraries.done
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[test]' -C editable_mode=strict

clean:
	rm -rf .venv build demo *.egg-info
