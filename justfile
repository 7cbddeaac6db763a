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

# Fuzz one target for a minute: dockerfile, words, layer, image, record, ignore, answer or source
fuzz target="dockerfile":
    cargo +nightly fuzz run {{target}} -- -max_total_time=60

# Build the static binary and the example image
demo:
    examples/hello/run
