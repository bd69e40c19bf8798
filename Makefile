# Needs only make and Python 3.11 or newer; `make help` lists the targets.

PYTHON3 ?= python3
VENV ?= .venv
ARGS ?=
MINUTES ?= 10
# One more than there are processors: tests also wait, for processes and for deadlines.
TESTERS ?= $(shell $(PYTHON3) -c 'import os; print(os.cpu_count() + 1)')

PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
BENCH := $(VENV)/.bench
DOCS := $(VENV)/.docs
MERMAID := mermaid@11.17.2
LOAD ?= unary
IMAGE := build/protos.binpb
RELEASED := protos/released.binpb.gz

.DEFAULT_GOAL := help
.PHONY: help setup serve test torture check promtool format generate fresh released bench bench-full profile load smoke docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment with all packages

# Runs again only if a package list has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "holdsvc needs Python 3.11 or newer and '$(PYTHON3)' is not: name another, as in 'make PYTHON3=python3.12 $(MAKECMDGOALS)'." >&2; exit 1; }
	@$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON3)' cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Setting up $(VENV); this takes a minute or two, once."
	@$(PYTHON3) -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[server,cli,otel,relay,dev]'
	@touch $@

serve: $(READY) ## Run the service; settings come from HOLDSVC_* (unless set: AUTH is off, HTTP on 127.0.0.1:8080)
	@HOLDSVC_AUTH="$${HOLDSVC_AUTH:-off}" HOLDSVC_HTTP_LISTEN="$${HOLDSVC_HTTP_LISTEN-127.0.0.1:8080}" exec $(VENV)/bin/holdsvc serve $(ARGS)

test: fresh ## Run all tests, several at once (ARGS="-k name" for some)
	$(PYTHON) -m pytest --numprocesses=$(TESTERS) --dist=worksteal $(ARGS)

torture: fresh ## Run the model and fault tests for long (MINUTES=10)
	$(PYTHON) scripts/torture.py --minutes $(MINUTES)

check: fresh ## Lint, types, protos, deploy/: all checks except the tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/buf lint $(IMAGE) --config protos/buf.yaml
	$(VENV)/bin/buf format --diff --exit-code protos --exclude-path protos/buf --exclude-path protos/google
	$(VENV)/bin/buf breaking $(IMAGE) --against $(RELEASED) --config protos/buf.yaml
	$(PYTHON) scripts/check_deploy.py

promtool: build/promtool ## Fetch promtool, which tests the alerts (Debian, Ubuntu)

build/promtool:
	@mkdir -p build/prometheus
	cd build/prometheus && apt-get download -qq prometheus && dpkg -x prometheus_*.deb .
	@cp build/prometheus/usr/bin/promtool $@ && rm -r build/prometheus

format: $(READY) ## Format Python and protos, apply ruff's fixes
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .
	$(VENV)/bin/buf format --write protos --exclude-path protos/buf --exclude-path protos/google

generate: $(READY) ## Generate the stubs, the description of HTTP, and the pages of docs/reference/
	@PATH="$(abspath $(VENV)/bin):$$PATH" $(PYTHON) scripts/generate.py
	@$(PYTHON) scripts/generate_client.py
	@$(PYTHON) scripts/openapi.py
	@$(PYTHON) scripts/reference.py

# Fails if the committed stubs are not those of the protos. Leaves the image that buf reads.
fresh: $(READY)
	@mkdir -p build
	@PATH="$(abspath $(VENV)/bin):$$PATH" $(PYTHON) scripts/generate.py --out build/generated --image $(IMAGE) > build/generate.log 2>&1 || { cat build/generate.log >&2; exit 1; }
	@diff -r -x __pycache__ generated build/generated || { echo "generated/ is stale: run 'make generate' and commit it." >&2; exit 1; }
	@$(PYTHON) scripts/generate_client.py --check
	@$(PYTHON) scripts/openapi.py --check

released: fresh ## At a release: renew what the next protos and schema are compared with
	$(VENV)/bin/buf build $(IMAGE) --path inventoryhold --exclude-imports --exclude-source-info -o $(RELEASED)
	$(PYTHON) scripts/released_schema.py

bench: $(BENCH) ## Measure the service and its rivals on this machine, under 10 minutes
	$(PYTHON) loadtest/bench.py $(ARGS)

bench-full: $(BENCH) ## Measure with 5 million reservations and longer runs
	$(PYTHON) loadtest/bench.py --full $(ARGS)

profile: $(BENCH) ## Profile a worker under load (LOAD=unary, refused, shared, batch, uniform)
	$(PYTHON) loadtest/bench.py --profile $(LOAD) --seconds 20 $(ARGS)

$(BENCH): $(READY)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[server,otel,dev,bench]'
	@touch $@

load: $(READY) ## Put load on a running service and check every promise
	$(PYTHON) loadtest/run.py $(ARGS)

smoke: $(READY) ## Run the quick start against a running service and check each answer
	$(PYTHON) loadtest/smoke.py $(ARGS)

docs: $(DOCS) fresh ## Build the documentation as a site in build/site
	@[ -e build/mermaid.min.js ] || ! command -v npm >/dev/null || { cd build && npm pack --silent $(MERMAID) >/dev/null \
	    && tar xzf mermaid-*.tgz --strip-components=2 package/dist/mermaid.min.js && rm mermaid-*.tgz; }
	@$(PYTHON) -m scripts.site_pages

$(DOCS): $(READY)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[server,cli,otel,relay,dev,docs]'
	@touch $@

clean: ## Remove everything that make made, except data/
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
