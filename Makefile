PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLASK := $(BIN)/flask --app example_app
STAMP := $(VENV)/.installed
VERSIONS := 3.10 3.11 3.12 3.13
PIP := -m pip install -qq --disable-pip-version-check
BENCH_OPTIONS = $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(WRITE),--write)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo demo-stop test test-all chaos bench bench-large check format clean

# Prints a command, then runs it, so that what is seen can be typed.
run = @printf '\n$$ %s\n' '$(1)'; $(1)

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r what why; do printf 'make %-11s %s\n' "$$what" "$$why"; done

install: $(STAMP) ## Make .venv with everything in it

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
	@printf '\nEverything is applied. Go on with:\n\n'
	@printf '  %s\n' \
		"$(FLASK) run                     # then open http://127.0.0.1:5000/airports/FRA" \
		"$(FLASK) db-migrate history --events" \
		"$(FLASK) db-migrate down --steps 2 --dry-run" \
		"$(FLASK) db-migrate create \"my first migration\"" \
		"$(FLASK) db-migrate --help" \
		"make demo-stop                   # ends the server, keeps its data"

demo-stop: ## End the demo's server; its data stays
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m example_app.embedded stop; else echo "Nothing to do: there is no $(VENV)."; fi

test: $(STAMP) ## Run all tests on a real server, as CI does
	$(BIN)/pytest -n 2 --cov --cov-report=term

test-all: ## Run unit and door tests on every Python from 3.10 to 3.13 that is installed
	@found=0; lacking=; failed=; \
	for version in $(VERSIONS); do \
		python=$$(PYENV_VERSION= command -v "python$$version" || true); \
		for candidate in "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python "$$python"; do \
			"$$candidate" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$version'")' 2>/dev/null || continue; \
			$(MAKE) --no-print-directory test-version VERSION=$$version INTERPRETER="$$candidate" || failed="$$failed $$version"; \
			found=$$((found + 1)); continue 2; \
		done; \
		lacking="$$lacking $$version"; \
	done; \
	[ -z "$$lacking" ] || echo "Not installed, so not tested: Python$$lacking"; \
	[ -z "$$failed" ] || { echo "Failed on Python$$failed" >&2; exit 1; }; \
	[ $$found -ge 2 ] || { echo "At least two of Python $(VERSIONS) are needed. Install another one, for instance with pyenv." >&2; exit 1; }

.PHONY: test-version
test-version: $(VENV)-$(VERSION)/.installed
	@printf '\nPython %s\n' '$(VERSION)'
	$(VENV)-$(VERSION)/bin/pytest -n 2 -q tests/unit tests/interfaces

$(VENV)-$(VERSION)/.installed: pyproject.toml setup.cfg
	@echo "Installing into $(@D) ..."
	@$(INTERPRETER) -m venv $(@D)
	@$(@D)/bin/python $(PIP) --editable '.[test]'
	@touch $@

chaos: $(STAMP) ## Run the long rounds of races, kills and faults
	CHAOS=full $(BIN)/pytest tests/chaos -m chaos -s -p no:xdist

bench: $(STAMP) ## Measure ourselves beside others: ONLY=status,up QUICK=1 WRITE=1
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

bench-large: $(STAMP) ## The same with 200,000 documents, and a million for memory
	$(BIN)/python -m benchmarks --large $(BENCH_OPTIONS)

check: $(STAMP) ## Check format, lint, types and floors
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: demo-stop ## Delete environments, caches and the demo's data
	rm -rf $(VENV) $(VENV)-3.* .bench .mongo-data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -rf .hypothesis .coverage .coverage.* htmlcov build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
