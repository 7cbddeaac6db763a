# syntax=docker/dockerfile:1.7-labs
# check=skip=JSONArgsRecommended,UndefinedVar;error=true
ARG BASE=ubuntu:24.04
ARG REGISTRY

FROM ${REGISTRY:+${REGISTRY}/}${BASE} AS base
ARG DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --network=default --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install -y git openssh-client

FROM base AS source
ADD --keep-git-dir=true https://example.org/project.git#v1.2.3 /src
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.org/a.tar.xz /tmp/
RUN --mount=type=ssh,id=github --mount=type=secret,id=token,env=TOKEN \
    git -C /src submodule update --init

FROM source AS lint
RUN --mount=from=base,source=/usr,target=/mnt/usr,rw make lint

FROM base AS final
COPY --link --from=source --exclude=**/*.md --exclude=docs /src /src
COPY --parents ./a/b/*.txt ./c/ /flat/
LABEL org.opencontainers.image.source=https://example.org/project org.opencontainers.image.revision="${REVISION:-unknown}"
ENV A=1 B='two words' C=three\ words D="say \"hi\""
CMD make -C /src check
