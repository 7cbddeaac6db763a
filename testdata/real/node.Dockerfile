ARG NODE_VERSION=20.16.0
FROM node:${NODE_VERSION}-alpine as deps

WORKDIR /usr/src/app
COPY package.json package-lock.json* ./
RUN --mount=type=cache,id=npm,target=/root/.npm npm ci --omit=dev

FROM node:${NODE_VERSION}-alpine as build
WORKDIR /usr/src/app
COPY package*.json tsconfig.json ./
RUN npm ci
COPY src/ ./src/
COPY ["public files/", "./public files/"]
ENV NODE_ENV=production \
    NEXT_TELEMETRY_DISABLED=1
RUN npm run build && \
    npm prune --production

FROM node:${NODE_VERSION}-alpine
LABEL org.opencontainers.image.title="web" \
      org.opencontainers.image.description="A web \"front end\" \
with two lines" \
      maintainer='Web Team <web@example.org>'
ENV NODE_ENV production
ENV PORT=3000 HOST=0.0.0.0
WORKDIR /usr/src/app
COPY --from=deps /usr/src/app/node_modules ./node_modules
COPY --from=build /usr/src/app/dist ./dist
COPY docker/entrypoint.sh /entrypoint.sh
USER node
EXPOSE $PORT
VOLUME /usr/src/app/uploads /tmp/cache
ENTRYPOINT ["/entrypoint.sh"]
CMD node dist/server.js
