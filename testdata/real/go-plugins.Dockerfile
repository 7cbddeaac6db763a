FROM golang:1.22 AS builder
WORKDIR $GOPATH/src/example.org/gateway
COPY go.* ./
COPY vendor vendor
COPY plugins plugins
COPY *.go ./
RUN for plugin in plugins/*; do \
        [ -d "$plugin" ] || continue; \
        go build -buildmode=plugin -o "/plugins/$(basename "$plugin").so" "./$plugin"; \
    done
RUN go build -mod=vendor -tags "netgo osusergo" -o /gateway .

FROM debian:12-slim
RUN set -eux; \
    apt-get update; \
    apt-get install -y --no-install-recommends ca-certificates tini; \
    rm -rf /var/lib/apt/lists/*
COPY --from=builder /gateway /usr/local/bin/
COPY --from=builder /plugins /usr/lib/gateway/plugins
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s --retries=5 \
    CMD ["/usr/local/bin/gateway", "probe"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["gateway"]
