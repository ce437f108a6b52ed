# A newcomer's commands; `just` lists them.

default:
    @just --list

# Build everything.
build:
    cargo build --workspace --all-targets

# The main job on the sample, with a cluster inside the command.
run *ARGS:
    cargo run -- run jobs/workloads.sql {{ARGS}}

# All tests, with everything they need.
test *ARGS:
    tests/run {{ARGS}}

# The unit tests of one crate, such as `just unit udfs`. covey-cli is named so that dependencies keep their features.
unit CRATE:
    cargo test -p covey-{{CRATE}} -p covey-cli --lib

# Formatting and lints, as CI checks them.
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings

# A scheduler and three executors on this machine, until Ctrl-C.
cluster:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --workspace
    trap 'kill 0' EXIT
    target/debug/covey-scheduler &
    for _ in 1 2 3; do target/debug/covey-executor --vcores 1 & done
    wait

# The main job beside pandas and scikit-learn: same data, same options, answers compared.
bench:
    benchmarks/run workloads
