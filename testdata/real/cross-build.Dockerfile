# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM tonistiigi/xx:1.5.0 AS xx

FROM --platform=$BUILDPLATFORM debian:bookworm-slim AS base
COPY --from=xx / /
RUN apt-get update && apt-get install -y clang lld llvm make git file
WORKDIR /work

FROM base AS build
ARG TARGETPLATFORM
ARG TARGETARCH
ARG TARGETVARIANT
RUN xx-apt-get install -y libc6-dev zlib1g-dev
COPY . .
RUN --mount=type=cache,target=/root/.cache,id=cache-$TARGETPLATFORM <<EOT
set -ex
export CC="xx-clang --static"
make -j"$(nproc)" TARGET="${TARGETARCH}${TARGETVARIANT}"
xx-verify --static ./out/tool
EOT

FROM scratch AS binaries-linux
COPY --from=build /work/out/tool /tool-${TARGETARCH}

FROM scratch AS binaries-darwin
COPY --from=build /work/out/tool /tool

FROM binaries-${TARGETOS} AS binaries
