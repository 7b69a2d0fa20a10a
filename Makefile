# The targets people type; `make help` lists them.
#
# One profile and one selection of packages everywhere: every cargo command below is `--release --workspace`
# with at least one test target among what it builds. Then features are unified the same way each time, the
# crates compiled by one target serve all others, and RocksDB (twenty minutes on two cores) is built once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help deps build demo check test power-cut power-cut-planted simulation simulation-planted bench bench-baselines soak soak-outside soak-trading fuzz fmt clean

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR

HUFU := $(CARGO_TARGET_DIR)/release/hufu
ALL := --release --workspace
# `--test tidy` brings the development dependencies into the resolution, as every test and lint run does.
BINARIES := $(ALL) --lib --bins --test tidy

REPLAY ?= ../shared/data/aapl_2012-06-21_message_50.csv.gz
DEMO_INPUT := $(if $(wildcard $(REPLAY)),--replay $(REPLAY))
SOAK_HOURS ?= 10
SOAK_MINUTES ?=
SOAK_STATE ?= $(CARGO_TARGET_DIR)/soak.state
SOAK_TIME := $(if $(SOAK_MINUTES),--minutes $(SOAK_MINUTES))
SOAK := $(CARGO_TARGET_DIR)/release/hufu-soak
# A workspace of its own, which neither CI nor any other target builds.
BASELINES_DIR := $(CARGO_TARGET_DIR)/baselines
BASELINES := CARGO_TARGET_DIR=$(BASELINES_DIR) cargo build --release --locked --manifest-path bench/baselines/Cargo.toml
BASELINES_BINARY := $(BASELINES_DIR)/release/hufu-baselines
BASELINES_ARGS ?=
FUZZ_FACTOR ?= 200
POWER_CUTS ?= 20
KILLS ?= 100
SEEDS ?= 0..10000
BENCH_RATE ?= 800
OUTAGE := --events $$(($(BENCH_RATE) * 45)) --rate $(BENCH_RATE) --kill-after 15 --restart-after 15 --strength committed --no-receipts

heading = @printf '\n== %s\n' "$(1)"

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

deps: ## install the missing Debian packages for building and testing
	@.ci/deps build test

build: ## compile the binary `hufu`
	@.ci/deps build
	$(call heading,build: $(HUFU))
	cargo build $(BINARIES)

demo: build ## four validators settle a trading hour: the real one if its file is there, else a synthetic one
	$(call heading,demo: hufu localnet run $(DEMO_INPUT))
	$(HUFU) localnet run $(DEMO_INPUT)

check: ## format, lints, repository rules, unit tests
	@.ci/deps build
	$(call heading,check 1/4: format)
	cargo fmt --all --check
	$(call heading,check 2/4: repository rules)
	cargo test $(ALL) --quiet --test tidy
	$(call heading,check 3/4: lints)
	cargo clippy $(ALL) --all-targets -- -D warnings
	$(call heading,check 4/4: unit tests)
	cargo test $(ALL) --quiet --lib --no-fail-fast

test: deps ## check, then conformance, properties, real processes, kill and power-cut tests, documentation
	$(call heading,test 1/4: format and then compile everything)
	cargo fmt --all --check
	cargo build $(ALL) --all-targets
	$(call heading,test 2/4: make check)
	@$(MAKE) --no-print-directory check
	$(call heading,test 3/4: conformance and properties and real processes and faults)
	cargo test $(ALL) --bins --test '*' --no-fail-fast
	$(call heading,test 4/4: examples in the documentation)
	cargo test $(ALL) --quiet --doc
	$(call heading,test: all passed)

power-cut: deps build ## POWER_CUTS (20) power cuts and KILLS (100) kill -9 under load (root only: loop devices)
	$(call heading,power-cut: $(POWER_CUTS) cuts and $(KILLS) kills)
	HUFU_CUTS=$(POWER_CUTS) HUFU_KILLS=$(KILLS) cargo test $(ALL) --test cluster -- --nocapture \
		receipts_survive_power_cuts_under_load receipts_survive_kills_under_load

power-cut-planted: deps ## prove that the power-cut tests see: a binary without fsync must fail them (root only)
	$(call heading,power-cut-planted: the same tests on a binary that never syncs)
	tests/faults/power_cut_planted.sh

simulation: deps ## run the simulator over SEEDS (0..10000) and print those that break a rule
	@.ci/deps build
	$(call heading,simulation: seeds $(SEEDS))
	cargo build $(ALL) --bin hufu-simulation --test tidy
	$(CARGO_TARGET_DIR)/release/hufu-simulation run --seeds $(SEEDS)

simulation-planted: deps ## prove that the simulator sees: each planted bug must be caught within a minute
	$(call heading,simulation-planted: each bug in turn)
	tests/faults/simulation_planted.sh

bench: build ## criterion benches, the block log against fio, a trading hour at full rate, the loss of a node at BENCH_RATE (800)
	@.ci/deps bench
	$(call heading,bench 1/3: criterion and fio)
	cargo bench --workspace --bench '*'
	$(call heading,bench 2/3: end to end at full rate)
	$(HUFU) localnet run $(DEMO_INPUT) --rate max --strength committed --no-receipts --raw-rate
	$(call heading,bench 3/3: one of four nodes lost at $(BENCH_RATE) transactions/s and back: restarted and wiped)
	$(HUFU) localnet run $(OUTAGE)
	$(HUFU) localnet run $(OUTAGE) --wipe

bench-baselines: ## the kernels beside OpenSSL, RustCrypto, libsm, sm-crypto and efficient-sm2, one core; BASELINES_ARGS (--json)
	@.ci/deps baselines
	$(call heading,bench-baselines: speed table)
	$(BASELINES)
	$(BASELINES_BINARY) bench $(BASELINES_ARGS)

soak: ## kernels against each other and others until SOAK_MINUTES are over, or without end; timing of what is secret; goes on where it stopped
	@.ci/deps build
	$(call heading,soak: back ends against portable; portable against RustCrypto; counts in $(SOAK_STATE))
	cargo build $(ALL) --bin hufu-soak --test tidy
	$(SOAK) timing
	@if ldconfig -p | grep -q 'libcrypto\.so\.3' && [ -e /usr/include/openssl/evp.h ]; \
		then $(MAKE) --no-print-directory soak-outside SOAK_MINUTES=$(or $(SOAK_MINUTES),60); \
		else echo "soak: OpenSSL is skipped: install libssl-dev, or run make soak-outside, which does"; fi
	$(SOAK) compare --state $(SOAK_STATE) $(SOAK_TIME)

soak-outside: ## kernels against OpenSSL and libsm until SOAK_MINUTES are over, or without end
	@.ci/deps baselines
	$(call heading,soak-outside: portable against OpenSSL and libsm; counts in $(SOAK_STATE)-outside)
	$(BASELINES)
	$(BASELINES_BINARY) soak --state $(SOAK_STATE)-outside $(SOAK_TIME)

soak-trading: build ## SOAK_HOURS (10) trading hours one after the other at full rate; fails if anything is lost
	$(call heading,soak-trading: $(SOAK_HOURS) trading hours)
	$(HUFU) localnet run $(DEMO_INPUT) --rate max --hours $(SOAK_HOURS)

fuzz: ## the fuzz targets and property tests with FUZZ_FACTOR (200) times the cases and a fresh seed
	@.ci/deps build
	$(call heading,fuzz: decoders and back ends and property tests times $(FUZZ_FACTOR))
	HUFU_CASES_FACTOR=$(FUZZ_FACTOR) HUFU_SEED=$${HUFU_SEED:-random} \
		cargo test $(ALL) --lib --test properties --no-fail-fast -- --nocapture fuzz_ properties::

fmt: ## format all code
	cargo fmt --all

clean: ## remove what was compiled, RocksDB included
	cargo clean
