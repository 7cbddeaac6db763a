ARG REGISTRY=registry.example.org
ARG NAMESPACE=base
ARG IMAGE=alpine
ARG TAG
ARG DIGEST
ARG SUFFIX=${TAG:+:$TAG}${DIGEST:+@$DIGEST}
ARG FLAVOUR=full

FROM ${REGISTRY}/${NAMESPACE}/${IMAGE}${SUFFIX:-:3.20} AS base
ARG FLAVOUR
ARG EMPTY=
ARG PREFIX=/usr/local
ARG BINDIR=${PREFIX}/bin
ARG A=1 B=2 C="$A$B"
ENV FLAVOUR=${FLAVOUR} \
    FLAVOUR_SHORT=${FLAVOUR%%-*} \
    BIN_NAME=${BINDIR##*/} \
    DASHED=${PREFIX//\//-} \
    FIRST=${PREFIX/usr/opt} \
    MAYBE=${EMPTY:-none} \
    SET=${EMPTY-unset} \
    ALT=${FLAVOUR:+yes}
LABEL flavour="${FLAVOUR}" sum="$C" quoted='$A' escaped=\$A
WORKDIR ${PREFIX}/${FLAVOUR:?must be set}

FROM base AS full
RUN echo full
FROM base AS slim
RUN echo slim
FROM ${FLAVOUR} AS final
ARG BINDIR=/bin
COPY --chown=${APP_UID:-1000}:${APP_GID:-1000} --chmod=${MODE:-0755} tool-${FLAVOUR}* ${BINDIR}/
USER ${APP_UID:-1000}:${APP_GID:-1000}
EXPOSE ${PORT:-8080}/tcp ${METRICS:-9090-9092}
STOPSIGNAL ${SIGNAL:-SIGTERM}
