#!/bin/sh
# Stands between cargo and rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): plants
# the bug that the power-cut test must find. Crates from outside are compiled as always.
exec "$@" --cfg 'hufu_planted_bug="no_fsync"'
