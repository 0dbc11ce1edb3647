# Every target sets up what it needs: a virtual environment in .venv, and the packages.

PYTHON ?= python3
BIN = .venv/bin
DEMO_OUT ?= demo-out

.PHONY: demo test test-alone test-slow test-system check clean

demo: .venv/installed
	$(BIN)/clipline run data/videos data/image_sequence --image-fps 12 -o $(DEMO_OUT) --fresh; \
		code=$$?; test $$code -eq 0 -o $$code -eq 3
	$(BIN)/clipline inspect $(DEMO_OUT)
	@echo "Rows: $(DEMO_OUT)/clips   Page: $(DEMO_OUT)/report.html"

# Two processes, in random order: pytest prints the seed. `make test SEED=1234` repeats an order.
# With one thread for torch, as two processes share the cores.
test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(if $(SEED),--randomly-seed=$(SEED))

# Every test file in a process of its own: none may depend on another one.
test-alone: .venv/installed-test
	$(BIN)/python tests/run_files_alone.py

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

# Needs Chromium: checks the HTML reports in a browser.
test-system: .venv/installed-test
	$(BIN)/python -m pytest -m system

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

.venv/installed-dev: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,dev]"
	@touch $@

clean:
	rm -rf .venv demo-out build *.egg-info
