# syntax=docker/dockerfile:1.7-labs
FROM node:22-bookworm-slim AS base
WORKDIR /repo
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

FROM base AS manifests
COPY --parents package.json package-lock.json packages/*/package.json apps/*/package.json ./

FROM manifests AS install
RUN --mount=type=cache,target=/root/.npm \
    --mount=type=secret,id=npmrc,target=/root/.npmrc \
    npm ci --no-audit --no-fund

FROM install AS build
ARG APP
RUN test -n "$APP" || { echo "--build-arg APP=... is missing" >&2; exit 2; }
COPY --parents tsconfig*.json packages/./ apps/./ ./
RUN npx turbo run build --filter="@example/${APP}..." | tee /tmp/build.log

FROM base AS runtime
ARG APP
ENV NODE_ENV=production
COPY --from=install /repo/node_modules ./node_modules
COPY --from=build /repo/apps/ ./apps/
WORKDIR /repo/apps/${APP}
USER node
CMD node dist/main.js
