# `make dev` starts the whole embedded platform, `make test` proves it. `make help` lists the rest.
VENV := .venv
BIN  := $(VENV)/bin
# The first interpreter whose version the platform supports.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; print("$(p)" if (3, 11) <= sys.version_info < (3, 14) else "")' 2>/dev/null)) python3)
UV_COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--strip-extras --no-annotate --custom-compile-command "make lock" --quiet
# A test file stays in one process, because its fixtures are expensive: a server, an emulator, a built project.
# Two cores are busy with three processes: each waits for servers and kills a quarter of its time.
TEST_JOBS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
# More options for pytest, as in: make test PYTEST_ARGS="-k rules"
PYTEST_ARGS ?=

.DELETE_ON_ERROR:

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/installed  ## install everything into .venv
	@# Does nothing while dbt's manifest is up to date.
	@$(BIN)/python -m ecommersss_platform.dbt
	@# So that `dagster dev` and its like find the platform's home.
	@test -e .env || cp .env.example .env
	@$(BIN)/ecommersss env >/dev/null

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: dev
dev: setup  ## start the whole platform and print the address of its UI; Ctrl-C stops it
	@$(BIN)/ecommersss up

.PHONY: demo
demo: setup  ## process a week of orders from the stream to the marts, without a UI
	@$(BIN)/ecommersss demo

# mypy runs beside the tests: on a fresh clone it alone keeps a core busy for half a minute.
.PHONY: check
check: style  ## lint, types and the tests that need no server: under 90 seconds
	@$(MAKE) --no-print-directory --jobs 2 types pure-tests

.PHONY: test
test: style  ## all that CI runs: lint, types and every test but the long ones
	@$(MAKE) --no-print-directory --jobs 2 types tests

.PHONY: pure-tests
pure-tests: setup  ## the tests of `make check` alone
	@$(PYTEST) -m "not (integration or faults or ui or bigquery or pubsub or long)" $(PYTEST_ARGS)

.PHONY: tests
tests: setup  ## the tests of `make test` alone
	@$(PYTEST) $(PYTEST_ARGS)

.PHONY: faults
faults: setup  ## the long tests: 200 kills at random points, Superstore in full, the emulators' long runs
	@ECOMMERSSS_FAULT_RUNS=200 $(BIN)/python -m pytest -m "faults or long" --timeout 10800 --verbose $(PYTEST_ARGS)

.PHONY: lint
lint: style types  ## check style and types with ruff and mypy

# ruff and mypy need no manifest of dbt: it is parsed beside mypy.
.PHONY: style
style: $(VENV)/installed  ## check style with ruff
	@echo "ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "ruff format --check"
	@$(BIN)/ruff format --quiet --check --diff .

.PHONY: types
types: $(VENV)/installed  ## check types with mypy
	@echo "mypy"
	@$(BIN)/mypy

.PHONY: lint-sql
lint-sql: setup  ## check the style of the models' SQL with sqlfluff, as DuckDB gets it; with FIX=1 rewrite it
	@# In memory: the warehouse is neither opened nor waited for.
	@ECOMMERSSS_WAREHOUSE=duckdb ECOMMERSSS_DUCKDB_PATH=:memory: DBT_TARGET_PATH=$(CURDIR)/build/sqlfluff \
		$(BIN)/sqlfluff $(if $(FIX),fix,lint) --disable-progress-bar dbt_project/models

.PHONY: format
format: setup  ## format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

DOCS := $(CURDIR)/build/docs

.PHONY: docs
docs: setup  ## build dbt's documentation of the models into build/docs, as one page that needs no server
	@mkdir -p $(DOCS)
	@# An empty DuckDB file of its own: the warehouse is neither opened nor waited for.
	@ECOMMERSSS_DUCKDB_PATH=$(DOCS)/warehouse.duckdb DBT_SEND_ANONYMOUS_USAGE_STATS=false \
		$(BIN)/dbt --quiet docs generate --static --empty-catalog --target duckdb --target-path $(DOCS) \
		--log-path $(DOCS) --project-dir dbt_project --profiles-dir dbt_project
	@rm -f $(DOCS)/warehouse.duckdb*
	@echo "file://$(DOCS)/static_index.html"

.PHONY: screenshots
screenshots: setup  ## take the screenshots of README again: make screenshots UI='http://127.0.0.1:3000/?token=...'
	@$(BIN)/python docs/images/screenshots.py '$(UI)'

.PHONY: smoke-bigquery
smoke-bigquery: setup  ## try the project in ECOMMERSSS_BIGQUERY_PROJECT; with DRY=1 print the requests only
	@ECOMMERSSS_SMOKE_BIGQUERY=$(if $(DRY),dry,real) $(BIN)/python -m pytest -m bigquery $(PYTEST_ARGS) \
		ecommersss_platform_tests/platform/warehouse/bigquery/test_smoke.py

.PHONY: bench
bench: setup  ## run the benchmarks; results go to benchmarks/results/
	@$(BIN)/python -m benchmarks

.PHONY: lock
lock: $(VENV)/installed  ## pin the newest versions that pyproject.toml allows
	$(UV_COMPILE) --upgrade --output-file requirements/base.txt pyproject.toml
	$(UV_COMPILE) --upgrade --extra dev --constraint requirements/base.txt --output-file requirements/dev.txt pyproject.toml
	$(UV_COMPILE) --upgrade --constraint requirements/base.txt --output-file benchmarks/peers.txt benchmarks/peers.in

.PHONY: clean
clean:  ## remove what make created; the platform's state in .ecommersss stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		dbt_project/target dbt_project/logs
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
