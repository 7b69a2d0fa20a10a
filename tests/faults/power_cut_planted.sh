#!/bin/bash
# Proves that the power-cut tests see: a binary that never syncs must fail each, for that reason.
#
# The binary is built into a folder of its own, which begins with hard links to what is compiled
# already, so that only the crates of this workspace are compiled again. RocksDB is not.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
planted=$target/planted-no-fsync
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$(id -u)" != 0 ]; then
    echo "skipped: loop devices need root"
    exit 0
fi
if [ ! -d "$planted/release/.fingerprint" ] && [ -d "$target/release/.fingerprint" ]; then
    rm -rf "$planted"
    mkdir -p "$planted/release"
    for part in .fingerprint build deps; do
        cp -al "$target/release/$part" "$planted/release/$part"
    done
fi

echo "== a binary without fsync"
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/faults/plant_no_fsync.sh CARGO_TARGET_DIR=$planted \
    cargo build --release --workspace --bin hufu --test tidy 2>&1 | tee "$log" | tail -n 3
if grep -q 'Compiling librocksdb-sys' "$log"; then
    echo "note: RocksDB was compiled again; run \`make build\` first to avoid that"
fi

for test in power_cut::receipts_survive_power_cuts_under_load \
    four_power::receipts_survive_a_power_cut_of_all_four_and_the_loss_of_one_disk; do
    echo "== on it, $test, which must fail"
    if HUFU_BINARY=$planted/release/hufu cargo test --release --workspace --test cluster -- \
        --exact "$test" --nocapture >"$log" 2>&1; then
        tail -n 20 "$log"
        echo "FAILED: the test passes without a single fsync, so it proves nothing"
        exit 1
    fi
    if ! grep 'NOT DURABLE' "$log"; then
        tail -n 60 "$log"
        echo "FAILED: the test fails, but not because something acknowledged was lost"
        exit 1
    fi
done
echo "passed: the power-cut tests find the missing fsync"
