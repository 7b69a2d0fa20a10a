#!/bin/bash
# Stands between cargo and rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): compiles
# in every bug that the simulator must find. Each has a cfg of its own; "by_choice" makes the
# environment variable HUFU_PLANTED_BUG name the one that a run has, so that one build serves all.
source "$(dirname "${BASH_SOURCE[0]}")/planted_bugs.sh"
flags=(--cfg 'hufu_planted_bug="by_choice"')
for bug in "${PLANTED_BUGS[@]}"; do
    flags+=(--cfg "hufu_planted_bug=\"$bug\"")
done
exec "$@" "${flags[@]}"
