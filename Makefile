# Millrace: the two commands are `make demo` and `make test`.
SHELL := /bin/bash
PACKAGES := build-essential clang llvm libelf-dev zlib1g-dev pkg-config git python3-venv python3-pip cmake redis-server beanstalkd postgresql nats-server qemu-system-x86 busybox-static e2fsprogs iproute2
export RUST_LIB_BACKTRACE := 0

.PHONY: help setup build test soak vm lint bench bench-smoke demo fuzz-smoke clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what the build needs: Debian packages and the wasm target
	@missing=""; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "missing packages:$$missing; run as root: apt-get install$$missing" >&2; exit 1; fi; fi
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1

build: setup ## Build the millrace binary, optimised: target/release/millrace
	cargo build --release -p millrace

test: setup ## Everything CI runs: format, tests, smoke runs of fuzz targets and benches
	cargo fmt --all --check
	cargo test --workspace --no-fail-fast
	tests/fuzz/smoke 5

soak: setup ## 200 kills of a real node under load, held to a ledger outside of it; some minutes, and a seed
	cargo test -p tests --test crash -- --ignored --exact soak --nocapture

vm: setup ## The attack suite on true cgroup v2, in a small VM; as root, some twenty minutes
	tests/vm/attacks

fuzz-smoke: ## Each fuzz target for half a minute, and a planted bug that must be found
	tests/fuzz/smoke 30

lint: setup ## clippy, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

demo: build ## Replay eight real hours in a minute, with two kills, and report
	tools/demo/run

bench: setup ## Every figure with bar, aim, floor and rival; writes target/bench/report.json
	cargo build --release -p millrace -p benches
	target/release/bench

clean: ## Remove everything built
	cargo clean
