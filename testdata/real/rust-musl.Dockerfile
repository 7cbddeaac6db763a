FROM --platform=$BUILDPLATFORM rust:1-alpine AS build
RUN apk add --no-cache musl-dev clang lld
ARG TARGETARCH
WORKDIR /src
RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-musl > /target ;; \
      arm64) echo aarch64-unknown-linux-musl > /target ;; \
      # anything else is not built
      *) echo "unsupported: $TARGETARCH" >&2; exit 1 ;; \
    esac && rustup target add "$(cat /target)"
ENV CC_aarch64_unknown_linux_musl=clang \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="-Clink-self-contained=yes -Clinker=rust-lld"
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' > src/main.rs && cargo build --release --target "$(cat /target)" && rm -r src
COPY src src
RUN touch src/main.rs && cargo build --release --target "$(cat /target)" && cp "target/$(cat /target)/release/tool" /tool

FROM scratch
COPY --from=build /tool /
ENTRYPOINT ["/tool"]
