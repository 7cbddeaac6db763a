# The daily verbs. `just` alone lists them.
default:
    @just --list

# Format and lints, as the gate has them
check:
    cargo fmt --all --check
    cargo clippy --locked --all-targets -- -D warnings

# Everything there is to test
test *args:
    tests/run {{args}}

# Figures beside buildah
bench:
    benches/compare

# Small things every build does
bench-micro:
    cargo bench --bench micro

# All scenarios beside the peers that are installed and beside limit programs
bench-suite *args:
    benches/suite {{args}}

# What a step costs in each mode, and how cost grows
bench-modes:
    benches/modes
    benches/growth

# Throughput of layers, and COPY of 20,000 files beside tar and a compressor
bench-layers:
    cargo bench --bench layers
    benches/copy-20k

# Fuzz one target for a minute: dockerfile, words, layer, image, record, ignore, answer or source
fuzz target="dockerfile":
    cargo +nightly fuzz run {{target}} -- -max_total_time=60

# Build the static binary and the example image
demo:
    examples/hello/run
