FROM fpco/stack-build:lts-22 AS dependencies
RUN mkdir /opt/build
WORKDIR /opt/build
COPY stack.yaml package.yaml stack.yaml.lock /opt/build/
RUN stack build --system-ghc --dependencies-only
FROM fpco/stack-build:lts-22 AS build
COPY --from=dependencies /root/.stack /root/.stack
COPY . /opt/build/
WORKDIR /opt/build
RUN stack build --system-ghc && \
    mv "$(stack path --local-install-root --system-ghc)/bin" /opt/build/bin
FROM ubuntu:22.04
RUN mkdir -p /opt/app
ARG BINARY_PATH
WORKDIR /opt/app
RUN apt-get update && apt-get install -y ca-certificates libgmp-dev
COPY --from=build /opt/build/bin .
CMD ["/opt/app/server"]
