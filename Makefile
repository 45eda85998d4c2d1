# What developers do, by name. `make` alone lists it.
#
# Every target works on a machine that has Rust and apt; what else is needed is installed by
# deploy/install-redis.sh and tests/clients/install.sh, or its absence is said loudly.

CARGO ?= cargo
# Seconds a fuzz target runs.
T ?= 60

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench fuzz tcl fmt install-redis clients

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install-redis ## Build, start a Redis Cluster and Breakwater, take a short tour with redis-cli
	@bash deploy/demo.sh

test: install-redis clients ## Run all tests, against a real redis-server where they need one
	$(CARGO) test --locked

# The tidy rules (tests/it/tidy.rs) are among the tests.
check: lint test ## What must pass before a commit: lint, then test

lint: ## Formatting, Clippy, and what may become a dependency
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null 2>&1; then \
		$(CARGO) deny --locked --offline check --hide-inclusion-graph bans licenses sources; \
	else \
		echo "SKIPPED: cargo-deny is not installed; licences and sources of dependencies were not checked." >&2; \
	fi

bench: install-redis ## Micro-benchmarks, instruction counts, then the end-to-end comparison
	$(CARGO) bench --locked
	$(CARGO) build --locked --release
	python3 benches/load

# Sanitizers need a nightly compiler; without them fuzzing runs on stable. What libFuzzer learns goes to a folder
# that is removed: fuzz/corpus/ holds what people wrote.
fuzz: ## Run every fuzz target for T seconds (make fuzz T=600)
	@command -v cargo-fuzz >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --version 0.13.2 --locked
	@set -e; targets=$$($(CARGO) fuzz list); \
	test -n "$$targets" || { echo "No fuzz targets found." >&2; exit 1; }; \
	grown=$$(mktemp -d); trap 'rm -rf "$$grown"' EXIT; \
	for target in $$targets; do \
		echo "== $$target, $(T) s"; mkdir "$$grown/$$target"; \
		$(CARGO) fuzz run -s none "$$target" "$$grown/$$target" "fuzz/corpus/$$target" -- \
			-dict=fuzz/resp.dict -max_total_time=$(T); \
	done

tcl: install-redis ## Redis's own test-suite, directly and through Breakwater (tests/tcl)
	$(CARGO) build --locked --release
	python3 tests/tcl $(ARGS)

fmt: ## Format the source
	$(CARGO) fmt

install-redis: ## Install redis-server, redis-cli and redis-sentinel where they are missing
	@bash deploy/install-redis.sh

clients: ## Install the client libraries that tests send through Breakwater, below target/clients
	@bash tests/clients/install.sh
