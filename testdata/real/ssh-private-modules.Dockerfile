# syntax=docker/dockerfile:1
FROM golang:1.23 AS build
RUN mkdir -p -m 0700 ~/.ssh && ssh-keyscan git.example.org >> ~/.ssh/known_hosts
RUN git config --global url."ssh://git@git.example.org/".insteadOf "https://git.example.org/"
WORKDIR /src
COPY go.mod go.sum .
RUN --mount=type=ssh,required --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --network=none --mount=type=cache,target=/go/pkg/mod,ro \
    --mount=type=tmpfs,target=/tmp,size=512m \
    go build -o /out/ ./...
FROM scratch
COPY --from=build /out/ /
