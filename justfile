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
