# syntax=docker/dockerfile:1.7
FROM rust:1.80-bookworm AS chef
RUN cargo install --locked cargo-chef
WORKDIR /work

FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
ARG PROFILE=release
ARG BIN
COPY --from=planner /work/recipe.json .
RUN cargo chef cook --profile "$PROFILE" --recipe-path recipe.json
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/work/target,sharing=locked \
    cargo build --locked --profile "$PROFILE" --bin "$BIN" \
    && install -D "target/$PROFILE/$BIN" /out/app

FROM registry.example.org/distroless/cc:nonroot
LABEL org.opencontainers.image.title="app" \
      org.opencontainers.image.source="https://git.example.org/app"
COPY --link --from=build /out/app /app
ENTRYPOINT ["/app"]
