ARG ARCH=arm64v8
FROM multiarch/qemu-user-static:x86_64-aarch64 AS qemu
FROM ${ARCH}/alpine:3.20
COPY --from=qemu /usr/bin/qemu-aarch64-static /usr/bin/
ARG TARGETPLATFORM BUILDPLATFORM
RUN echo "on $BUILDPLATFORM for $TARGETPLATFORM" > /log && uname -m
RUN apk add --no-cache openssh
EXPOSE 22
