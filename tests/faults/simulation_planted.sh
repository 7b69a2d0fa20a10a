#!/bin/bash
# Proves that the simulator sees: with each planted bug, some seed must break a rule within a minute
# of one core; with none of them the very same binary finds nothing.
#
# The binary is built into a folder of its own, which begins with hard links to what is compiled
# already, so that only the crates of this workspace are compiled again. RocksDB is not.
# HUFU_SIMULATION_PLANTED names one that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/faults/planted_bugs.sh

target=${CARGO_TARGET_DIR:-$PWD/target}
planted=$target/planted-simulation
binary=${HUFU_SIMULATION_PLANTED:-}
log=$(mktemp)
clock=$(mktemp)
trap 'rm -f "$log" "$clock"' EXIT

# Processor time of all children so far, as `times` wrote it to $clock, in milliseconds.
used_millis() {
    awk 'NR == 2 { split($1, part, /[ms]/); printf "%d", (part[1] * 60 + part[2]) * 1000 }' "$clock"
}

if [ -z "$binary" ]; then
    if [ ! -d "$planted/release/.fingerprint" ] && [ -d "$target/release/.fingerprint" ]; then
        rm -rf "$planted"
        mkdir -p "$planted/release"
        for part in .fingerprint build deps; do
            cp -al "$target/release/$part" "$planted/release/$part"
        done
    fi
    echo "== a simulator with ${#PLANTED_BUGS[@]} bugs"
    RUSTC_WORKSPACE_WRAPPER=$PWD/tests/faults/plant_all.sh CARGO_TARGET_DIR=$planted \
        cargo build --release --workspace --bin hufu-simulation --test tidy 2>&1 \
        | tee "$log" | tail -n 3
    if grep -q 'Compiling librocksdb-sys' "$log"; then
        echo "note: RocksDB was compiled again; run \`make build\` first to avoid that"
    fi
    binary=$planted/release/hufu-simulation
fi

echo "== without any bug"
if ! HUFU_PLANTED_BUG=none "$binary" run --seeds 0..40; then
    echo "FAILED: the binary has a bug although none is chosen"
    exit 1
fi
missed=0
times >"$clock"
for bug in "${PLANTED_BUGS[@]}"; do
    # A minute of one core: `ulimit -t` counts what the process used.
    status=0
    before=$(used_millis)
    (ulimit -t 60; HUFU_PLANTED_BUG=$bug exec "$binary" run --seeds 0..1000000 --jobs 1 --first) \
        >"$log" 2>&1 || status=$?
    times >"$clock"
    used=$(($(used_millis) - before))
    if [ "$status" = 1 ] && found=$(grep -m1 '^seed ' "$log"); then
        printf 'caught  %-28s %6d ms of CPU  %s\n' "$bug" "$used" "${found%% \[*}"
    else
        echo "MISSED  $bug (exit $status)"
        missed=$((missed + 1))
    fi
done
if [ "$missed" != 0 ]; then
    echo "FAILED: $missed planted bugs were not caught within a minute of one core"
    exit 1
fi
echo "passed: all ${#PLANTED_BUGS[@]} planted bugs are caught"
