# The ways in. Each target does its own set-up; `make` alone lists them.
# ARGS is handed on: `make demo ARGS="--fresh"`, `make test ARGS="-- guard"`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
ARGS ?=

# Where cargo puts what it builds, wherever the person's settings say that is.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# `exec` leaves no shell between make and the program, so that Ctrl-C and
# `kill` reach it and it can stop in its own order.
.PHONY: demo
demo: ## build, start everything and stay in the foreground (Ctrl-C stops it)
	@set -euo pipefail; \
	echo "demo: looking for a NATS server"; \
	nats=$$(python3 scripts/nats-server); \
	echo "demo: building (the first time takes a few minutes)"; \
	cargo build -p nudge --bin nudge; \
	echo "demo: starting with $$nats"; \
	exec env NATS_SERVER_BIN="$$nats" $(TARGET)/debug/nudge dev $(ARGS)

.PHONY: test
test: ## run all tests, on SQLite and PostgreSQL; the last line is the total
	@exec python3 scripts/run-tests $(ARGS)

# The same tests run in `make test`, where nobody sees what they measure. Here no more of them at a time than
# disturb each other's figures little.
FAULTS := -j 2 --success-output immediate -E 'package(nudge-tests)'
.PHONY: faults
faults: ## break one thing after another, on both databases; the last lines show what each cost
	@set -o pipefail; said=$$(mktemp); trap 'rm -f "$$said"' EXIT; status=0; \
	python3 scripts/run-tests $(FAULTS) -- processes:: faults:: $(ARGS) | tee "$$said" \
	|| status=$$?; \
	echo; grep -o 'figure | .*' "$$said" || true; exit $$status

.PHONY: fault-figures
fault-figures: ## the same, and write what each cost into docs/faults.md
	@exec python3 scripts/fault-figures $(ARGS)

.PHONY: core-mutants
core-mutants: ## change the pure core line by line: its tests must notice (needs cargo-mutants)
	cargo mutants --output $(TARGET) $(ARGS)

.PHONY: fuzz
fuzz: ## feed the decoders generated input: SECONDS=60 for each; ARGS="import" for one of them
	@exec python3 scripts/fuzz --seconds $(or $(SECONDS),60) $(ARGS)

.PHONY: openapi-fuzz
openapi-fuzz: ## send the demo's services and examples/charging valid and invalid requests: SECONDS=30 for each
	cargo build -q -p nudge -p charging --bins
	@exec env NATS_SERVER_BIN="$$(python3 scripts/nats-server)" python3 scripts/openapi-fuzz \
	$(TARGET)/debug/nudge --seconds $(or $(SECONDS),30) $(ARGS)

.PHONY: chaos chaos-postgres
chaos: ## break the demo's programs at random: ARGS="--minutes 2 --seed 7"; the last line is the verdict
chaos-postgres: ## the same with the data on a PostgreSQL server, which is killed and frozen too
chaos-postgres: ON_POSTGRES = --postgres-command "python3 scripts/postgres run"
chaos chaos-postgres:
	@set -euo pipefail; \
	nats=$$(python3 scripts/nats-server); \
	echo "chaos: building (the first time takes a few minutes)"; \
	cargo build -p nudge --bin nudge; \
	exec env NATS_SERVER_BIN="$$nats" $(TARGET)/debug/nudge chaos run $(ON_POSTGRES) $(ARGS)

.PHONY: screenshots
screenshots: ## the picture of the console page in docs/images, taken by its test
	@mkdir -p docs/images; nats=$$(python3 scripts/nats-server); \
	NUDGE_SCREENSHOTS="$(CURDIR)/docs/images" NATS_SERVER_BIN="$$nats" \
	cargo test -q -p nudge --test integration console::page::a_store

.PHONY: simulation-long
simulation-long: ## the simulation with many seeds: SEEDS=100000 of each profile, or SEEDS=100000..200000
	SIMULATION_SEEDS=$(or $(SEEDS),100000) cargo test --release -p nudge-simulation --test integration -- --nocapture things::

.PHONY: mutants
mutants: ## plant faults for the simulation to find; writes docs/kill-matrix.md
	cargo test -p nudge-simulation --features mutants --test mutants

.PHONY: fmt-check
fmt-check: ## check the formatting
	cargo fmt --all --check

.PHONY: clippy
clippy: ## run clippy, also on the planted faults; warnings are errors
	cargo clippy --workspace --all-targets --features nudge-simulation/mutants -- -D warnings

.PHONY: lint
lint: fmt-check clippy ## run fmt-check and clippy

.PHONY: deny
deny: ## check the dependencies: licences, sources, bans, advisories
	@python3 scripts/deny

.PHONY: doc
doc: ## build the API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

.PHONY: times
times: ## measure build and test times: ARGS="demo ci test warm one-line programs", or some of them
	@exec python3 scripts/times $(ARGS)

.PHONY: check
check: ## run everything that CI runs
	@bash .ci/run

.PHONY: clean-demo
clean-demo: ## remove the demo's data (.nudge)
	rm -rf .nudge
