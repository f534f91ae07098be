# install  make .venv with everything the tests need    check  format, lint, types, layers
# serve    train the missing examples, start the server  test   check, then the tests (what CI runs)
# test-clients  ask a server with clients that need environments of their own, in .venv-clients
# docs     build the site into build/site, strictly     bench  uncertainty, speed and memory, as tables
# clean    remove what make made, but never your bundles

PYTHON ?= python3
# torch comes alone and first, from here: a bare install brings gigabytes of CUDA libraries.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
INSTALLED := .venv/.installed
EXAMPLES := digits diabetes
MISSING := $(foreach name,$(EXAMPLES),$(if $(wildcard bundles/$(name)/[0-9]*/manifest.json),,$(name)))
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

CLIENTS := kserve mlserver web

.PHONY: install serve check docs test test-clients bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("mcdrop needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(PIP) --retries 2 --timeout 30 --no-deps --extra-index-url $(TORCH_INDEX) torch
	$(PIP) -e '.[dev]'
	@touch $@

serve: install $(MISSING:%=train-%)
	@exec $(BIN)/mcdrop serve --bundles bundles

train-%: install
	$(BIN)/mcdrop train $* --bundles bundles

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry dropout_core models service
	$(BIN)/pydoclint --quiet dropout_core models service
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs dropout_core models service tests benchmarks examples

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

test: check docs
	$(BIN)/pytest -n 2 --dist loadfile --durations 10

test-clients: install $(CLIENTS:%=.venv-clients/%/.installed)
	$(BIN)/python -m tests.clients.run .venv-clients

.venv-clients/%/.installed: tests/clients/%.txt
	$(PYTHON) -m venv .venv-clients/$*
	.venv-clients/$*/bin/python -m pip install -q --disable-pip-version-check --retries 2 --timeout 30 -r $<
	@touch $@

.venv-clients/web/.installed: tests/clients/web/package.json tests/clients/web/package-lock.json
	@command -v npm >/dev/null || { echo "the client of exported files in a browser needs Node 20 or newer with npm; install it" >&2; exit 1; }
	@mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund
	@touch $@

bench: install $(MISSING:%=train-%)
	$(BIN)/python benchmarks/uncertainty.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/memory.py

clean:
	rm -rf .venv .venv-clients build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find dropout_core models service tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
