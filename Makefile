PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLASK := $(BIN)/flask --app example_app
STAMP := $(VENV)/.installed
VERSIONS := 3.10 3.11 3.12 3.13
PIP := -m pip install -qq --disable-pip-version-check
# Tests wait for servers, locks and processes half of the time, so four workers keep two cores busy.
WORKERS := 4
BENCH_OPTIONS = $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo demo-stop test coverage test-all chaos bench bench-large figures docs pictures check format clean

# Print a command, then run it, so that a reader can type the same.
run = @printf '\n$$ %s\n' '$(1)'; $(1)

help: ## Show these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf 'make %-11s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## Make .venv with all that development needs

$(STAMP): pyproject.toml setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is older than Python 3.10. Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Migrate the airports of the world, up and down
	$(call run,$(BIN)/python -m example_app.embedded start)
	$(call run,$(FLASK) load-airports)
	$(call run,$(FLASK) db-migrate status)
	$(call run,$(FLASK) db-migrate up)
	$(call run,$(FLASK) db-migrate status)
	$(call run,$(FLASK) db-migrate down)
	$(call run,$(FLASK) db-migrate history)
	$(call run,$(FLASK) db-migrate up)
	@printf '\nEverything is applied. To see it in a browser, start the application with a token that is new each time:\n\n'
	@printf '  MIGRATE_API_TOKEN=%s $(FLASK) run\n' "$$($(BIN)/python -c 'import secrets; print(secrets.token_hex(16))')"
	@printf '\nThen open http://127.0.0.1:5000/api/migrations/ and log in with it. Only this machine can reach it. Or try:\n\n'
	@printf '  %s\n' \
		"$(FLASK) run                     # then open http://127.0.0.1:5000/airports/FRA" \
		"$(FLASK) db-migrate history --events" \
		"$(FLASK) db-migrate down --steps 2 --dry-run" \
		"$(FLASK) db-migrate create \"my first migration\"" \
		"$(FLASK) db-migrate --help" \
		"make demo-stop                   # stops the server, keeps its data"

demo-stop: ## Stop the demo's server; its data stays
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m example_app.embedded stop; else echo "Nothing to do: there is no $(VENV)."; fi

test: $(STAMP) ## Run all tests, on a real server over a socket
	$(BIN)/pytest -n $(WORKERS)

coverage: $(STAMP) ## Run all tests and show the lines that they miss
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report=term

# The oldest and the newest Python run everything, because the language and its library differ most there.
# The versions between them run the tests that need no fault, race or kill.
test-all: ## Run the tests on every Python from 3.10 to 3.13 that is installed: TESTED=3.11 leaves it out
	@set --; missing=; failed=; \
	for version in $(filter-out $(TESTED),$(VERSIONS)); do \
		on_path=$$(PYENV_VERSION= command -v "python$$version" || true); \
		for python in "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python "$$on_path" ""; do \
			[ -n "$$python" ] || { missing="$$missing $$version"; break; }; \
			"$$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$version'")' 2>/dev/null || continue; \
			set -- "$$@" "$$version=$$python"; break; \
		done; \
	done; \
	[ -z "$$missing" ] || echo "Not installed, so not tested: Python$$missing"; \
	[ $$# -ge $(if $(TESTED),1,2) ] || { echo "At least two of Python $(VERSIONS) are needed. Install another one, for instance with pyenv." >&2; exit 1; }; \
	number=0; \
	for found; do \
		number=$$((number + 1)); tests="tests/unit tests/interfaces"; \
		if [ $$number = 1 ] || [ $$number = $$# ]; then tests="tests example_app/tests"; fi; \
		$(MAKE) --no-print-directory test-version VERSION="$${found%%=*}" INTERPRETER="$${found#*=}" TESTS="$$tests" || failed="$$failed $${found%%=*}"; \
	done; \
	[ -z "$$failed" ] || { echo "Failed on Python$$failed" >&2; exit 1; }

.PHONY: test-version
test-version: $(VENV)-$(VERSION)/.installed
	@printf '\nPython %s: %s\n' '$(VERSION)' '$(TESTS)'
	$(VENV)-$(VERSION)/bin/pytest -n $(WORKERS) -q $(TESTS)

$(VENV)-$(VERSION)/.installed: pyproject.toml setup.cfg
	@echo "Installing into $(@D) ..."
	@$(INTERPRETER) -m venv $(@D)
	@$(@D)/bin/python $(PIP) --editable '.[own-tests]'
	@touch $@

chaos: $(STAMP) ## Run the long rounds of races, kills and faults
	CHAOS=full $(BIN)/pytest tests/chaos -m chaos -s -p no:xdist

bench: $(STAMP) ## Measure this package beside others: ONLY=status,up QUICK=1
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)
ifeq ($(ONLY)$(QUICK),)
	$(BIN)/python benchmarks/lint.py
	$(BIN)/python benchmarks/estimate.py 1
	$(BIN)/python benchmarks/memory.py 200000
endif

bench-large: $(STAMP) ## Backfill 200,000 documents, and a million to measure memory
	$(BIN)/python -m benchmarks --large --only backfill
	$(BIN)/python benchmarks/memory.py

figures: $(STAMP) ## Count lines, functions, imports and calls: AGAINST=../other-checkout
	@$(BIN)/python benchmarks/figures.py $(if $(AGAINST),--package $(AGAINST)) --package .

docs: $(STAMP) ## Build the documentation; every warning, as of a broken link, is an error
	$(BIN)/sphinx-build -q -W --keep-going -n -b html docs build/docs
	@echo "Open build/docs/index.html"

pictures: $(STAMP) ## Draw docs/pictures: what the demo prints, and the dashboard
	@$(BIN)/python benchmarks/pictures.py
	@$(BIN)/python benchmarks/dashboard_pictures.py

check: $(STAMP) ## Check format, lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: demo-stop ## Delete environments, caches and the demo's data
	rm -rf $(VENV) $(VENV)-3.* .bench .mongo-data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -rf .hypothesis .coverage .coverage.* htmlcov build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
