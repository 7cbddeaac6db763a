# syntax=docker/dockerfile:1
FROM alpine:3.20 AS fetch
ARG TOOL_VERSION=1.2.3
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://downloads.example.org/tool/v${TOOL_VERSION}/tool.tar.gz /tmp/
ADD --chmod=755 https://downloads.example.org/tini /sbin/tini
ADD --keep-git-dir=true https://git.example.org/project.git#v1.0:docs /docs
ADD git@git.example.org:team/private.git /private
ADD --unpack=true https://downloads.example.org/data.tar.zst /data/
RUN tar -xzf /tmp/tool.tar.gz -C /usr/local/bin --strip-components=1
ENTRYPOINT ["/sbin/tini", "--"]
