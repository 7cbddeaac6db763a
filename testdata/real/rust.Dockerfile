FROM rust:1.80-slim-bookworm AS chef
RUN cargo install cargo-chef --locked
WORKDIR /app

FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS builder
COPY --from=planner /app/recipe.json recipe.json
# Dependencies only: this layer stays until Cargo.lock changes.
RUN cargo chef cook --release --recipe-path recipe.json
COPY . .
RUN cargo build --release --bin service \
 && strip target/release/service \
 && mv target/release/service /usr/local/bin/service

FROM debian:bookworm-slim AS runtime
RUN set -eux; \
    apt-get update; \
    apt-get install -y --no-install-recommends \
        ca-certificates \
        # needed by the database driver
        libpq5 \
        tini \
    ; \
    rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home app
COPY --from=builder --chmod=0755 /usr/local/bin/service /usr/local/bin/
USER app:app
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s --retries=5 \
  CMD ["/usr/local/bin/service", "health"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/service"]
